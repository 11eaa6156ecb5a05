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
    """NaN where a threshold is needed and not known."""

    auroc: float
    balanced_accuracy: float
    f1: float
    brier: float


def classification(labels: Ints, scores: Floats, thresholds: Floats) -> Classification:
    """`labels` [n], `scores` [n, 1] or [n, classes], `thresholds` [n]; at least two classes must be there.

    Two classes: class 1 is called where the score is not below the threshold. More: one-vs-rest, macro means over the
    classes present; the class called is that of the highest score.
    """
    if scores.shape[1] == 1:
        called = (scores[:, 0] >= thresholds).astype(np.int64)
        known = not np.isnan(thresholds).any()
        positives, area = [1], auroc(labels == 1, scores[:, 0])
    else:
        called = scores.argmax(axis=1).astype(np.int64)
        known = True
        positives = [int(c) for c in np.unique(labels)]
        area = float(np.mean([auroc(labels == c, scores[:, c]) for c in positives]))
    recalls = [np.mean(called[labels == c] == c) for c in np.unique(labels)]
    return Classification(
        auroc=area,
        balanced_accuracy=float(np.mean(recalls)) if known else math.nan,
        f1=float(np.mean([_f1(labels == c, called == c) for c in positives])) if known else math.nan,
        brier=brier(labels, scores),
    )


def auroc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve by the Mann-Whitney statistic (Hanley and McNeil, Radiology 1982); ties count half."""
    n_positive = int(positive.sum())
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (positive.size - n_positive)))


def _f1(positive: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_]) -> float:
    either = int(positive.sum()) + int(called.sum())
    return 2 * int((positive & called).sum()) / either if either else 0.0
