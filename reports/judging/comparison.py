"""Paired comparisons of methods: their certainty, and the family over which it is corrected.

What "separable" means here: the paired patient bootstrap (other patients, same trained models) and the
corrected resampled t-test (other training sets and seeds) both reject "no difference" at 5 % after Holm's
correction. Asking for both is an intersection-union test (Berger, Technometrics 1982), so it errs to the side of "not
separable". Without two replicates the second cannot be asked, and nothing is called separable.

The family is every pair that a conclusion is drawn from, at all fractions of a dataset together: methods with one
another, and each with the best yardstick. Nobody wants yardsticks compared with one another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from voxbench.reports.reading.grid import Cell, Grid
from voxbench.reports.reading.results import Place
from voxbench.reports.stats.bootstrap import difference_interval, difference_p, standard_error
from voxbench.reports.stats.holm import holm
from voxbench.reports.stats.improvement import probability_of_improvement
from voxbench.reports.stats.ttest import corrected_resampled_t

Floats = npt.NDArray[np.float64]

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`first` minus `second` at a fraction, over the shared replicates."""

    fraction: float
    first: str
    second: str
    n_pairs: int
    difference: float
    low: float
    high: float
    error: float  # standard error of the difference over patients
    t_error: float  # and over trainings, as the t-test has it
    t_df: int
    p_bootstrap: float
    p_t: float
    improvement: float
    p_bootstrap_holm: float = math.nan
    p_t_holm: float = math.nan

    @property
    def holds_for_patients(self) -> bool:
        """The same trained models would differ on other patients too."""
        return self.p_bootstrap_holm < ALPHA

    @property
    def separable(self) -> bool:
        """Other patients, training sets and seeds would show the difference too."""
        return self.holds_for_patients and self.p_t_holm < ALPHA

    @property
    def better(self) -> str:
        """The method with the higher mean."""
        return self.first if self.difference >= 0 else self.second

    def turned(self) -> Comparison:
        """The same with `second` as the first."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            improvement=1 - self.improvement,
        )


def compare_methods(
    grid: Grid, draws: Mapping[Place, Floats], test_per_train: float
) -> dict[float, tuple[Comparison, ...]]:
    """All comparisons of the family, by fraction. `draws` has the AUPRC of every compared cell in all resamples."""
    averaged = grid.seeds_share_splits
    found = [
        _comparison(grid, fraction, first, second, draws, test_per_train, averaged)
        for fraction in grid.fractions
        for first, second in family(grid, fraction)
    ]
    adjusted = zip(found, holm([c.p_bootstrap for c in found]), holm([c.p_t for c in found]), strict=True)
    found = [replace(c, p_bootstrap_holm=p_bootstrap, p_t_holm=p_t) for c, p_bootstrap, p_t in adjusted]
    return {fraction: tuple(c for c in found if c.fraction == fraction) for fraction in grid.fractions}


def family(grid: Grid, fraction: float) -> list[tuple[str, str]]:
    """The pairs at a fraction that a conclusion is drawn from; of a run of yardsticks alone, all."""
    shared = grid.shared(fraction).methods
    methods = [m for m in shared if m not in grid.yardsticks]
    if not methods:
        return list(itertools.combinations(shared, 2))
    best = best_yardstick(grid, fraction)
    return [*itertools.combinations(methods, 2), *((m, best) for m in methods if best is not None)]


def best_yardstick(grid: Grid, fraction: float) -> str | None:
    """The yardstick with the highest mean at a fraction; of equals the first."""
    shared = [m for m in grid.shared(fraction).methods if m in grid.yardsticks]
    return max(shared, key=lambda m: np.mean([cell.auprc for cell in grid.ok(m, fraction)]), default=None)


def mean_of(draws: Sequence[Floats]) -> Floats:
    """Mean over cells [B]; a cell without an AUPRC in a resample is left out there."""
    stacked = np.stack(draws)
    there = ~np.isnan(stacked)
    count = there.sum(axis=0)
    summed = np.where(there, stacked, 0.0).sum(axis=0)
    mean: Floats = np.divide(summed, count, out=np.full(summed.shape, np.nan), where=count > 0)
    return mean


def _comparison(
    grid: Grid,
    fraction: float,
    first: str,
    second: str,
    draws: Mapping[Place, Floats],
    test_per_train: float,
    averaged: bool,
) -> Comparison:
    pairs = list(zip(grid.ok(first, fraction), grid.ok(second, fraction), strict=True))
    apart = np.array([ours.auprc - theirs.auprc for ours, theirs in pairs])  # [J]
    difference = float(apart.mean())
    # A resample in which a cell has one class only is undefined for both methods: they share its units.
    error = standard_error(mean_of([draws[a.place] - draws[b.place] for a, b in pairs]))
    low, high = difference_interval(difference, error)
    each = _fold_means([cell for cell, _ in pairs], apart) if averaged else apart
    test = corrected_resampled_t(each, test_per_train)
    return Comparison(
        fraction=fraction,
        first=first,
        second=second,
        n_pairs=len(pairs),
        difference=difference,
        low=low,
        high=high,
        error=error,
        t_error=test.error,
        t_df=test.df,
        p_bootstrap=difference_p(difference, error),
        p_t=test.p,
        improvement=probability_of_improvement(apart),
    )


def _fold_means(cells: Sequence[Cell], apart: Floats) -> Floats:
    """The mean of the differences in each fold: seeds that share a split are no replicates of it."""
    folds = np.array([cell.place.fold for cell in cells])
    return np.array([apart[folds == fold].mean() for fold in np.unique(folds)])


def split_ratio(grid: Grid) -> float:
    """n_test / n_train of the split, whatever was run or failed: 1 / (k - 1) of k planned folds, as every volume is
    tested once; of an official split by its sizes.

    For the one split of a folder that does not tell its sizes, the largest number of labels given to a cell stands for
    them.
    """
    sizes = grid.dataset.get("official_split_sizes")
    if sizes:
        return float(sizes["n_test"] / (sizes["n_train"] + sizes["n_val"]))
    if len(grid.folds) > 1:
        return 1 / (len(grid.folds) - 1)
    tested = {volume for cell in grid.scored if cell.units is not None for volume in cell.units.volumes}
    given = [c.row.n_train_labels + c.row.n_val_labels for c in grid.scored if c.row is not None]
    known = [count for count in given if count > 0]
    return len(tested) / max(known) if known else math.nan
