"""The critical-difference diagram over datasets and fractions."""

from __future__ import annotations

from collections.abc import Sequence

from voxbench.reports.plots.style import INK, Plot, canvas, finish
from voxbench.reports.stats.ranks import RankTest, indistinct_groups


def critical_difference(methods: Sequence[str], test: RankTest) -> Plot:
    """Average ranks on a line; a bar joins methods whose ranks differ by less than the critical difference."""
    order = sorted(range(len(methods)), key=lambda i: test.ranks[i])
    groups = indistinct_groups(test.ranks, test.critical_difference)
    with canvas(5.2, 1.2 + 0.2 * len(methods) + 0.12 * len(groups)) as (figure, axes):
        axes.set(xlim=(0.6, len(methods) + 0.4), ylim=(-1.2 - len(methods) / 2 - 0.35 * len(groups), 0.9))
        axes.xaxis.tick_top()
        axes.set_xticks(range(1, len(methods) + 1))
        axes.set_yticks([])
        for side in ("left", "right", "bottom"):
            axes.spines[side].set_visible(False)
        base = -0.5 - 0.35 * len(groups)
        for position, i in enumerate(order):
            left = position < (len(order) + 1) / 2
            y = base - 0.75 * (position if left else len(order) - 1 - position) - 0.4
            end = 0.75 if left else len(methods) + 0.25
            axes.plot([test.ranks[i], test.ranks[i], end], [0.9, y, y], color=INK, linewidth=0.9)
            text = f"{methods[i]} {test.ranks[i]:.2f}"
            axes.text(end, y + 0.08, text, ha="left" if left else "right", va="bottom", fontsize=8.5)
        for row, group in enumerate(groups):
            ends = [test.ranks[group[0]] - 0.05, test.ranks[group[-1]] + 0.05]
            axes.plot(ends, [0.2 - 0.35 * row] * 2, color=INK, linewidth=3, solid_capstyle="butt")
        axes.set_title(f"average rank (1 = best), critical difference {test.critical_difference:.2f}", pad=14)
        return finish(
            figure,
            "critical-difference",
            "Average ranks over datasets and fractions",
            "Average ranks: " + ", ".join(f"{methods[i]} {test.ranks[i]:.2f}" for i in order),
        )
