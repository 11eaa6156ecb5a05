"""Every statistic against an independent implementation, a published example, or a simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from voxbench.reports.stats.bootstrap import (
    difference_interval,
    difference_p,
    patient_weights,
    share_interval,
    standard_error,
)
from voxbench.reports.stats.calibration import brier, reliability
from voxbench.reports.stats.classification import classification
from voxbench.reports.stats.holm import holm
from voxbench.reports.stats.improvement import probability_of_improvement
from voxbench.reports.stats.label_efficiency import labels_to_reach
from voxbench.reports.stats.ranks import indistinct_groups, rank_test, shared_ranks
from voxbench.reports.stats.recall import weighted_share
from voxbench.reports.stats.summary import summarise
from voxbench.reports.stats.ttest import corrected_resampled_t


def test_summary() -> None:
    assert summarise([1.0, 2.0, 4.0]).std == pytest.approx(scipy.stats.tstd([1.0, 2.0, 4.0]))
    assert math.isnan(summarise([1.0]).std)
    assert summarise([]).n == 0


def test_the_standard_error_is_that_of_resampled_patients() -> None:
    values = np.random.default_rng(3).gamma(0.7, size=40)
    draws = patient_weights(40, 20_000, np.random.default_rng(5)) @ values / 40
    assert standard_error(draws) == pytest.approx(values.std() / math.sqrt(40), rel=0.02)
    assert standard_error(np.append(draws, math.nan)) == standard_error(draws)
    assert math.isnan(standard_error(np.array([1.0, math.nan])))


def test_the_interval_of_a_share_is_symmetric_in_its_logit_and_stays_inside() -> None:
    low, high = share_interval(0.9, 0.05)
    assert scipy.special.logit([low, high]).mean() == pytest.approx(scipy.special.logit(0.9))
    assert scipy.special.logit(high) - scipy.special.logit(0.9) == pytest.approx(1.959964 * 0.05 / 0.09)
    assert 0 <= share_interval(0.02, 0.5)[0] < share_interval(0.98, 0.5)[1] <= 1
    assert share_interval(1.0, 0.0) == (1.0, 1.0)
    assert all(map(math.isnan, share_interval(math.nan, 0.1)))


def test_p_is_the_level_at_which_the_interval_meets_zero() -> None:
    p = difference_p(0.05, 0.03)
    assert difference_interval(0.05, 0.03, 1 - p)[0] == pytest.approx(0, abs=1e-12)
    assert (difference_p(0.0, 0.0), difference_p(0.1, 0.0)) == (1.0, 0.0)
    assert math.isnan(difference_p(0.1, math.nan))


def test_corrected_t() -> None:
    apart = np.array([0.04, 0.01, 0.06, -0.01, 0.03])
    plain = scipy.stats.ttest_1samp(apart, 0)
    uncorrected = corrected_resampled_t(apart, 0.0)
    assert (uncorrected.t, uncorrected.df) == pytest.approx((plain.statistic, plain.df))
    assert uncorrected.p == pytest.approx(plain.pvalue)
    # By hand for 5 folds: mean 0.026, variance 0.00073, t = 0.026 / sqrt(0.00073 (1 / 5 + 1 / 4)).
    corrected = corrected_resampled_t(apart, 0.25)
    assert corrected.t == pytest.approx(0.026 / math.sqrt(0.00073 * 0.45))
    assert corrected.p == pytest.approx(2 * scipy.stats.t.sf(corrected.t, 4))


def test_corrected_t_rejects_less_often_than_plain_where_training_data_overlap() -> None:
    """Simulated 5-fold replicates of no effect with the correlation that the correction assumes."""
    rng = np.random.default_rng(0)
    rho = 0.2  # n_test / (n_train + n_test) for five folds
    shared = rng.normal(size=(4000, 1)) * math.sqrt(rho)
    apart = shared + rng.normal(size=(4000, 5)) * math.sqrt(1 - rho)
    corrected = np.mean([corrected_resampled_t(row, 0.25).p < 0.05 for row in apart])
    plain = np.mean([corrected_resampled_t(row, 0.0).p < 0.05 for row in apart])
    assert 0.035 < corrected < 0.065
    assert plain > 0.1


def test_corrected_t_without_spread_or_replicates() -> None:
    assert corrected_resampled_t(np.zeros(5), 0.25).p == 1.0
    assert corrected_resampled_t(np.full(5, 0.5), 0.25).p == 0.0
    assert math.isnan(corrected_resampled_t(np.array([0.1]), 0.25).p)
    assert math.isnan(corrected_resampled_t(np.zeros(0), 0.25).p)


def test_holm_equals_statsmodels() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.6]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([0.01, math.nan, 0.04]) == pytest.approx((0.02, math.nan, 0.04), nan_ok=True)
    assert holm([]) == ()


def test_probability_of_improvement() -> None:
    assert probability_of_improvement(np.array([0.1, 0.0, -0.2, 0.3])) == 0.625
    ours, theirs = np.array([0.7, 0.6, 0.5]), np.array([0.5, 0.6, 0.9])
    every_pair = (ours[:, None] - theirs).ravel()
    u = scipy.stats.mannwhitneyu(ours, theirs).statistic
    assert probability_of_improvement(every_pair) == pytest.approx(u / 9)
    assert math.isnan(probability_of_improvement(np.zeros(0)))


# AUC of four variants of C4.5 on 14 data sets: Demsar, JMLR 2006, table 6.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],  # equal as printed, but ranked 2 and 3 in the paper
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_ranks_equal_the_published_example() -> None:
    test = rank_test(DEMSAR)
    assert test.ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert test.critical_difference == pytest.approx(1.25, abs=5e-3)
    friedman = scipy.stats.friedmanchisquare(*DEMSAR.T)
    assert test.chi2 == pytest.approx(friedman.statistic)
    assert test.p == pytest.approx(friedman.pvalue, abs=0.01)
    assert test.p < 0.05
    assert indistinct_groups(test.ranks, test.critical_difference) == [(3, 1, 2, 0)]
    assert indistinct_groups(test.ranks, 1.0) == [(3, 1, 2), (2, 0)]
    uncorrected = 12 * 14 / 20 * ((test.ranks**2).sum() - 25)  # the paper leaves ties uncorrected
    assert uncorrected == pytest.approx(9.28, abs=5e-3)


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)])
def test_critical_values_equal_the_published_table(k: int, q: float) -> None:
    scores = np.random.default_rng(0).random((6, k))  # with N = 6 blocks CD = q sqrt(k (k + 1) / 36)
    assert rank_test(scores).critical_difference / math.sqrt(k * (k + 1) / 36) == pytest.approx(q, abs=1e-3)


def test_ranks_where_all_is_tied() -> None:
    test = rank_test(np.ones((6, 3)))
    assert (test.chi2, test.p) == (0.0, 1.0)
    assert shared_ranks(["a", "b", "c"], {"b": ["a"], "c": ["a"]}) == {"a": 1, "b": 2, "c": 2}


def test_labels_to_reach() -> None:
    labels = np.array([40.0, 160.0, 640.0])
    curve = np.array([[0.6, 0.7, 0.9]] * 5)
    needed = labels_to_reach(labels, curve, np.array([0.65, 0.8, 0.5, 0.95, math.nan]))
    assert needed == pytest.approx([80.0, 320.0, 40.0, math.inf, math.nan], nan_ok=True)
    targets = np.linspace(0.6, 0.9, 30)
    inverse = np.exp(np.interp(targets, curve[0], np.log(labels)))
    assert labels_to_reach(labels, np.repeat(curve[:1], 30, axis=0), targets) == pytest.approx(inverse)
    thirty = labels_to_reach(np.array([30.0, 90.0]), np.array([[0.6, 0.9]]), np.array([0.5]))
    assert thirty[0] == 30.0  # not exp(log(30)), which is more: the page says "at most"
    dips = np.array([[0.6, 0.55, 0.9]])  # a curve that falls first reaches 0.6 at once, not later
    assert labels_to_reach(labels, dips, np.array([0.6])) == pytest.approx([40.0])


def test_calibration_equals_sklearn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(500)
    positive = rng.random(500) < scores**2
    ours = reliability(positive.astype(np.int64), scores[:, None], np.arange(500))
    observed, predicted = calibration_curve(positive, scores, n_bins=10, strategy="quantile")
    assert ours.observed == pytest.approx(observed)
    assert ours.predicted == pytest.approx(predicted)
    by_hand = sum(c / 500 * abs(o - p) for c, o, p in zip(ours.counts, ours.observed, ours.predicted, strict=True))
    assert ours.expected_error == pytest.approx(by_hand)
    assert brier(positive.astype(np.int64), scores[:, None]) == pytest.approx(brier_score_loss(positive, scores))
    labels, three = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    assert brier(labels, three) == pytest.approx(((np.eye(3)[labels] - three) ** 2).sum(axis=1).mean())


def test_constant_scores_make_one_bin() -> None:
    ours = reliability(np.array([1, 0, 0, 0]), np.full((4, 1), 0.4), np.arange(4))
    assert (ours.observed.tolist(), ours.predicted.tolist()) == ([0.25], [0.4])


def test_recall_resamples_patients_not_units() -> None:
    patient = np.repeat(np.arange(30), 4)
    hit = np.repeat(np.arange(30) % 3 == 0, 4)  # four equal units a patient: 30 facts, not 120
    weights = patient_weights(30, 4000, np.random.default_rng(0))
    share = weighted_share(hit, patient, weights)
    assert share.value == pytest.approx(1 / 3)
    assert share.n_patients == 30
    expected = scipy.stats.binomtest(10, 30).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_recall_of_few_patients_has_an_interval_where_all_are_hit() -> None:
    share = weighted_share(np.ones(4, dtype=bool), np.arange(4), patient_weights(4, 200, np.random.default_rng(0)))
    expected = scipy.stats.binomtest(4, 4).proportion_ci(method="wilson")
    assert (share.value, share.low, share.high) == pytest.approx((1.0, expected.low, 1.0))


def test_resamples_keep_the_number_of_patients() -> None:
    weights = patient_weights(17, 50, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 17).all()
    assert all((a != b).any() for a, b in pairwise(weights))


def test_classification_equals_sklearn() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 80), np.round(rng.random(80), 1)
    called = (scores >= 0.4).astype(int)
    ours = classification(labels, scores[:, None], called)
    assert ours.auroc == pytest.approx(roc_auc_score(labels, scores))
    assert ours.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, called))
    assert ours.f1 == pytest.approx(f1_score(labels, called))
    assert math.isnan(classification(labels, scores[:, None], None).f1)
    labels, three = rng.integers(0, 3, 80), rng.dirichlet(np.ones(3), 80)
    called = three.argmax(axis=1)
    ours = classification(labels, three, called)
    assert ours.auroc == pytest.approx(roc_auc_score(np.eye(3)[labels], three, average="macro"))
    assert ours.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, called))
    assert ours.f1 == pytest.approx(f1_score(labels, called, average="macro"))
