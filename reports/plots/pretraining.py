"""Pretraining curves, a figure a method and stage, with the collapse indicator where it is watched."""

from __future__ import annotations

import math
from collections.abc import Sequence

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.plots.style import FAINT, Plot, canvas, finish, method_styles, tidy
from voxbench.reports.reading.results import Stage


def pretraining(analysis: Analysis) -> list[Plot]:
    """All runs of a stage in one figure: the loss above, the collapse indicator (0 healthy, 1 collapsed) below."""
    grid = analysis.grid
    groups: dict[tuple[str, str], list[Stage]] = {}
    for stage in grid.stages:
        if stage.method in grid.methods and _series(stage, "loss")[0]:
            groups.setdefault((stage.method, stage.name), []).append(stage)
    order = {method: i for i, method in enumerate(grid.methods)}
    keys = sorted(groups, key=lambda key: (order[key[0]], key[1]))
    return [_plot(analysis, method, name, groups[method, name]) for method, name in keys]


def _plot(analysis: Analysis, method: str, name: str, stages: Sequence[Stage]) -> Plot:
    style = method_styles(analysis.grid)[method]
    watched = any(_series(stage, "collapse")[0] for stage in stages)
    height = {"height_ratios": [1.6, 1]} if watched else {}
    with canvas(3.1, 2.6 if watched else 2.0, nrows=2 if watched else 1, sharex=True, **height) as (figure, axes):
        loss, collapse = axes if watched else (axes, None)
        for stage in stages:
            steps, losses = _series(stage, "loss")
            point = "." if len(steps) < 3 else ""  # a line through one point is not seen
            loss.plot(steps, losses, color=style.color, linewidth=1.1, alpha=0.75, marker=point)
            if collapse is not None:
                collapse.plot(*_series(stage, "collapse"), color=style.color, linewidth=1.1, alpha=0.75, marker=point)
        loss.set(ylabel="loss")
        loss.set_title(stage_title(method, name))
        tidy(loss)
        if collapse is not None:
            collapse.set(ylabel="collapse", ylim=(-0.04, 1.04), yticks=[0, 1])
            collapse.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
            tidy(collapse)
        (collapse or loss).set_xlabel("step")
        collapsed = sum(stage.collapsed for stage in stages)
        warning = f" {collapsed} of {len(stages)} collapsed." if collapsed else ""
        return finish(
            figure,
            f"pretraining-{method}-{name}",
            f"Pretraining of {stage_title(method, name)}",
            f"Loss of {len(stages)} runs of stage {name} of {method}"
            f"{', with the collapse indicator' if watched else ''}.{warning}",
        )


def stage_title(method: str, name: str) -> str:
    """`residual: autoencoder`; the name alone where method and stage are called the same."""
    return method if name == method else f"{method}: {name}"


def _series(stage: Stage, what: str) -> tuple[list[float], list[float]]:
    points = [(float(p["step"]), float(p[what])) for p in stage.curve if p.get(what) is not None]
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    return [x for x, _ in finite], [y for _, y in finite]
