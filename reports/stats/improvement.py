"""How often one method beats another."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def probability_of_improvement(differences: npt.NDArray[np.float64]) -> float:
    """Share of paired replicates [J] in which the first method is ahead, a tie counting half.

    Bouthillier et al., MLSys 2021, section 4 (P(A > B), paired); the half for ties as in the Mann-Whitney
    statistic. NaN without replicates.
    """
    if differences.size == 0:
        return math.nan
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))
