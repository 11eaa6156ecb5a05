"""The statistics of one dataset's grid: estimates, paired comparisons, ranks, label efficiency.

Each estimate speaks of the AUPRC that test parts of this size would show, on average over other patients, with the
models as they were trained. Average precision leans upwards in small test parts, for every method and for none: so
no skill is not the prevalence but what a random ranking of the same test parts shows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from voxbench.reports.judging.comparison import ALPHA, Comparison, compare_methods, mean_of, split_ratio
from voxbench.reports.judging.efficiency import Efficiency, label_efficiency
from voxbench.reports.judging.remarks import remarks
from voxbench.reports.reading.grid import Cell, Grid
from voxbench.reports.reading.results import Place
from voxbench.reports.stats.average_precision import macro_average_precision, shuffled
from voxbench.reports.stats.bootstrap import patient_weights, share_interval, share_p, standard_error
from voxbench.reports.stats.holm import holm
from voxbench.reports.stats.ranks import shared_ranks
from voxbench.reports.stats.summary import Summary, summarise

__all__ = ["ALPHA", "Analysis", "Comparison", "Efficiency", "Estimate", "analyse"]

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 2000
SEED = 20240430


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """AUPRC of a method at a fraction over the shared replicates, with its 95 % interval over other patients."""

    summary: Summary
    low: float
    high: float
    p_no_skill: float  # of "it has no skill", corrected for all methods, yardsticks and fractions (Holm)

    @property
    def mean(self) -> float:
        """Mean over folds x seeds; NaN where the method is not compared."""
        return self.summary.mean


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All statistics of one dataset."""

    grid: Grid
    estimates: Mapping[tuple[str, float], Estimate]
    chance: tuple[float, float]  # where 95 % of the means without skill lie; their own mean is `grid.no_skill`
    comparisons: Mapping[float, tuple[Comparison, ...]]
    ranks: Mapping[float, Mapping[str, int]]  # of the methods and the best yardstick
    tied: Mapping[float, frozenset[str]]  # with the best, itself included
    efficiency: tuple[Efficiency, ...]
    patients: tuple[str, ...]
    weights: Floats  # [resamples, patients]
    test_per_train: float
    remarks: tuple[str, ...]

    def scored(self, fraction: float) -> list[str]:
        """The methods, and all yardsticks, that have a mean at a fraction."""
        return [m for m in self.grid.methods if not math.isnan(self.estimates[m, fraction].mean)]

    def best(self, fraction: float) -> str | None:
        """The method with the highest mean at a fraction; of equals the first."""
        return max(self.scored(fraction), key=lambda m: self.estimates[m, fraction].mean, default=None)

    def beats_chance(self, method: str, fraction: float) -> bool:
        """Whether it lies above what no skill shows on average, separably so among all rows of the table."""
        one = self.estimates[method, fraction]
        return one.mean > self.grid.no_skill and one.p_no_skill < ALPHA

    def between(self, first: str, second: str, fraction: float) -> Comparison | None:
        """The comparison of two methods with `first` as the first; None where the pair is not in the family."""
        for one in self.comparisons[fraction]:
            if (one.first, one.second) == (first, second):
                return one
            if (one.first, one.second) == (second, first):
                return one.turned()
        return None

    def patient_index(self, cell: Cell) -> npt.NDArray[np.int64]:
        """[n] column of `weights` for each unit of a cell that has units."""
        assert cell.units is not None
        return _patient_index(cell, {name: i for i, name in enumerate(self.patients)})


def analyse(grid: Grid, n_resamples: int = N_RESAMPLES, seed: int = SEED) -> Analysis:
    """All statistics of a grid. The same grid and seed give the same numbers."""
    patients = _patients(grid)
    weights = patient_weights(len(patients), n_resamples, np.random.default_rng(seed))
    draws = _draws(grid, patients, weights)
    estimates = _estimates(grid, draws)
    ratio = split_ratio(grid)
    comparisons = compare_methods(grid, draws, ratio)
    ranks = {f: _ranks(grid, f, estimates, comparisons[f]) for f in grid.fractions}
    analysis = Analysis(
        grid=grid,
        estimates=estimates,
        chance=_chance(grid, n_resamples, seed),
        comparisons=comparisons,
        ranks=ranks,
        tied={},
        efficiency=label_efficiency(grid, draws),
        patients=patients,
        weights=weights,
        test_per_train=ratio,
        remarks=remarks(grid, list(draws.values())),
    )
    return replace(analysis, tied={f: _tied(analysis, f) for f in grid.fractions})


