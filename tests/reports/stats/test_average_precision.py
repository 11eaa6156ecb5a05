"""The vectorised average precision against scikit-learn's."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from voxbench.reports.stats.average_precision import (
    average_precision,
    macro_average_precision,
    no_skill,
    prevalence,
    shuffled,
)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=40),
)
def test_equals_sklearn_with_ties_and_weights(units: list[tuple[bool, int, int]]) -> None:
    positive = np.array([unit[0] for unit in units])
    scores = np.array([unit[1] / 6 for unit in units])  # few values, so many ties
    weights = np.array([[1.0] * len(units), [float(unit[2]) for unit in units]])
    ours = average_precision(positive, scores, weights)
    for row, value in zip(weights, ours, strict=True):
        if row[positive].sum() == 0 or row[~positive].sum() == 0:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(average_precision_score(positive, scores, sample_weight=row), abs=1e-12)


def test_a_weight_is_a_number_of_copies() -> None:
    rng = np.random.default_rng(0)
    positive, scores = rng.random(50) < 0.4, np.round(rng.random(50), 1)
    picked = rng.integers(0, 50, 50)
    weights = np.bincount(picked, minlength=50)[None].astype(float)
    copied = average_precision_score(positive[picked], scores[picked])
    assert average_precision(positive, scores, weights)[0] == pytest.approx(copied, abs=1e-12)


def test_macro_equals_sklearn() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 4, 200), np.round(rng.random((200, 4)), 2)
    expected = average_precision_score(np.eye(4)[labels], scores, average="macro")
    assert macro_average_precision(labels, scores)[0] == pytest.approx(expected, abs=1e-12)


def test_macro_leaves_out_an_absent_class() -> None:
    labels, scores = np.array([0, 1, 0, 1]), np.random.default_rng(0).random((4, 3))
    expected = np.mean([average_precision_score(labels == c, scores[:, c]) for c in (0, 1)])
    assert macro_average_precision(labels, scores)[0] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(macro_average_precision(np.array([2, 2, 2, 2]), scores)[0])


def test_constant_scores_give_the_prevalence() -> None:
    labels = np.array([0, 1, 1, 0, 0])
    assert macro_average_precision(labels, np.full((5, 1), 0.3))[0] == pytest.approx(prevalence(labels, 1), abs=1e-15)
    labels = np.array([0, 1, 2, 0])
    assert macro_average_precision(labels, np.full((4, 3), 0.3))[0] == pytest.approx(prevalence(labels, 3), abs=1e-15)


def test_no_skill_is_the_mean_over_all_rankings() -> None:
    labels = np.array([1, 0, 0, 1, 0, 0])
    every = [average_precision(labels == 1, np.array(order, dtype=np.float64))[0] for order in permutations(range(6))]
    assert no_skill(labels, 1) == pytest.approx(np.mean(every))
    assert no_skill(labels, 1) > prevalence(labels, 1) + 0.15  # in so small a test part
    drawn = shuffled(labels, 1, 20_000, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.005)
    assert np.quantile(drawn, [0.1, 0.9]) == pytest.approx(np.quantile(every, [0.1, 0.9]))
    three = np.array([0, 1, 2, 0, 1, 2, 0, 0, 0, 0])
    assert no_skill(three, 3) == pytest.approx(shuffled(three, 3, 20_000, np.random.default_rng(0)).mean(), abs=0.005)
