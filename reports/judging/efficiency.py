"""How many labels the baseline needs to do what a method does with few, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxbench.reports.judging.comparison import mean_of
from voxbench.reports.reading.grid import Cell, Grid
from voxbench.reports.reading.results import Place
from voxbench.reports.stats.label_efficiency import labels_to_reach
from voxbench.reports.stats.summary import summarise

Floats = npt.NDArray[np.float64]


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


def label_efficiency(grid: Grid, draws: Mapping[Place, Floats]) -> tuple[Efficiency, ...]:
    """Every method against the baseline; nothing where there is none, or no curve of it.

    `draws` has the AUPRC of every compared cell in all resamples.
    """
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
                _centred([cell.auprc for cell in cells(method, f)], [draws[cell.place] for cell in cells(method, f)]),
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


def _centred(values: Sequence[float], draws: Sequence[Floats]) -> Floats:
    """Means of the draws [B], moved to lie around the mean of the `values`: resampled average precision leans upwards,
    weak scores more than strong ones."""
    drawn = mean_of(draws)
    known = drawn[~np.isnan(drawn)]
    return drawn - known.mean() + float(np.mean(values)) if known.size else drawn


def _labels(cells: Sequence[Cell]) -> float:
    """Labels spent, mean over `cells`; NaN without any."""
    spent = [cell.row.n_labels_spent for cell in cells if cell.row is not None]
    return float(np.mean(spent)) if spent else math.nan
