"""What a reader should know about a grid beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voxbench.reports.judging.words import counted, listed
from voxbench.reports.reading.grid import Grid
from voxbench.reports.reading.results import percent

Floats = npt.NDArray[np.float64]


def remarks(grid: Grid, draws: Sequence[Floats]) -> tuple[str, ...]:
    """Of the cells and of `draws`, the AUPRC of each compared cell in all resamples."""
    return (
        *grid.remarks,
        *_lacking_classes(grid),
        *_constant_scores(grid),
        *_collapsed(grid),
        *_no_better_than_median(grid),
        *_falling(grid),
        *_starts(grid),
        *_passes(grid),
        *_recomputed(grid),
        *_undefined_draws(draws),
    )


def unevenness(grid: Grid, fractions: Sequence[float]) -> tuple[str, ...]:
    """Where methods do not all have the same folds and seeds: what is compared over which, and what is left out."""
    shared = {fraction: grid.shared(fraction) for fraction in fractions}
    planned = len(grid.replicates)
    fewer = [
        f"{len(one.replicates)} of {planned} at {percent(fraction)}"
        for fraction, one in shared.items()
        if 0 < len(one.replicates) < planned
    ]
    left_out = [
        f"{method} at {percent(fraction)}, {count} of {planned}"
        for fraction, one in shared.items()
        for method, count in one.left_out.items()
    ]
    said = []
    if fewer:
        said.append(
            "All numbers are over the pairs of fold and seed in which every method that is compared has a score: "
            f"{listed(fewer)}."
        )
    if left_out:
        said.append(f"Not compared, having too few scores in common with the others: {'; '.join(left_out)}.")
    return tuple(said)


def _constant_scores(grid: Grid) -> list[str]:
    methods: dict[str, int] = {}
    for cell in grid.scored:
        if cell.units is not None and np.ptp(cell.units.scores, axis=0).max() == 0:
            methods[cell.place.method] = methods.get(cell.place.method, 0) + 1
    return [
        f"{m}: {counted(n, 'cell')} with the same score for every test unit, no skill at all"
        for m, n in methods.items()
    ]


def _lacking_classes(grid: Grid) -> list[str]:
    """Test parts of several classes that lack some: their macro mean is over the others."""
    lacking = {
        cell.place.replicate
        for cell in grid.scored
        if cell.units is not None and len(np.unique(cell.units.labels)) < max(2, cell.units.scores.shape[1])
    }
    if not lacking:
        return []
    parts = counted(len(grid.replicates), "test part")
    return [f"in {len(lacking)} of {parts} a class is missing: macro means there are over the others"]


def _collapsed(grid: Grid) -> list[str]:
    methods = {c.place.method for c in grid.scored if c.row is not None and c.row.collapsed}
    return [f"{m}: its pretraining collapsed, all volumes got nearly one embedding" for m in sorted(methods)]


def _no_better_than_median(grid: Grid) -> list[str]:
    """Stages whose residual finds lesions no better than what needs no training."""
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for stage in grid.stages:
        both = stage.localisation, stage.localisation_median
        if stage.method in grid.methods and not np.isnan(both).any():
            scores.setdefault((stage.method, stage.name), []).append(both)
    means = {where: np.mean(found, axis=0) for where, found in sorted(scores.items())}
    return [
        f"{method}, stage {name}: its residual finds lesions no better than the difference from its volumes' median "
        f"image does (voxel AUPRC {own:.2f}, median image {median:.2f})"
        for (method, name), (own, median) in means.items()
        if own <= median
    ]


def _falling(grid: Grid) -> list[str]:
    """Where the loss had not flattened: a method may lead, or trail, by its speed alone."""
    found: dict[tuple[str, float], int] = {}
    for cell in grid.scored:
        if cell.row is not None and cell.row.falling:
            place = (cell.place.method, cell.place.fraction)
            found[place] = found.get(place, 0) + 1
    if not found:
        return []
    places = [f"{method} at {percent(fraction)} ({count})" for (method, fraction), count in sorted(found.items())]
    return [f"in some cells the loss was still falling at the last step of fine-tuning: {listed(places)}"]


def _starts(grid: Grid) -> list[str]:
    """Weights from elsewhere: what they have seen is said by the method, and nobody can audit it here."""
    starts = {c.place.method: c.row.start for c in grid.scored if c.row is not None and c.row.start}
    return [
        f"{method} starts from {start}; whether tested patients are among that is not known here"
        for method, start in sorted(starts.items())
    ]


def _passes(grid: Grid) -> list[str]:
    """What went through each method's encoder in pretraining, prior stages included."""
    means: dict[str, tuple[float, float]] = {}
    for method in grid.methods:
        rows = [c.row for c in grid.scored if c.place.method == method and c.row is not None]
        known = [(row.pretrain_volumes, row.pretrain_forward) for row in rows if row.pretrain_volumes > 0]
        if known:
            both, forward = np.mean(known, axis=0)
            means[method] = (float(both), float(forward))
    if not means:
        return []
    said = [
        f"{m} {both:,.0f}" + (f" (and {only:,.0f} forward)" if only > 0 else "") for m, (both, only) in means.items()
    ]
    return [f"volumes that passed forward and backward in the pretraining behind a cell, a mean: {listed(said)}"]


def _recomputed(grid: Grid) -> list[str]:
    """Whose time is not that of the others: the same result took one more forward pass a step."""
    methods = sorted({c.place.method for c in grid.scored if c.row is not None and c.row.recomputed})
    if not methods:
        return []
    return [
        f"to save memory, maps were computed twice for {listed(methods)}, which takes time and changes no result: "
        "compare costs with care"
    ]


def _undefined_draws(draws: Sequence[Floats]) -> list[str]:
    if not draws:
        return []
    share = float(np.mean([np.isnan(drawn).mean() for drawn in draws]))
    if share < 0.01:
        return []
    return [
        f"in {share:.0%} of the resamples a fold has patients of one class only and is left out of the mean "
        "there: the test parts are small, take the intervals with care"
    ]
