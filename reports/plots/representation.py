"""Maps of what encoders make of the volumes, before and after a stage, coloured by finding."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import seaborn as sns

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.plots.pretraining import stage_title
from voxbench.reports.plots.style import FAINT, Plot, canvas, finish
from voxbench.reports.reading.redact import redact
from voxbench.reports.reading.results import Stage

SHOWN = 7  # groups with a colour of their own, the largest; what is left is grey
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True, kw_only=True)
class Map:
    """Places of n volumes in the plane. Whose they are is not known."""

    groups: npt.NDArray[np.str_]  # [n] finding, or class
    initial: npt.NDArray[np.float32]  # [n, 2]
    trained: npt.NDArray[np.float32]  # [n, 2]


def representation(analysis: Analysis) -> list[Plot]:
    """For each method and stage that has one, the map of its first run."""
    maps: dict[tuple[str, str], Map] = {}
    for stage in sorted(analysis.grid.stages, key=lambda one: (one.method, one.name, one.seed, one.key)):
        place = (stage.method, stage.name)
        if stage.method in analysis.grid.methods and place not in maps and (found := _load(stage)) is not None:
            maps[place] = found
    order = {method: i for i, method in enumerate(analysis.grid.methods)}
    return [_plot(*place, maps[place]) for place in sorted(maps, key=lambda place: (order[place[0]], place[1]))]


def _load(stage: Stage) -> Map | None:
    path = stage.folder / "map.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Map(**{name: file[name] for name in ("groups", "initial", "trained")})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # half-written: the report goes without it
    shape = (len(found.groups), 2)
    return found if found.initial.shape == found.trained.shape == shape else None


def _plot(method: str, name: str, found: Map) -> Plot:
    names, counts = np.unique(found.groups, return_counts=True)
    ranked = [str(names[i]) for i in np.argsort(-counts, kind="stable")]
    shown = ranked[:SHOWN]
    colours = sns.color_palette("colorblind", SHOWN)
    title = stage_title(method, name)
    with canvas(4.9, 2.8, ncols=2) as (figure, axes):
        for one, places, when in zip(
            axes, (found.initial, found.trained), ("as initialised", "after the stage"), strict=True
        ):
            rest = ~np.isin(found.groups, shown)
            if rest.any():
                one.scatter(*places[rest].T, s=9, color=FAINT, marker=".", label="others")
            for i, group in enumerate(shown):
                of = found.groups == group
                one.scatter(
                    *places[of].T,
                    s=9,
                    color=colours[i],
                    marker=_MARKERS[i],
                    linewidths=0,
                    alpha=0.8,
                    label=redact(group),
                )
            one.set(xticks=[], yticks=[])
            one.set_title(when)
            for spine in one.spines.values():
                spine.set_color(FAINT)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return finish(
            figure,
            f"map-{method}-{name}",
            f"Features of {title}",
            f"t-SNE of the encoder's features of {len(found.groups)} labelled training volumes, as initialised and "
            f"after stage {name} of {method}, coloured by finding: {', '.join(map(redact, ranked))}.",
        )
