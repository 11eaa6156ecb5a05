"""python others.py: the t-test on one split, ranks over datasets, recall by finding, calibration, label
efficiency."""

from __future__ import annotations

import numpy as np
from coverage import Setting, auprc, cohort, drawn

from voxbench.reports.stats.bootstrap import patient_weights
from voxbench.reports.stats.calibration import reliability
from voxbench.reports.stats.label_efficiency import labels_to_reach
from voxbench.reports.stats.ranks import rank_test
from voxbench.reports.stats.recall import weighted_share
from voxbench.reports.stats.ttest import corrected_resampled_t


def t_test(folds: int, seeds: int, repetitions: int) -> tuple[float, float]:
    """Type I error where the variance lies between folds: seeds averaged within a fold, and counted one by one.

    Folds are correlated as the test's correction supposes.
    """
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(repetitions, 1, 1)), rng.normal(size=(repetitions, folds, 1))
    apart = np.sqrt(1 / folds) * common + np.sqrt(1 - 1 / folds) * own
    apart = apart + 0.2 * rng.normal(size=(repetitions, folds, seeds))
    ways = apart.mean(axis=2), apart.reshape(repetitions, -1)
    first, second = (
        float(np.mean([corrected_resampled_t(one, 1 / (folds - 1)).p < 0.05 for one in way])) for way in ways
    )
    return first, second


def ranks(datasets: int, methods: int, alike: float, repetitions: int) -> tuple[float, float]:
    """Type I error with one block a dataset; and with one a fraction, three of them, correlated by `alike`."""
    rng = np.random.default_rng(0)
    size = (repetitions, datasets, 1, methods)
    means = np.sqrt(alike) * rng.normal(size=size) + np.sqrt(1 - alike) * rng.normal(size=(*size[:2], 3, methods))
    one, each = means.mean(axis=2), means.reshape(repetitions, -1, methods)
    return tuple(float(np.mean([rank_test(block).p < 0.05 for block in blocks])) for blocks in (one, each))  # type: ignore[return-value]


def recall(patients: int, often: float, repetitions: int) -> float:
    """Coverage of a recall of about `often`, by patients of two volumes; each patient has a recall of his own."""
    rng = np.random.default_rng(0)
    patient, held = np.repeat(np.arange(patients), 2), []
    for _ in range(repetitions):
        own = rng.beta(4 * often, 4 * (1 - often), size=patients)
        share = weighted_share(rng.random(2 * patients) < own[patient], patient, patient_weights(patients, 200, rng))
        held.append(share.low <= often <= share.high)
    return float(np.mean(held))


def calibration(units: int, repetitions: int) -> tuple[float, float]:
    """Expected calibration error of perfect probabilities, and what is printed beside it."""
    rng, found = np.random.default_rng(0), []
    for _ in range(repetitions):
        scores = rng.beta(0.8, 1.5, size=units)
        curve = reliability((rng.random(units) < scores).astype(np.int64), scores[:, None], np.arange(units))
        found.append((curve.expected_error, curve.if_perfect))
    shown, expected = np.mean(found, axis=0)
    return float(shown), float(expected)


def efficiency(patients: int, repetitions: int) -> float:
    """Coverage of the labels that a baseline needs for what a method does with 40, where it needs 80."""
    labels = np.array([40.0, 160.0, 640.0])
    skills = (0.8, 1.2, 1.6, 1.0)  # of the baseline at each number of labels, and of the method
    rng, setting, means, intervals = np.random.default_rng(0), Setting(patients, 0.4, 3, 0.0), [], []
    for _ in range(repetitions):
        truth, noise, parts = cohort(setting, rng)
        weights = patient_weights(patients, 300, rng)
        points, draws = [], []
        for skill in skills:
            scores = skill * truth + 0.7 * noise + 0.7 * cohort(setting, rng)[1]
            points.append(np.mean([auprc(truth[p], scores[p])[0] for p in parts]))
            spread = drawn(truth, scores, parts, weights)
            draws.append(spread - spread.mean() + points[-1])
        means.append(points)
        needed = labels_to_reach(labels, np.array(draws[:3]).T, draws[3])
        intervals.append(np.quantile(needed, [0.025, 0.975], method="nearest"))
    expected = np.mean(means, axis=0)
    target = labels_to_reach(labels, expected[None, :3], expected[3:])[0]
    return float(np.mean([low <= target <= high for low, high in intervals]))


if __name__ == "__main__":
    for folds, seeds in ((5, 3), (3, 10)):
        averaged, counted = t_test(folds, seeds, 20_000)
        what = f"t-test, {folds} folds x {seeds} seeds on one split"
        print(f"{what}: averaged {averaged:.3f}, counted {counted:.3f}", flush=True)
    for alike in (0.3, 0.6):
        one, each = ranks(5, 4, alike, 600)
        print(
            f"ranks, 5 datasets, fractions alike by {alike}: {one:.3f}; each fraction a block: {each:.3f}", flush=True
        )
    for patients in (8, 20, 60):
        covered = ", ".join(f"{often}: {recall(patients, often, 2000):.3f}" for often in (0.5, 0.8, 0.95))
        print(f"recall of {patients} patients, covered at {covered}", flush=True)
    for units in (20, 80, 400):
        shown, printed = calibration(units, 500)
        print(f"calibration, {units} units: perfect shows {shown:.3f}, printed {printed:.3f}", flush=True)
    for patients in (100, 300):
        print(f"label efficiency, {patients} patients: covered {efficiency(patients, 1000):.3f}", flush=True)
