"""Reliability curves, a figure a fraction."""

from __future__ import annotations

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.plots.style import FAINT, Plot, canvas, finish, method_styles, tidy
from voxbench.reports.reading.results import percent
from voxbench.reports.tables.closer import method_reliability


def calibration(analysis: Analysis) -> list[Plot]:
    """Observed share of positives against the predicted probability; on the diagonal a probability is to be
    believed."""
    grid = analysis.grid
    styles = method_styles(grid)
    plots = []
    for fraction in grid.fractions:
        curves = {m: curve for m in grid.methods if (curve := method_reliability(analysis, m, fraction)) is not None}
        if not curves:
            continue
        with canvas(3.1, 3.5) as (figure, axes):
            axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
            for method, curve in curves.items():
                style = styles[method]
                axes.plot(
                    curve.predicted,
                    curve.observed,
                    color=style.color,
                    marker=style.marker,
                    linestyle=style.line,
                    markersize=4,
                    linewidth=1.2,
                    label=f"{method} ({curve.expected_error:.2f}; {curve.if_perfect:.2f})",
                )
            axes.set(xlabel="predicted probability", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
            axes.set_title(f"{percent(fraction)} of the labels")
            figure.legend(loc="outside lower center", ncols=2, fontsize=7, columnspacing=1.0)
            tidy(axes, "both")
            plots.append(
                finish(
                    figure,
                    f"calibration-{100 * fraction:g}",
                    f"Calibration at {percent(fraction)}",
                    f"Observed share of positives against predicted probability at {percent(fraction)} of the labels.",
                )
            )
    return plots
