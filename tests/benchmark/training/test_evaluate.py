"""Metrics against hand-computed values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from voxbench.benchmark.training.evaluate import (
    Scored,
    UndefinedMetricError,
    by_unit,
    called,
    choose_threshold,
    metrics,
)
from voxbench.datasets.base import Item

EQUAL = [0.5, 0.5]


def scored(labels: list[int], positive: list[float]) -> Scored:
    p = np.array(positive)
    items = tuple(Item(volume=str(i), patient=str(i), label=label) for i, label in enumerate(labels))
    return Scored(items=items, labels=np.array(labels), scores=np.stack([1 - p, p], axis=1))


def test_average_precision_by_hand() -> None:
    # Ranked: 1, 0, 1, 0. Precision at the two positives: 1/1 and 2/3.
    values = metrics(scored([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]), EQUAL, 0.75)
    assert values["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["auroc"] == pytest.approx(3 / 4)
    # At 0.75: one true and one false positive, one false and one true negative.
    assert values["balanced_accuracy"] == pytest.approx(0.5)
    assert values["f1"] == pytest.approx(0.5)
    assert values["brier"] == pytest.approx((0.01 + 0.64 + 0.09 + 0.01) / 4)
    assert values["prevalence"] == 0.5


def test_multi_class_is_macro_one_vs_rest() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 2] * 10)
    raw = rng.random((30, 3)) + 0.4 * np.eye(3)[labels]
    scores = raw / raw.sum(axis=1, keepdims=True)
    items = tuple(Item(volume=str(i), patient=str(i), label=int(k)) for i, k in enumerate(labels))
    values = metrics(Scored(items=items, labels=labels, scores=scores), [1 / 3] * 3)
    assert values["auprc"] == pytest.approx(
        np.mean([average_precision_score(labels == k, scores[:, k]) for k in range(3)])
    )
    assert values["prevalence"] == pytest.approx(1 / 3)
    assert values["brier"] == pytest.approx(np.mean(((scores - np.eye(3)[labels]) ** 2).sum(axis=1)))


def test_crops_of_a_unit_are_averaged_before_scoring() -> None:
    items = [Item(volume=f"c{i}", patient="p", label=1, unit="sinus") for i in range(3)]
    items.append(Item(volume="single", patient="q", label=0))
    result = by_unit(items, np.array([[0.2, 0.8], [0.4, 0.6], [0.3, 0.7], [0.9, 0.1]]))
    assert result.scores == pytest.approx(np.array([[0.3, 0.7], [0.9, 0.1]]))
    assert result.labels.tolist() == [1, 0]


def test_crops_with_different_labels_are_refused() -> None:
    items = [Item(volume=f"c{i}", patient="p", label=i, unit="sinus") for i in range(2)]
    with pytest.raises(ValueError, match="different labels"):
        by_unit(items, np.zeros((2, 2)))


def test_threshold_is_youdens_on_validation() -> None:
    assert choose_threshold(scored([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])) in (0.35, 0.8)
    assert choose_threshold(scored([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8])) == 0.6
    assert (choose_threshold(scored([0, 1], [0.5, 0.5])) or 2.0) <= 1.0
    assert choose_threshold(scored([0, 0], [0.1, 0.2])) is None


def test_a_class_is_called_from_its_share_in_training_on() -> None:
    scores = np.array([[0.95, 0.05], [0.9, 0.1], [0.6, 0.4]])
    assert called(scores, [0.9, 0.1]).tolist() == [0, 1, 1]
    assert called(scores, [0.9, 0.1], 0.3).tolist() == [0, 0, 1]  # one that was chosen goes before
    assert called(np.array([[0.7, 0.2, 0.1], [0.85, 0.1, 0.05]]), [0.8, 0.1, 0.1]).tolist() == [1, 0]


def test_missing_class_and_broken_scores_are_named() -> None:
    with pytest.raises(UndefinedMetricError, match="class 1 is missing"):
        metrics(scored([0, 0], [0.1, 0.2]), EQUAL)
    with pytest.raises(UndefinedMetricError, match="not finite"):
        metrics(scored([0, 1], [0.1, float("nan")]), EQUAL)
