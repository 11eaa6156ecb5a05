"""Metrics of one cell, by scikit-learn, on units of which none was trained or selected on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
    roc_curve,
)

from voxbench.datasets.base import Item

Scores = npt.NDArray[np.float64]


class UndefinedMetricError(ValueError):
    """A test or validation part in which a class is missing has no average precision."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores a unit (crops of one unit averaged)."""

    items: tuple[Item, ...]  # one of each unit's
    labels: npt.NDArray[np.int64]  # [N]
    scores: Scores  # [N, K] probabilities


def by_unit(items: Sequence[Item], scores: Scores) -> Scored:
    """Averages scores [M, K] over the items of each unit. Raises ValueError where crops of a unit differ in label."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        rows[item.scored_unit].append(row)
    labels = []
    for members in rows.values():
        found = {items[row].label for row in members}
        if len(found) != 1 or None in found:
            raise ValueError(f"the crops of one unit carry different labels, or none: {sorted(map(str, found))}")
        labels.append(items[members[0]].label)
    return Scored(
        items=tuple(items[members[0]] for members in rows.values()),
        labels=np.array(labels, dtype=np.int64),
        scores=np.stack([scores[members].mean(axis=0) for members in rows.values()]).astype(np.float64),
    )


def choose_threshold(val: Scored) -> float | None:
    """The score that divides the classes best on validation: largest sensitivity + specificity (Youden, 1950).

    None where validation has one class only.
    """
    if len(np.unique(val.labels)) < 2:
        return None
    false_positive, true_positive, thresholds = roc_curve(val.labels, val.scores[:, 1])
    best = int(np.argmax(true_positive - false_positive))
    # roc_curve's first threshold is infinite: it calls everything negative.
    return float(min(thresholds[best], 1.0))


def called(scores: Scores, shares: Sequence[float], threshold: float | None = None) -> npt.NDArray[np.int64]:
    """[N] the class that `scores` [N, K] call: of two classes 1 from `threshold` on, if one was chosen.

    Else the class whose probability stands highest above its share of the training labels, `shares` [K]: of two
    classes 1 from its share on. That is the best call where classes count the same, as in balanced accuracy; at 0.5 a
    rare class would hardly ever be called.
    """
    if threshold is not None and scores.shape[1] == 2:
        return np.asarray(scores[:, 1] >= threshold, dtype=np.int64)
    above = scores / np.asarray(shares)  # [N, K]
    decided = above[:, 1] >= above[:, 0] if scores.shape[1] == 2 else above.argmax(axis=1)
    return np.asarray(decided, dtype=np.int64)


def metrics(test: Scored, shares: Sequence[float], threshold: float | None = None) -> dict[str, float]:
    """AUPRC (average precision), AUROC, balanced accuracy, F1, Brier score and prevalence.

    Two classes: class 1 is positive. More classes: one-vs-rest, macro means, and the Brier score is the sum over
    classes (Brier, 1950). Balanced accuracy and F1 are of the class that `called` gives with `shares` and `threshold`.
    Raises UndefinedMetricError where a class is missing from the test part.
    """
    classes = test.scores.shape[1]
    present = np.bincount(test.labels, minlength=classes)
    if (present == 0).any():
        raise UndefinedMetricError(
            f"class {int(np.argmin(present))} is missing from the {len(test.labels)} test units: AUPRC is undefined; "
            "use fewer folds or add data"
        )
    if not np.isfinite(test.scores).all():
        raise UndefinedMetricError("scores are not finite: the model diverged in fine-tuning; lower finetune.lr")
    onehot = np.eye(classes)[test.labels]  # [N, K]
    decided = called(test.scores, shares, threshold)
    if classes == 2:
        positive = test.scores[:, 1]
        auprc = average_precision_score(test.labels, positive)
        auroc = roc_auc_score(test.labels, positive)
        f1 = f1_score(test.labels, decided, zero_division=0.0)
        brier = np.mean((positive - test.labels) ** 2)
        prevalence = present[1] / present.sum()
    else:
        auprc = average_precision_score(onehot, test.scores, average="macro")
        auroc = roc_auc_score(onehot, test.scores, average="macro")
        f1 = f1_score(test.labels, decided, average="macro", zero_division=0.0)
        brier = np.mean(((test.scores - onehot) ** 2).sum(axis=1))
        prevalence = np.mean(present / present.sum())
    values: dict[str, Any] = {
        "auprc": auprc,
        "auroc": auroc,
        "balanced_accuracy": balanced_accuracy_score(test.labels, decided),
        "f1": f1,
        "brier": brier,
        "prevalence": prevalence,
    }
    return {name: float(value) for name, value in values.items()}
