"""AUPRC against the share of labels."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import NullLocator

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.plots.style import FAINT, Plot, canvas, finish, line_with_intervals, method_styles, tidy
from voxbench.reports.reading.results import percent


def learning_curve(analysis: Analysis) -> Plot:
    """Means with their 95 % intervals; methods stand side by side at a fraction so that intervals do not overlap."""
    grid = analysis.grid
    styles = method_styles(grid)
    with canvas(4.9, 3.5) as (figure, axes):
        for i, (method, style) in enumerate(styles.items()):
            nudge = 1.035 ** (i - (len(styles) - 1) / 2)
            known = [(f, analysis.estimates[method, f]) for f in grid.fractions if method in analysis.scored(f)]
            if not known:
                continue
            x = np.array([fraction * nudge for fraction, _ in known])
            line_with_intervals(axes, x, [one for _, one in known], style, method)
        if not math.isnan(grid.no_skill):
            axes.axhline(grid.no_skill, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), label="no skill")
        axes.set_xscale("log")
        axes.set_xticks(grid.fractions, [percent(f) for f in grid.fractions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="share of the labels", ylabel="AUPRC")
        axes.set_title("Labels against AUPRC")
        tidy(axes)
        handles, names = axes.get_legend_handles_labels()
        order = sorted(range(len(names)), key=lambda i: names[i] == "no skill")  # last, though drawn as a line
        figure.legend([handles[i] for i in order], [names[i] for i in order], loc="outside lower center", ncols=4)
        return finish(
            figure,
            "learning-curve",
            "AUPRC against label fraction",
            "AUPRC of each method at each label fraction with 95 % intervals; the values are in the rank table.",
        )
