"""AUROC, balanced accuracy, F1 and Brier score of one cell, as scikit-learn defines them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from voxbench.reports.stats.calibration import brier

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Classification:
    """Balanced accuracy and F1 are NaN where the class called is not known."""

    auroc: float
    balanced_accuracy: float
    f1: float
    brier: float


def classification(labels: Ints, scores: Floats, called: Ints | None) -> Classification:
    """`labels` [n], `scores` [n, 1] or [n, classes], `called` [n] the class called; at least two classes must be there.

    Two classes: class 1 is positive. More: one-vs-rest, macro means over the classes present.
    """
    present = [int(c) for c in np.unique(labels)]
    if scores.shape[1] == 1:
        positives, area = [1], auroc(labels == 1, scores[:, 0])
    else:
        positives, area = present, float(np.mean([auroc(labels == c, scores[:, c]) for c in present]))
    balanced = f1 = math.nan
    if called is not None:
        balanced = float(np.mean([np.mean(called[labels == c] == c) for c in present]))
        f1 = float(np.mean([_f1(labels == c, called == c) for c in positives]))
    return Classification(auroc=area, balanced_accuracy=balanced, f1=f1, brier=brier(labels, scores))


def auroc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve by the Mann-Whitney statistic (Hanley and McNeil, Radiology 1982); ties count half."""
    n_positive = int(positive.sum())
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (positive.size - n_positive)))


def _f1(positive: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_]) -> float:
    either = int(positive.sum()) + int(called.sum())
    return 2 * int((positive & called).sum()) / either if either else 0.0