def resampled(grid: Grid, n_resamples: int = N_RESAMPLES, seed: int = SEED) -> dict[Place, Floats]:
    """AUPRC [n_resamples] of every compared cell, in the same resamples of patients for all."""
    patients = _patients(grid)
    return _draws(grid, patients, patient_weights(len(patients), n_resamples, np.random.default_rng(seed)))


def _patients(grid: Grid) -> tuple[str, ...]:
    return tuple(sorted({p for cell in grid.compared if cell.units is not None for p in cell.units.patients}))


def _patient_index(cell: Cell, columns: Mapping[str, int]) -> npt.NDArray[np.int64]:
    patients = () if cell.units is None else cell.units.patients
    return np.array([columns[name] for name in patients], dtype=np.int64)


def _draws(grid: Grid, patients: Sequence[str], weights: Floats) -> dict[Place, Floats]:
    """AUPRC of every compared cell under every row of weights."""
    columns = {name: i for i, name in enumerate(patients)}
    draws = {}
    for cell in grid.compared:
        assert cell.units is not None
        weight = weights[:, _patient_index(cell, columns)]  # [B, n]
        draws[cell.place] = macro_average_precision(cell.units.labels, cell.units.scores, weight)
    return draws


def _estimates(grid: Grid, draws: Mapping[Place, Floats]) -> dict[tuple[str, float], Estimate]:
    rows = list(itertools.product(grid.methods, grid.fractions))
    made = [_estimate(grid, method, fraction, draws) for method, fraction in rows]
    corrected = holm([one.p_no_skill for one in made])
    return {row: replace(one, p_no_skill=p) for row, one, p in zip(rows, made, corrected, strict=True)}


def _estimate(grid: Grid, method: str, fraction: float, draws: Mapping[Place, Floats]) -> Estimate:
    """Its p value as if it were the only one."""
    cells = grid.ok(method, fraction)
    summary = summarise([cell.auprc for cell in cells])
    error = standard_error(mean_of([draws[cell.place] for cell in cells])) if cells else math.nan
    low, high = share_interval(summary.mean, error)
    return Estimate(summary=summary, low=low, high=high, p_no_skill=share_p(summary.mean, error, grid.no_skill))


def _chance(grid: Grid, n_draws: int, seed: int) -> tuple[float, float]:
    """By random rankings of every test part that is compared."""
    rng = np.random.default_rng(seed)
    parts = {cell.place.replicate: cell.units for cell in grid.compared if cell.units is not None}
    if not parts:
        return math.nan, math.nan
    drawn = [shuffled(part.labels, part.scores.shape[1], n_draws, rng) for _, part in sorted(parts.items())]
    low, high = np.quantile(mean_of(drawn), [0.025, 0.975])
    return float(low), float(high)


def _ranks(
    grid: Grid,
    fraction: float,
    estimates: Mapping[tuple[str, float], Estimate],
    comparisons: Sequence[Comparison],
) -> dict[str, int]:
    """Of those that are compared, and of a method that stands alone."""
    compared = {m for one in comparisons for m in (one.first, one.second)}
    scored = [m for m in grid.methods if not math.isnan(estimates[m, fraction].mean)]
    known = [m for m in scored if m in compared] or scored
    beaten: dict[str, set[str]] = {}
    for one in comparisons:
        if one.separable:
            worse = one.second if one.better == one.first else one.first
            beaten.setdefault(worse, set()).add(one.better)
    return shared_ranks(known, beaten)


def _tied(analysis: Analysis, fraction: float) -> frozenset[str]:
    best = analysis.best(fraction)
    if best is None:
        return frozenset()
    apart = {
        other
        for other in analysis.ranks[fraction]
        if (one := analysis.between(best, other, fraction)) is not None and one.separable and one.difference > 0
    }
    return frozenset(analysis.ranks[fraction].keys() - apart)
