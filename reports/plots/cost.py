"""What a method costs against what it gives."""

from __future__ import annotations

import math

from matplotlib.ticker import LogLocator, NullLocator

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.plots.style import Plot, canvas, finish, method_styles, tidy
from voxbench.reports.reading.results import percent
from voxbench.reports.tables.paper_tables import cost_hours, time_unit


def cost(analysis: Analysis) -> Plot | None:
    """Device-hours of one model against its AUPRC at the smallest fraction; None where no cost is known."""
    grid = analysis.grid
    if not grid.fractions:
        return None
    fraction = grid.fractions[0]
    hours = {m: cost_hours(grid, m, [fraction]) for m in analysis.scored(fraction)}
    known = {m: value for m, value in hours.items() if value > 0}
    if not known:
        return None
    unit, per_hour = time_unit(list(known.values()))
    styles = method_styles(grid)
    with canvas(4.6, 3.5) as (figure, axes):
        for method, value in known.items():
            one, style = analysis.estimates[method, fraction], styles[method]
            x = value * per_hour
            if not math.isnan(one.low):
                axes.plot([x, x], [one.low, one.high], color=style.color, linewidth=0.9)
            axes.plot(x, one.mean, style.marker, color=style.color, markersize=6.5, label=method)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=f"device-{unit} of one model", ylabel="AUPRC")
        axes.set_title(f"Cost against AUPRC, {percent(fraction)} of the labels")
        tidy(axes)
        figure.legend(loc="outside lower center", ncols=4)
        return finish(
            figure,
            "cost",
            "Cost against AUPRC",
            f"Cost of one model of each method against its AUPRC at {percent(fraction)} of the labels.",
        )
