"""What a training step's time goes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from voxbench.reports.plots.style import Plot, canvas, finish, tidy

COLOURS = {
    "data": "#999999",
    "maps": "#de8f05",
    "augmentation": "#d55e00",
    "forward": "#0173b2",
    "backward": "#56b4e9",
    "optimiser": "k",
    "rest": "#dddddd",
}


def parts_of_a_step(profile: Mapping[str, Any]) -> Plot:
    """A bar a kind of step, from the record of `bench profile`: milliseconds a volume, by part.

    Below them, where peers were measured, one a library: two views, and nothing trained.
    """
    rows, peers = profile["workloads"], profile.get("peers", [])
    names = [" ".join(dict.fromkeys(filter(None, (row["method"], row["stage"])))) for row in rows]
    heights = [len(rows), len(peers)][: 2 if peers else 1]
    height = 0.9 + 0.28 * sum(heights) + (0.8 if peers else 0)
    with canvas(5.6, height, nrows=len(heights), height_ratios=heights, squeeze=False) as (figure, panels):
        axes = panels[0, 0]
        left = [0.0] * len(rows)
        for part, colour in COLOURS.items():
            widths = [1000 * row["seconds"].get(part, 0.0) / (row["batch"] * row["views"]) for row in rows]
            axes.barh(names, widths, left=left, color=colour, label=part, height=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="milliseconds a volume")
        axes.set_title(f"A training step by part, {profile['device']}")
        tidy(axes, "x")
        if peers:
            _draw_peers(panels[1, 0], peers)
        figure.legend(loc="outside lower center", ncols=4)
        return finish(
            figure,
            "profile",
            "A training step by part",
            "Milliseconds a volume of each kind of training step, by part.",
        )


def _draw_peers(axes: Axes, peers: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{one['name']} {one['version']}" for one in peers]
    axes.barh(names, [1000 / one["volumes_per_second"] for one in peers], color=COLOURS["augmentation"], height=0.7)
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds a volume")
    axes.set_title("Two views, data and augmentation alone")
    tidy(axes, "x")
