"""The critical-difference diagram over datasets and fractions."""

from __future__ import annotations

from collections.abc import Sequence

from voxbench.reports.plots.style import INK, Plot, canvas, finish
from voxbench.reports.stats.ranks import RankTest, indistinct_groups


def critical_difference(methods: Sequence[str], test: RankTest) -> Plot:
    """Average ranks on a line; a bar joins methods whose ranks differ by less than the critical difference."""
    count = len(methods)
    order = sorted(range(count), key=lambda i: test.ranks[i])
    groups = indistinct_groups(test.ranks, test.critical_difference)
    half = (count + 1) // 2  # the better half is named on the left, the other on the right
    base = -0.7 - 0.35 * len(groups)
    with canvas(5.6, 0.9 + 0.17 * half + 0.12 * len(groups)) as (figure, axes):
        axes.set(xlim=(1 - 0.4 * count, 1.4 * count), ylim=(base - 0.75 * half, 1.1))
        axes.set_axis_off()
        axes.plot([1, count], [0.5, 0.5], color=INK, linewidth=0.9)
        for rank in range(1, count + 1):
            axes.plot([rank, rank], [0.5, 0.65], color=INK, linewidth=0.9)
            axes.text(rank, 0.72, str(rank), ha="center", va="bottom")
        for position, i in enumerate(order):
            left = position < half
            y = base - 0.75 * (position if left else count - 1 - position)
            end = 1 - 0.05 * count if left else 1.05 * count
            axes.plot([test.ranks[i], test.ranks[i], end], [0.5, y, y], color=INK, linewidth=0.9)
            text = f"{methods[i]}  {test.ranks[i]:.2f}" if left else f"{test.ranks[i]:.2f}  {methods[i]}"
            axes.text(end, y, f" {text} ", ha="right" if left else "left", va="center")
        for row, group in enumerate(groups):
            ends = [test.ranks[group[0]] - 0.04, test.ranks[group[-1]] + 0.04]
            axes.plot(ends, [0.1 - 0.35 * row] * 2, color=INK, linewidth=3, solid_capstyle="butt")
        axes.set_title(f"Average rank, 1 = best; bars join what is within {test.critical_difference:.2f}")
        return finish(
            figure,
            "critical-difference",
            "Average ranks over datasets and fractions",
            "Average ranks: " + ", ".join(f"{methods[i]} {test.ranks[i]:.2f}" for i in order),
        )
