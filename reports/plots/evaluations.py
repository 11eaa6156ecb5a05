"""Evaluations side by side: lines that cross are methods that change places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.orders import in_all
from voxbench.reports.plots.style import Plot, canvas, finish, line_with_intervals, method_styles, tidy
from voxbench.reports.reading.results import EVALUATIONS, percent


def evaluations(analyses: Sequence[Analysis]) -> list[Plot]:
    """A figure a fraction: AUPRC of each method by each evaluation, with its 95 % interval."""
    plots = [_plot(analyses, fraction) for fraction in analyses[0].grid.fractions if in_all(analyses, fraction)]
    return plots if len(analyses) > 1 else []


def _plot(analyses: Sequence[Analysis], fraction: float) -> Plot:
    methods = in_all(analyses, fraction)
    styles = method_styles(analyses[0].grid)
    names = [EVALUATIONS[one.grid.evaluation] for one in analyses]
    with canvas(3.6, 3.2) as (figure, axes):
        for i, method in enumerate(methods):
            x = np.arange(len(analyses)) + 0.04 * (i - (len(methods) - 1) / 2)
            found = [one.estimates[method, fraction] for one in analyses]
            line_with_intervals(axes, x, found, styles[method], method)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.set_ylabel("AUPRC")
        axes.set_title(f"{percent(fraction)} of the labels")
        tidy(axes)
        figure.legend(loc="outside lower center", ncols=3)
        return finish(
            figure,
            f"evaluations-{100 * fraction:g}",
            f"AUPRC by evaluation at {percent(fraction)}",
            f"AUPRC of each method at {percent(fraction)} by {', '.join(names)}, with 95 % intervals; lines that cross "
            "are methods that change places; the values are in the table of evaluations.",
        )
