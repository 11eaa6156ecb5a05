"""Which findings are found, and which are missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxbench.reports.stats.bootstrap import percentile_interval

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A share with its interval and the units and patients behind it."""

    value: float
    low: float
    high: float
    n_patients: int


def weighted_share(hit: npt.NDArray[np.bool_], patient: npt.NDArray[np.int64], weights: Floats) -> Share:
    """Share of units `hit` [n], with the percentile interval of a patient bootstrap.

    `patient` [n] indexes the columns of `weights` [B, patients]. At least one unit is needed.
    """
    patients, inverse = np.unique(patient, return_inverse=True)
    units = np.bincount(inverse).astype(np.float64)
    hits = np.bincount(inverse, hit.astype(np.float64))
    weight = weights[:, patients]
    total = weight @ units  # [B]
    draws = np.divide(weight @ hits, total, out=np.full_like(total, np.nan), where=total > 0)
    low, high = percentile_interval(draws)
    return Share(float(hit.mean()), low, high, len(patients))
