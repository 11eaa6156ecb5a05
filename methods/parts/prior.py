"""Probabilities at the classes' own shares, from a model whose classes were weighted to count the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def at_own_shares(probabilities: Floats, counts: Ints) -> Floats:
    """Takes class weights N / (K N_c) out of `probabilities` [N, K]; `counts` [K] are the N_c, none of them 0.

    Such weights train a model for classes of one size: p_c stands for N_c p_c, up to a common factor (Elkan, IJCAI
    2001, theorem 2). Of two classes that is a shift of the logit by log(N_1 / N_0), so no ranking changes.
    """
    weighted = probabilities * counts  # [N, K]
    result: Floats = weighted / weighted.sum(axis=1, keepdims=True)
    return result
