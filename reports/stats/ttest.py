"""Corrected resampled t-test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student


@dataclass(frozen=True)
class TTest:
    """`p` is two-sided; all NaN where there are fewer than two differences."""

    t: float
    error: float  # standard error of the mean difference
    df: int
    p: float


def corrected_resampled_t(differences: npt.NDArray[np.float64], test_per_train: float) -> TTest:
    """Is the mean difference between two methods zero? `differences` [J], one a replicate: a fold of a
    split. Seeds on one split are no further replicates, but seeds with a split each are.

    t = mean / sqrt((1 / J + n_test / n_train) var), J - 1 degrees of freedom: replicates share training
    data, so their variance understates that of the mean (Nadeau and Bengio, Machine Learning 2003, equation
    9; for repeated cross-validation Bouckaert and Frank, PAKDD 2004, section 3.3). `test_per_train` is
    n_test / n_train of the split, 1 / (k - 1) for k folds, whatever part of the training labels a fraction
    then uses.
    """
    count = differences.size
    if count < 2 or math.isnan(test_per_train):
        return TTest(math.nan, math.nan, max(0, count - 1), math.nan)
    mean = float(differences.mean())
    error = math.sqrt((1 / count + test_per_train) * float(differences.var(ddof=1)))
    certain = math.copysign(math.inf, mean) if mean else 0.0  # every replicate says the same
    t = mean / error if error else certain
    return TTest(t, error, count - 1, float(2 * student.sf(abs(t), count - 1)))
