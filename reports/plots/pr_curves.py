"""Precision-recall curves, a figure a fraction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.plots.style import FAINT, Plot, canvas, finish, method_styles, tidy
from voxbench.reports.reading.results import Units, percent

Floats = npt.NDArray[np.float64]
RECALL = np.linspace(0.0, 1.0, 201)[1:]  # recall 0 has no threshold


def pr_curves(analysis: Analysis) -> list[Plot]:
    """Curves averaged over folds and seeds at equal recall, so that the area under one is the method's AUPRC."""
    grid = analysis.grid
    styles = method_styles(grid)
    plots = []
    for fraction in grid.fractions:
        if not analysis.ranks[fraction]:
            continue
        with canvas(3.1, 3.4) as (figure, axes):
            for i, (method, style) in enumerate(styles.items()):
                curves = [mean_precision(cell.units) for cell in grid.ok(method, fraction) if cell.units is not None]
                if curves:
                    axes.plot(
                        RECALL,
                        np.mean(curves, axis=0),
                        color=style.color,
                        linestyle=style.line,
                        linewidth=1.5,
                        marker=style.marker,
                        markevery=(6 * i, 40),  # few, and not all at the same recall: to tell lines apart in grey
                        markersize=4,
                        label=method,
                    )
            axes.axhline(grid.prevalence, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), label="prevalence")
            axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
            axes.set_title(f"{percent(fraction)} of the labels")
            figure.legend(loc="outside lower center", ncols=3, fontsize=7, columnspacing=1.0)
            tidy(axes, "both")
            plots.append(
                finish(
                    figure,
                    f"pr-curves-{100 * fraction:g}",
                    f"Precision and recall at {percent(fraction)}",
                    f"Mean precision-recall curve of each method at {percent(fraction)} of the labels.",
                )
            )
    return plots


def mean_precision(units: Units) -> Floats:
    """Precision at each of RECALL, macro mean over classes: the step function whose area is the average precision."""
    columns = units.scores.shape[1]
    pairs = [(units.labels == 1, units.scores[:, 0])] if columns == 1 else []
    pairs += [(units.labels == c, units.scores[:, c]) for c in range(columns) if columns > 1]
    curves = [_precision(positive, scores) for positive, scores in pairs if 0 < positive.sum() < positive.size]
    mean: Floats = np.mean(curves, axis=0)
    return mean


def _precision(positive: npt.NDArray[np.bool_], scores: Floats) -> Floats:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)  # one threshold a distinct score
    true = np.cumsum(positive[order])[last]
    at = np.searchsorted(true / positive.sum(), RECALL - 1e-12).clip(max=last.size - 1)
    precision: Floats = (true / (last + 1))[at]
    return precision
