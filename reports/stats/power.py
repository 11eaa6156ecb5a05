"""How large a difference in AUPRC must be for both tests to see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import chi2, norm
from scipy.stats import t as student

from voxbench.reports.stats.average_precision import macro_average_precision

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POWER = 0.8
# What a plan cannot know of the scores to come, and is said beside the figure.
SEPARATION = 1.5  # of the classes, in standard deviations of the scores: an AUROC of 0.86
COMMON = 0.5  # correlation of two methods' scores of a volume, its class aside
ALIKE = 0.3  # correlation of a method's scores of two volumes of one patient
TRAINING = 0.05  # standard deviation of a fold's AUPRC when it is trained again: seeds and draws at 10 % of the phantom
N_COHORTS = 100
SEED = 20240430


def smallest_difference(error: float, t_error: float, df: int, n_pairs: int, alpha: float = 0.05) -> float:
    """The true difference that both tests show with a probability of `POWER`, the first of `n_pairs` in Holm's order.

    `error` is the standard error over patients, `t_error` with `df` that of the t-test. The power of both is taken as
    the product of theirs, which is no more than it is where they see the same differences. NaN where a test cannot be
    made.
    """
    if math.isnan(error) or math.isnan(t_error) or df < 1 or n_pairs < 1:
        return math.nan
    level = alpha / n_pairs / 2
    z, t = float(norm.isf(level)), float(student.isf(level, df))
    # Of the noncentral t distribution, which SciPy does not have for large differences: the spread is luck as well.
    reaches = t * np.sqrt(chi2.ppf((np.arange(400) + 0.5) / 400, df) / df)
    error, t_error = max(error, 1e-9), max(t_error, 1e-9)

    def lacking(difference: float) -> float:
        return float(norm.sf(z - difference / error) * norm.cdf(difference / t_error - reaches).mean()) - POWER

    high = z * error + t * t_error
    while lacking(high) < 0:
        high *= 2
    return float(brentq(lacking, 0.0, high, xtol=1e-6))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a plan knows of the units that will be scored, n of them."""

    labels: Ints  # [n]
    patients: Ints  # [n] a number a patient
    n_classes: int
    parts: Sequence[Ints]  # the test part of each fold and seed, positions among the n
    test_per_train: float
    n_pairs: int  # of methods and fractions, that a conclusion will be drawn from


def planned_difference(plan: Planned) -> float:
    """`smallest_difference` of two methods as the constants above assume them, by simulation."""
    rng = np.random.default_rng(SEED)
    apart = np.stack([_apart(plan, rng) for _ in range(N_COHORTS)])  # [cohorts, parts]
    count = len(plan.parts)
    if count < 2:
        return math.nan
    over_patients = float(apart.mean(axis=1).std(ddof=1))
    trained = apart + rng.normal(size=apart.shape) * TRAINING * math.sqrt(2)
    variance = float(trained.var(axis=1, ddof=1).mean())
    t_error = math.sqrt((1 / count + plan.test_per_train) * variance)
    return smallest_difference(over_patients, t_error, count - 1, plan.n_pairs)


def _apart(plan: Planned, rng: np.random.Generator) -> Floats:
    """Difference in AUPRC of two equal methods on each test part, [parts], of one cohort."""
    columns = 1 if plan.n_classes == 2 else plan.n_classes
    classes = np.array([1]) if columns == 1 else np.arange(columns)
    signal = SEPARATION * (plan.labels[:, None] == classes)  # [n, columns]
    common = _noise(plan.patients, columns, rng)
    methods = [
        signal + math.sqrt(COMMON) * common + math.sqrt(1 - COMMON) * _noise(plan.patients, columns, rng)
        for _ in range(2)
    ]
    return np.array(
        [
            np.subtract(*(macro_average_precision(plan.labels[p], scores[p])[0] for scores in methods))
            for p in plan.parts
        ]
    )


def _noise(patients: Ints, columns: int, rng: np.random.Generator) -> Floats:
    """Standard normal numbers [n, columns], correlated within a patient."""
    of_patient = rng.normal(size=(int(patients.max()) + 1, columns))[patients]
    return math.sqrt(ALIKE) * of_patient + math.sqrt(1 - ALIKE) * rng.normal(size=of_patient.shape)
