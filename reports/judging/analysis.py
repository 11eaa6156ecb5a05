"""The statistics of one dataset's grid: estimates, paired comparisons, ranks, label efficiency.

What "separable" means here: the paired patient bootstrap (other patients, same trained models) and the
corrected resampled t-test (other training sets and seeds) both reject "no difference" at 5 % after Holm's
correction over all pairs of a fraction. Asking for both is an intersection-union test (Berger,
Technometrics 1982), so it errs to the side of "not separable". Without two replicates the second cannot be
asked, and nothing is called separable.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from voxbench.reports.judging.remarks import remarks
from voxbench.reports.reading.grid import Cell, Grid
from voxbench.reports.reading.run_folder import Place
from voxbench.reports.stats.average_precision import macro_average_precision
from voxbench.reports.stats.bootstrap import (
    bca,
    leave_one_out_weights,
    patient_weights,
)
from voxbench.reports.stats.holm import holm
from voxbench.reports.stats.improvement import probability_of_improvement
from voxbench.reports.stats.label_efficiency import labels_to_reach
from voxbench.reports.stats.ranks import shared_ranks
from voxbench.reports.stats.summary import Summary, summarise
from voxbench.reports.stats.ttest import corrected_resampled_t

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 2000
SEED = 20240430
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """AUPRC of a method at a fraction over the shared replicates, with the 95 % interval of the patient bootstrap."""

    summary: Summary
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over folds x seeds; NaN where the method is not compared."""
        return self.summary.mean


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


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Labels that the baseline needs to match `method` at the smallest fraction; infinity: more than it was
    given."""

    method: str
    method_labels: float
    labels: float
    low: float
    high: float
    least: float  # the fewest and the most labels that the baseline was given
    most: float


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All statistics of one dataset."""

    grid: Grid
    estimates: Mapping[tuple[str, float], Estimate]
    comparisons: Mapping[float, tuple[Comparison, ...]]
    ranks: Mapping[float, Mapping[str, int]]
    tied: Mapping[float, frozenset[str]]  # with the best, itself included
    efficiency: tuple[Efficiency, ...]
    patients: tuple[str, ...]
    weights: Floats  # [resamples, patients]
    test_per_train: float
    remarks: tuple[str, ...]

    def best(self, fraction: float) -> str | None:
        """The method with the highest mean at a fraction; of equals the first."""
        means = {m: self.estimates[m, fraction].mean for m in self.grid.methods}
        known = {m: mean for m, mean in means.items() if not math.isnan(mean)}
        return max(known, key=lambda m: known[m]) if known else None

    def between(self, first: str, second: str, fraction: float) -> Comparison | None:
        """The comparison of two methods with `first` as the first."""
        for one in self.comparisons[fraction]:
            if (one.first, one.second) == (first, second):
                return one
            if (one.first, one.second) == (second, first):
                return replace(
                    one,
                    first=first,
                    second=second,
                    difference=-one.difference,
                    low=-one.high,
                    high=-one.low,
                    improvement=1 - one.improvement,
                )
        return None

    def patient_index(self, cell: Cell) -> npt.NDArray[np.int64]:
        """[n] column of `weights` for each unit of a cell that has units."""
        assert cell.units is not None
        return _patient_index(cell, {name: i for i, name in enumerate(self.patients)})


def analyse(grid: Grid, n_resamples: int = N_RESAMPLES, seed: int = SEED) -> Analysis:
    """All statistics of a grid. The same grid and seed give the same numbers."""
    patients = tuple(sorted({p for cell in grid.compared if cell.units is not None for p in cell.units.patients}))
    weights = patient_weights(len(patients), n_resamples, np.random.default_rng(seed))
    draws = _draws(grid, patients, weights)
    left_out = _draws(grid, patients, leave_one_out_weights(len(patients)))
    estimates = {(m, f): _estimate(grid, m, f, draws, left_out) for m in grid.methods for f in grid.fractions}
    ratio = _test_per_train(grid)
    comparisons = {f: _comparisons(grid, f, draws, left_out, ratio) for f in grid.fractions}
    ranks = {f: _ranks(grid, f, estimates, comparisons[f]) for f in grid.fractions}
    analysis = Analysis(
        grid=grid,
        estimates=estimates,
        comparisons=comparisons,
        ranks=ranks,
        tied={},
        efficiency=_efficiency(grid, draws),
        patients=patients,
        weights=weights,
        test_per_train=ratio,
        remarks=remarks(grid, list(draws.values())),
    )
    return replace(analysis, tied={f: _tied(analysis, f) for f in grid.fractions})


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


def _mean(draws: Sequence[Floats]) -> Floats:
    """Mean over cells [B]; a cell without an AUPRC in a resample is left out there."""
    stacked = np.stack(draws)
    there = ~np.isnan(stacked)
    count = there.sum(axis=0)
    summed = np.where(there, stacked, 0.0).sum(axis=0)
    mean: Floats = np.divide(summed, count, out=np.full(summed.shape, np.nan), where=count > 0)
    return mean


