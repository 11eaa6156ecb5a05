"""What a training step's time goes into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """A bar a kind of step, from the record of `bench profile`: milliseconds a volume, by part."""
    rows = profile["workloads"]
    names = [" ".join(dict.fromkeys(filter(None, (row["method"], row["stage"])))) for row in rows]
    with canvas(5.6, 0.9 + 0.28 * len(rows)) as (figure, axes):
        left = [0.0] * len(rows)
        for part, colour in COLOURS.items():
            widths = [1000 * row["seconds"].get(part, 0.0) / (row["batch"] * row["views"]) for row in rows]
            axes.barh(names, widths, left=left, color=colour, label=part, height=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="milliseconds a volume")
        axes.set_title(f"A training step by part, {profile['device']}")
        tidy(axes)
        figure.legend(loc="outside lower center", ncols=5)
        return finish(
            figure,
            "profile",
            "A training step by part",
            "Milliseconds a volume of each kind of training step, by part.",
        )
