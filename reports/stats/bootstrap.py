"""Patient-level bootstrap: resamples, intervals, and p values.

Patients, not volumes, are drawn with replacement, since volumes of one patient are alike (cluster
bootstrap: Field and Welsh, J. R. Stat. Soc. B 2007; Davison and Hinkley, Bootstrap Methods and their
Application, 1997, section 3.8). A resample is a row of weights: how often each patient was drawn.

Of the draws only the spread is used. Average precision of a resample leans upwards, since copies of a positive
support one another, so the quantiles of the draws lie too high, and BCa (Efron, 1987) does not mend that in small
test parts: docs/statistics.md has the rates.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm

Floats = npt.NDArray[np.float64]


def patient_weights(n_patients: int, n_resamples: int, rng: np.random.Generator) -> Floats:
    """[n_resamples, n_patients]: how often each patient is drawn; every row sums to n_patients."""
    drawn = rng.integers(0, n_patients, (n_resamples, n_patients))
    flat = (drawn + n_patients * np.arange(n_resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=n_resamples * n_patients)
    return counts.reshape(n_resamples, n_patients).astype(np.float64)


def standard_error(draws: Floats) -> float:
    """Standard deviation of the draws [B]; NaN draws are left out. NaN where fewer than two are left."""
    known = draws[~np.isnan(draws)]
    return float(known.std(ddof=1)) if known.size > 1 else math.nan


def share_interval(estimate: float, error: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a number in [0, 1] from its standard error, symmetric in its logit, so that it stays inside.

    For the area under a precision-recall curve: Boyd, Eng and Page, ECML PKDD 2013, section 3.2.
    """
    if math.isnan(estimate) or math.isnan(error):
        return math.nan, math.nan
    if error == 0 or not 0 < estimate < 1:
        return estimate, estimate
    reach = float(norm.ppf((1 + level) / 2)) * error / (estimate * (1 - estimate))
    return float(expit(logit(estimate) - reach)), float(expit(logit(estimate) + reach))


def share_p(estimate: float, error: float, supposed: float) -> float:
    """Two-sided p value of "it is `supposed`", by which `share_interval` holds what has 5 % or more."""
    if math.isnan(estimate) or math.isnan(error):
        return math.nan
    if error == 0 or not 0 < estimate < 1:
        return float(estimate == supposed)
    reach = abs(logit(estimate) - logit(supposed)) * estimate * (1 - estimate)
    return float(2 * norm.sf(reach / error))


def difference_interval(difference: float, error: float, level: float = 0.95) -> tuple[float, float]:
    """The normal interval of a difference."""
    reach = float(norm.ppf((1 + level) / 2)) * error
    return difference - reach, difference + reach


def difference_p(difference: float, error: float) -> float:
    """Two-sided p value of "there is no difference", by the normal distribution; NaN where it is not known."""
    if math.isnan(difference) or math.isnan(error):
        return math.nan
    if error == 0:
        return 0.0 if difference else 1.0
    return float(2 * norm.sf(abs(difference) / error))
