"""Paired differences as a forest plot, a figure a fraction."""

from __future__ import annotations

import math

from matplotlib.ticker import MaxNLocator

from voxbench.reports.judging.analysis import Analysis, Comparison
from voxbench.reports.plots.style import INK, Plot, canvas, finish, method_styles, tidy
from voxbench.reports.reading.results import percent


def forest(analysis: Analysis) -> list[Plot]:
    """Every method against the baseline (without one: against the best), with the 95 % interval of the difference."""
    grid = analysis.grid
    plots = []
    groups = {fraction: pairs for fraction in grid.fractions if (pairs := _pairs(analysis, fraction))}
    ends = [0.0, *(end for pairs in groups.values() for one in pairs for end in (one.low, one.high, one.difference))]
    known = [end for end in ends if not math.isnan(end)]
    margin = 0.04 * (max(known) - min(known)) or 0.01
    styles = method_styles(grid)
    for fraction, pairs in groups.items():
        against = pairs[0].second
        with canvas(3.1, 1.0 + 0.28 * len(pairs)) as (figure, axes):
            axes.axvline(0, color=INK, linewidth=0.9)
            for row, one in enumerate(pairs):
                style = styles[one.first]
                axes.plot([one.low, one.high], [row, row], color=style.color, linewidth=1.6, solid_capstyle="butt")
                face = style.color if one.separable else "white"
                axes.plot(one.difference, row, style.marker, color=style.color, markerfacecolor=face, markersize=6.5)
            axes.set_yticks(range(len(pairs)), [one.first for one in pairs])
            axes.set_ylim(len(pairs) - 0.4, -0.6)
            axes.set_xlim(min(known) - margin, max(known) + margin)  # one scale for all fractions
            axes.set_xlabel(f"AUPRC minus that of {against}")
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_title(f"{percent(fraction)} of the labels")
            tidy(axes, "x")
            axes.tick_params(axis="y", length=0)
            plots.append(
                finish(
                    figure,
                    f"forest-{100 * fraction:g}",
                    f"Difference to {against} at {percent(fraction)}",
                    f"Paired difference of each method to {against} at {percent(fraction)} with 95 % intervals; "
                    "filled marks are separable; the values are in the table of pairs.",
                )
            )
    return plots


def _pairs(analysis: Analysis, fraction: float) -> list[Comparison]:
    """Each method minus the baseline, or minus the best where the baseline has no score."""
    grid = analysis.grid
    against = grid.baseline if grid.baseline in analysis.ranks[fraction] else analysis.best(fraction)
    if against is None:
        return []
    found = [analysis.between(method, against, fraction) for method in grid.methods if method != against]
    return [one for one in found if one is not None]
