"""Patient-level bootstrap: resamples, intervals, and p values.

Patients, not volumes, are drawn with replacement, since volumes of one patient are alike (cluster
bootstrap: Field and Welsh, J. R. Stat. Soc. B 2007; Davison and Hinkley, Bootstrap Methods and their
Application, 1997, section 3.8). A resample is a row of weights: how often each patient was drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Floats = npt.NDArray[np.float64]


def patient_weights(n_patients: int, n_resamples: int, rng: np.random.Generator) -> Floats:
    """[n_resamples, n_patients]: how often each patient is drawn; every row sums to n_patients."""
    drawn = rng.integers(0, n_patients, (n_resamples, n_patients))
    flat = (drawn + n_patients * np.arange(n_resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=n_resamples * n_patients)
    return counts.reshape(n_resamples, n_patients).astype(np.float64)


def leave_one_out_weights(n_patients: int) -> Floats:
    """[n_patients, n_patients]: row i is every patient once, except patient i."""
    return 1.0 - np.eye(n_patients)


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of the draws [B] (Efron, 1979). NaN draws are left out; NaN where none is left."""
    known = draws[~np.isnan(draws)]
    if known.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class BCa:
    """Bias-corrected and accelerated bootstrap of one statistic (Efron, J. Am. Stat. Assoc. 1987).

    Average precision of a resample leans upwards (copies of a positive support one another), the more so
    the weaker the scores: without a correction, intervals lie too high and those of differences too near to
    zero.
    """

    draws: Floats  # [B], finite
    bias: float  # z0; 0 where it is not defined, which gives the percentile interval
    acceleration: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval; NaN where there are no draws."""
        if self.draws.size == 0:
            return math.nan, math.nan
        tails = self.bias + norm.ppf([(1 - level) / 2, (1 + level) / 2])
        shares = np.asarray(norm.cdf(self.bias + tails / (1 - self.acceleration * tails)))
        low, high = np.quantile(self.draws, shares)
        return float(low), float(high)

    def p(self) -> float:
        """Two-sided p value of "the statistic is zero": 1 - the level at which the interval begins to hold
        zero.

        Never below 2 / (B + 1), what B draws can show (Davison and Hinkley, 1997, equation 4.11).
        """
        count = self.draws.size
        if count == 0:
            return math.nan
        below = (np.mean(self.draws < 0) + np.mean(self.draws <= 0)) / 2
        if not 0 < below < 1:
            return 1.0 if self.draws.min() == self.draws.max() == 0 else 2 / (count + 1)
        shifted = float(norm.ppf(below)) - self.bias
        tail = float(norm.cdf(shifted / (1 + self.acceleration * shifted) - self.bias))
        return min(1.0, max(2 / (count + 1), 2 * min(tail, 1 - tail)))


def bca(estimate: float, draws: Floats, left_one_out: Floats) -> BCa:
    """From the `estimate`, its `draws` [B], and its values with each patient left out in turn [P].

    NaN draws are left out. Where the draws do not surround the estimate the corrections are not defined,
    and 0.
    """
    known = draws[~np.isnan(draws)]
    jackknife = left_one_out[~np.isnan(left_one_out)]
    if known.size == 0 or math.isnan(estimate):
        return BCa(known[:0], 0.0, 0.0)
    below = (np.mean(known < estimate) + np.mean(known <= estimate)) / 2
    deviation = jackknife.mean() - jackknife if jackknife.size else np.zeros(1)
    spread = float((deviation**2).sum())
    if not 0 < below < 1 or spread == 0:
        return BCa(known, 0.0, 0.0)
    return BCa(known, float(norm.ppf(below)), float((deviation**3).sum()) / (6 * spread**1.5))
