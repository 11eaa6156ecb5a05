"""Which findings are found, and which are missed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from voxbench.reports.stats.bootstrap import standard_error

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A share with its interval and the units and patients behind it."""

    value: float
    low: float
    high: float
    n_patients: int


def weighted_share(hit: npt.NDArray[np.bool_], patient: npt.NDArray[np.int64], weights: Floats) -> Share:
    """Share of units `hit` [n], with Wilson's interval (J. Am. Stat. Assoc. 1927).

    `patient` [n] indexes the columns of `weights` [B, patients]. The interval counts as many facts as would give the
    spread of the patient bootstrap (Korn and Graubard, Survey Methodology 1998), never fewer than patients: where all
    or none are hit the bootstrap has no spread, and its percentiles are too narrow for few patients in any case. At
    least one unit is needed.
    """
    patients, inverse = np.unique(patient, return_inverse=True)
    units = np.bincount(inverse).astype(np.float64)
    hits = np.bincount(inverse, hit.astype(np.float64))
    weight = weights[:, patients]
    total = weight @ units  # [B]
    draws = np.divide(weight @ hits, total, out=np.full_like(total, np.nan), where=total > 0)
    value, error = float(hit.mean()), standard_error(draws)
    facts = max(float(len(patients)), value * (1 - value) / error**2 if error > 0 else 0.0)
    return Share(value, *wilson(value, min(facts, float(hit.size))), len(patients))


def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of `count` independent facts."""
    z = float(norm.ppf((1 + level) / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - reach), min(1.0, centre + reach)
