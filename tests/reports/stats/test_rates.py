"""What each statistic promises, held by small simulations; docs/statistics.md has the rates of the large ones."""

import math
from dataclasses import replace

import claims
import coverage
import numpy as np
import pytest
from study import Design, simulate

from voxbench.reports.judging.analysis import analyse
from voxbench.reports.judging.comparison import family
from voxbench.reports.stats.bootstrap import difference_p, patient_weights
from voxbench.reports.stats.calibration import reliability
from voxbench.reports.stats.power import Planned, planned_difference, smallest_difference
from voxbench.reports.stats.ranks import rank_test
from voxbench.reports.stats.recall import weighted_share
from voxbench.reports.stats.ttest import corrected_resampled_t


@pytest.mark.parametrize(("folds", "seeds"), [(5, 3), (3, 10)])
def test_seeds_on_one_split_are_no_replicates(folds: int, seeds: int) -> None:
    """Variance between folds, correlated as the correction has it; with every seed counted, far too many pass."""
    rng = np.random.default_rng(0)
    of_fold = math.sqrt(1 / folds) * rng.normal(size=(3000, 1, 1)) + math.sqrt(1 - 1 / folds) * rng.normal(
        size=(3000, folds, 1)
    )
    apart = of_fold + 0.2 * rng.normal(size=(3000, folds, seeds))
    ratio = 1 / (folds - 1)
    averaged = np.mean([corrected_resampled_t(one.mean(axis=1), ratio).p < 0.05 for one in apart])
    counted = np.mean([corrected_resampled_t(one.ravel(), ratio).p < 0.05 for one in apart])
    assert averaged < 0.06
    assert counted > 0.12


def test_splits_that_seeds_share_are_known_by_whom_they_test() -> None:
    rng = np.random.default_rng(0)
    design = Design(patients=60, folds=3, seeds=2, fractions=(1.0,), methods=2)
    own, shared, official = (
        simulate(Design(**{**vars(design), **{kind: True}}) if kind else design, rng)
        for kind in ("", "shared_splits", "official")
    )
    assert [grid.seeds_share_splits for grid in (own, shared, official)] == [False, True, False]
    df = {}
    for name, grid in (("own", own), ("shared", shared), ("official", official)):
        ((pair,),) = analyse(grid, 20).comparisons.values()
        df[name] = pair.t_df
    assert df == {"own": 5, "shared": 2, "official": 1}


@pytest.mark.parametrize("kind", ["", "shared_splits", "official"])
def test_nothing_is_called_separable_where_nothing_is(kind: str) -> None:
    seeds = 3 if kind == "official" else 2
    design = Design(patients=80, folds=3, seeds=seeds, methods=3, yardsticks=2, fractions=(0.2, 1.0))
    found = claims.rates(replace(design, **{kind: True}) if kind else design, 60, n_resamples=100)
    assert found.separable < 0.1
    assert found.bootstrap > found.both  # trained again, many a lead is gone
    assert found.t_test < 0.08 or kind == "official"  # whose seeds share a training part: not asked of one pair


def test_no_row_of_a_table_without_skill_is_called_better_than_none() -> None:
    design = Design(patients=80, folds=3, methods=3, yardsticks=2, fractions=(0.2, 1.0), signal=0.0)
    found = claims.rates(design, 60, n_resamples=100)
    assert found.skill < 0.1
    assert found.table < 0.12


def test_the_family_is_what_is_concluded_from() -> None:
    grid = simulate(Design(patients=60, folds=3, fractions=(1.0,), methods=3, yardsticks=3), np.random.default_rng(0))
    pairs = family(grid, 1.0)
    assert len(pairs) == 3 + 3  # methods with one another, and each with the best yardstick
    assert len({second for _, second in pairs if second in grid.yardsticks}) == 1


@pytest.mark.parametrize("setting", [(100, 0.15, 3, 0.0), (100, 0.3, 5, 1.5)])
def test_intervals_hold_the_auprc_of_such_test_parts(setting: tuple[int, float, int, float]) -> None:
    found = coverage.rates(coverage.Setting(*setting), 200, n_resamples=100)
    assert 0.91 <= found.coverage <= 0.99
    assert found.above <= 0.05
    assert found.claimed <= 0.05 or setting[3] > 0


def test_ranks_over_datasets_reject_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    chance = [rank_test(rng.normal(size=(5, 4))).p < 0.05 for _ in range(150)]
    assert np.mean(chance) < 0.1
    alike = [0.8 * rng.normal(size=(5, 1, 4)) + 0.6 * rng.normal(size=(5, 3, 4)) for _ in range(60)]
    assert np.mean([rank_test(one.reshape(15, 4)).p < 0.05 for one in alike]) > 0.15  # fractions one by one


@pytest.mark.parametrize("units", [20, 80, 400])
def test_a_perfect_probability_shows_the_calibration_error_that_is_printed_beside_it(units: int) -> None:
    rng = np.random.default_rng(units)
    errors = []
    for _ in range(60):
        scores = rng.beta(0.8, 1.5, size=units)
        labels = (rng.random(units) < scores).astype(np.int64)
        curve = reliability(labels, scores[:, None], np.arange(units))
        errors.append((curve.expected_error, curve.if_perfect))
    shown, expected = np.mean(errors, axis=0)
    assert shown == pytest.approx(expected, rel=0.1)


def test_recall_holds_the_share_of_few_patients() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(200):
        patient = np.repeat(np.arange(8), 2)
        often = np.repeat(rng.random(8) < 0.8, 2)  # 80 % of patients are found at 95 %, the others at 60 %
        hit = rng.random(16) < np.where(often, 0.95, 0.6)
        share = weighted_share(hit, patient, patient_weights(8, 100, rng))
        held.append(share.low <= 0.88 <= share.high)
    assert np.mean(held) > 0.9


def test_the_smallest_difference_is_seen_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    count, ratio, spread = 5, 0.25, 0.04
    # The t-test's error holds its correction, so replicates are drawn with the correlation that it supposes.
    t_error = spread * math.sqrt(1 / count + ratio)
    error = 0.02
    least = smallest_difference(error, t_error, count - 1, 3)
    common = math.sqrt(ratio / (1 + ratio)) * rng.normal(size=(2000, 1))
    noise = math.sqrt(1 + ratio) * (common + math.sqrt(1 / (1 + ratio)) * rng.normal(size=(2000, count)))
    apart = least + spread * noise
    over_patients = [difference_p(one, error) < 0.05 / 3 for one in least + error * rng.normal(size=2000)]
    trained = [corrected_resampled_t(one, ratio).p < 0.05 / 3 for one in apart]
    assert np.mean(np.array(over_patients) & np.array(trained)) == pytest.approx(0.8, abs=0.05)
    assert smallest_difference(error, t_error, count - 1, 30) > least
    assert math.isnan(smallest_difference(error, math.nan, 0, 3))


def test_a_plan_of_more_patients_and_folds_shows_smaller_differences() -> None:
    def least(patients: int, folds: int) -> float:
        labels = np.random.default_rng(0).random(2 * patients) < 0.3
        fold = np.arange(patients).repeat(2) % folds
        return planned_difference(
            Planned(
                labels=labels.astype(np.int64),
                patients=np.arange(patients).repeat(2),
                n_classes=2,
                parts=[np.flatnonzero(fold == number) for number in range(folds)],
                test_per_train=1 / (folds - 1),
                n_pairs=3,
            )
        )

    assert least(200, 10) < least(200, 5) < least(60, 5) < least(60, 3)
