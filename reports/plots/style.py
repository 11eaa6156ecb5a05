"""The look of every plot, and how a figure becomes SVG and PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from voxbench.reports.reading.grid import Grid

INK, FAINT = "#222222", "#8a8a8a"
# Colour, marker and line all differ, so that a plot reads in grey and by the colour-blind (seaborn's palette, Wong,
# Nature Methods 2011). The pale colours of the palette are left out: they vanish in print.
_COLOURS = [sns.color_palette("colorblind")[i] for i in (0, 3, 2, 4, 1, 7)]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
_THIN_MARKERS = ["1", "2", "+", "x", "3", "4"]
_LINES: list[Any] = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A finished figure. `alt` says in words what is to be seen."""

    name: str  # file name without its ending
    title: str
    alt: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)
    real_images: bool = False  # shows volumes that no program made


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn, the same in every plot."""

    color: Any
    marker: str
    line: Any


def method_styles(grid: Grid) -> dict[str, MethodStyle]:
    """A style a method, by its place in the run; the baseline is always dark grey with crosses, yardsticks are pale."""
    styles = {}
    baseline = grid.baseline
    others = [method for method in grid.methods if method != baseline and method not in grid.yardsticks]
    for i, method in enumerate(others):
        styles[method] = MethodStyle(_COLOURS[i % 6], _MARKERS[i % 7], _LINES[i % 5])
    if baseline is not None:
        styles[baseline] = MethodStyle("#444444", "X", _LINES[5])
    styles |= {m: MethodStyle(FAINT, _THIN_MARKERS[i % 6], _LINES[2]) for i, m in enumerate(grid.yardsticks)}
    return styles


@contextmanager
def canvas(width: float = 4.6, height: float = 3.3, **grid: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure of `width` x `height` inches and its axes, in the report's style; no global state is left changed."""
    look: Any = sns.axes_style("ticks") | {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "grid.color": "#e6e6e6",
        "svg.hashsalt": "voxbench",
        "svg.fonttype": "path",
    }
    with mpl.rc_context(look):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**grid)


class _Interval(Protocol):
    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def line_with_intervals(axes: Axes, x: Any, found: Sequence[_Interval], style: MethodStyle, label: str) -> None:
    """Means over x [N], joined, each with its 95 % interval."""
    means, low, high = (np.array([getattr(one, what) for one in found]) for what in ("mean", "low", "high"))
    axes.errorbar(
        x,
        means,
        np.nan_to_num(np.stack([means - low, high - means])).clip(min=0),
        color=style.color,
        marker=style.marker,
        linestyle=style.line,
        markersize=5,
        linewidth=1.5,
        elinewidth=0.9,
        capsize=2,
        label=label,
    )


def tidy(axes: Axes, grid: str = "y") -> None:
    """Spines and grid lines as quiet as can be."""
    sns.despine(ax=axes)
    axes.grid(visible=True, axis=grid, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def finish(figure: Figure, name: str, title: str, alt: str) -> Plot:
    """Draw it; equal figures give equal bytes. To be called inside `canvas`."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # laid out already
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Plot(name=name, title=title, alt=alt, svg=svg.getvalue(), png=png.getvalue())
