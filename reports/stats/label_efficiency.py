"""How many labels the baseline needs to do what a method does with few."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def labels_to_reach(labels: Floats, curve: Floats, target: Floats) -> Floats:
    """The smallest number of labels at which a learning curve reaches a target.

    `labels` [F] ascending; `curve` [B, F] the baseline's AUPRC there; `target` [B]. Between two points the
    curve is straight in log(labels), the usual picture of a learning curve. Returns [B]: labels[0] where
    the target is reached at once (read "at most"), infinity where it is never reached within the curve, NaN
    where target or curve is unknown.
    """
    logs = np.log(labels)
    unknown = np.isnan(target) | np.isnan(curve).any(axis=1)
    at_once = curve[:, 0] >= target  # [B]
    reached = np.where(at_once, logs[0], np.inf)
    for left in range(len(labels) - 1):
        rise = curve[:, left + 1] - curve[:, left]
        crosses = (curve[:, left] < target) & (curve[:, left + 1] >= target) & np.isinf(reached)
        share = np.divide(target - curve[:, left], rise, out=np.zeros_like(rise), where=crosses)
        reached = np.where(crosses, logs[left] + share * (logs[left + 1] - logs[left]), reached)
    # exp(log(30)) is a little more than 30, and "at once" must not read as "by 30".
    result: Floats = np.where(unknown, np.nan, np.where(at_once, labels[0], np.exp(reached)))
    return result
