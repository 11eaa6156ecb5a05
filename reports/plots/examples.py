"""Slices of what a stage shows: input, residual or reconstruction, and the true lesion where it is known."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.plots.pretraining import stage_title
from voxbench.reports.plots.style import Plot, canvas, finish
from voxbench.reports.reading.results import Stage, percent

SHOWN = 6
SCORES = ("localisation", "localisation_median", "localisation_chance")
ROWS = {"volume": "input", "reconstruction": "reconstruction", "residual": "residual", "mask": "true lesion"}


def examples(analysis: Analysis) -> list[Plot]:
    """For every method and stage that shows something: its first run's slices, and all its runs' localisation."""
    runs: dict[tuple[str, str], list[Stage]] = {}
    for stage in sorted(analysis.grid.stages, key=lambda one: (one.method, one.name, one.seed, one.key)):
        if stage.method in analysis.grid.methods:
            runs.setdefault((stage.method, stage.name), []).append(stage)
    plots = []
    for stages in runs.values():
        drawn = next(((stage, images) for stage in stages if (images := _load(stage)) is not None), None)
        if drawn is not None:
            stage, images = drawn
            title = f"{stage_title(stage.method, stage.name)}{_found(stages)}; slices: {_which(analysis, stage)}"
            plot = _plot(stage, images, title)
            plots.append(replace(plot, real_images=real_images(analysis.grid.dataset)))
    return plots


def real_images(dataset: Mapping[str, Any]) -> bool:
    """Whether the volumes of a dataset.json may be of patients: all but those that it calls made by a program."""
    return dataset.get("real_images") is not False


def _load(stage: Stage) -> dict[str, npt.NDArray[np.generic]] | None:
    path = stage.folder / "examples.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            images = {name: file[name] for name in (*ROWS, "names") if name in file}
    except (OSError, ValueError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile):
        return None  # damaged: the report goes without it, as it does where a stage shows nothing
    enough = {"volume", "residual"} <= images.keys() and images["volume"].ndim == 3 and len(images["volume"]) > 0
    return images if enough else None


def _plot(stage: Stage, images: dict[str, npt.NDArray[np.generic]], title: str) -> Plot:
    rows = [(label, key) for key, label in ROWS.items() if key in images and (key != "mask" or images[key].any())]
    count = min(SHOWN, len(images["volume"]))
    names = [str(name) for name in images.get("names", np.array([""] * count))]
    with canvas(0.4 + 1.15 * count, 0.3 + 1.2 * len(rows), nrows=len(rows), ncols=count, squeeze=False) as (fig, axes):
        for i in range(count):
            for (label, key), row in zip(rows, axes, strict=True):
                # [x, y] in RAS+: x to the right of the picture, y upwards.
                picture = np.asarray(images[key][i], dtype=np.float32).T
                top = max(float(picture.max()), 1e-6) if key == "residual" else 1.0
                row[i].imshow(picture, cmap="gray", vmin=0, vmax=top, origin="lower", interpolation="nearest")
                row[i].set(xticks=[], yticks=[])
                for spine in row[i].spines.values():
                    spine.set_visible(False)
                if i == 0:
                    row[i].set_ylabel(label)
            axes[0][i].set_title("" if names[i] == "unknown" else names[i], fontsize=7.5, loc="center")
        return finish(
            fig,
            f"examples-{stage.method}-{stage.name}",
            title,
            f"Slices of {count} volumes in stage {stage.name} of {stage.method}: "
            f"{', '.join(label for label, _ in rows)}.",
        )


def _found(stages: Sequence[Stage]) -> str:
    """The localisation score, a mean over the runs of one stage that have one."""
    scored = [stage for stage in stages if not math.isnan(stage.localisation)]
    if not scored:
        return ""
    score, median, chance = (float(np.mean([getattr(stage, name) for stage in scored])) for name in SCORES)
    runs = f", mean of {len(scored)} runs" if len(scored) > 1 else ""
    beside = "" if math.isnan(median) else f", median image {median:.2f}"
    return f" (voxel AUPRC against the lesion {score:.2f}{runs}{beside}, no skill {chance:.2f})"


def _which(analysis: Analysis, stage: Stage) -> str:
    """Fraction and fold, where all cells that build on the stage share them, and seed."""
    rows = [cell.row for cell in analysis.grid.cells.values() if cell.row is not None]
    places = [row.place for row in rows if stage.key in row.stages]
    fractions, folds = {place.fraction for place in places}, {place.fold for place in places}
    known = [f"{percent(one)} of the labels" for one in fractions if len(fractions) == 1]
    known += [f"fold {one}" for one in folds if len(folds) == 1]
    return ", ".join([*known, f"seed {stage.seed}"])