def _estimate(
    grid: Grid, method: str, fraction: float, draws: Mapping[Place, Floats], left_out: Mapping[Place, Floats]
) -> Estimate:
    cells = grid.ok(method, fraction)
    summary = summarise([cell.auprc for cell in cells])
    low = high = math.nan
    if cells:
        mean = _mean([draws[cell.place] for cell in cells])
        low, high = bca(summary.mean, mean, _mean([left_out[cell.place] for cell in cells])).interval()
    return Estimate(summary=summary, low=low, high=high)


def _comparisons(
    grid: Grid,
    fraction: float,
    draws: Mapping[Place, Floats],
    left_out: Mapping[Place, Floats],
    test_per_train: float,
) -> tuple[Comparison, ...]:
    found = []
    for first, second in itertools.combinations(grid.shared(fraction).methods, 2):
        pairs = list(zip(grid.ok(first, fraction), grid.ok(second, fraction), strict=True))
        apart = np.array([ours.auprc - theirs.auprc for ours, theirs in pairs])  # [J]
        # A resample in which a cell has one class only is undefined for both methods: they share its units.
        places = [(ours.place, theirs.place) for ours, theirs in pairs]
        bootstrap = bca(
            float(apart.mean()),
            _mean([draws[a] - draws[b] for a, b in places]),
            _mean([left_out[a] - left_out[b] for a, b in places]),
        )
        low, high = bootstrap.interval()
        found.append(
            Comparison(
                fraction=fraction,
                first=first,
                second=second,
                n_pairs=len(pairs),
                difference=float(apart.mean()),
                low=low,
                high=high,
                p_bootstrap=bootstrap.p(),
                p_t=corrected_resampled_t(apart, test_per_train).p,
                improvement=probability_of_improvement(apart),
            )
        )
    adjusted = zip(holm([c.p_bootstrap for c in found]), holm([c.p_t for c in found]), strict=True)
    return tuple(
        replace(c, p_bootstrap_holm=p_bootstrap, p_t_holm=p_t)
        for c, (p_bootstrap, p_t) in zip(found, adjusted, strict=True)
    )


def _test_per_train(grid: Grid) -> float:
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


def _ranks(
    grid: Grid,
    fraction: float,
    estimates: Mapping[tuple[str, float], Estimate],
    comparisons: Sequence[Comparison],
) -> dict[str, int]:
    known = [m for m in grid.methods if not math.isnan(estimates[m, fraction].mean)]
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
        for other in analysis.grid.methods
        if (one := analysis.between(best, other, fraction)) is not None and one.separable and one.difference > 0
    }
    known = {m for m in analysis.grid.methods if not math.isnan(analysis.estimates[m, fraction].mean)}
    return frozenset(known - apart)


def _efficiency(grid: Grid, draws: Mapping[Place, Floats]) -> tuple[Efficiency, ...]:
    baseline = grid.baseline
    if baseline is None:
        return ()
    places = [f for f in grid.fractions if baseline in grid.shared(f).methods]
    if len(places) < 2 or places[0] != grid.fractions[0]:
        return ()
    common = set.intersection(*(set(grid.shared(f).replicates) for f in places))

    def cells(method: str, fraction: float) -> list[Cell]:  # a curve is of the same replicates from end to end
        return [cell for cell in grid.ok(method, fraction) if cell.place.replicate in common]

    labels = np.array([_labels(cells(baseline, f)) for f in places])
    if not (np.diff(labels) > 0).all():  # nor is NaN, where labels are not known
        return ()

    def curve(fractions: Sequence[float], method: str) -> Floats:  # [1 + B, F], the estimate first
        points = [
            np.append(
                summarise([cell.auprc for cell in cells(method, f)]).mean,
                _mean([draws[cell.place] for cell in cells(method, f)]),
            )
            for f in fractions
        ]
        return np.stack(points, axis=1)

    found = []
    for method in grid.methods:
        if method == baseline or not grid.ok(method, places[0]):
            continue
        needed = labels_to_reach(labels, curve(places, baseline), curve(places[:1], method)[:, 0])
        known = needed[1:][~np.isnan(needed[1:])]
        ends = np.quantile(known, [0.025, 0.975], method="nearest") if known.size else [math.nan, math.nan]
        found.append(
            Efficiency(
                method=method,
                method_labels=_labels(cells(method, places[0])),
                labels=float(needed[0]),
                low=float(ends[0]),
                high=float(ends[1]),
                least=float(labels[0]),
                most=float(labels[-1]),
            )
        )
    return tuple(found)


def _labels(cells: Sequence[Cell]) -> float:
    """Labels spent, mean over `cells`; NaN without any."""
    spent = [cell.row.n_labels_spent for cell in cells if cell.row is not None]
    return float(np.mean(spent)) if spent else math.nan
