"""What a stage shows for volumes whose lesion is known: slices for the report, and how well it finds the lesion.

For evaluation only: nothing here flows back into training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.settings.keys import generator
from voxbench.benchmark.training.context import Context
from voxbench.datasets.files import write_whole
from voxbench.methods.base import Stage
from voxbench.methods.parts.median import median_filter
from voxbench.methods.parts.median_image import MedianImage

Array = npt.NDArray[np.float32]
SHOWN = 6  # volumes in a figure
AT_ONCE = 8  # volumes in memory: full-resolution maps of many channels are large
SCORED = 48  # volumes with a lesion in the localisation score
MEDIAN_OF = 256  # volumes, evenly from all
FILTER = 3  # voxels, of the difference from their median
DRAWS = 4  # reconstructions whose differences are averaged: SparK hides other patches each time


def write_examples(context: Context, plan: StagePlan, stage: Stage) -> dict[str, Any]:
    """Writes ``examples.npz`` and returns the localisation score, where the stage and the dataset have what it takes.

    `localisation`: mean over volumes of the voxel average precision of the stage's residual against the lesion mask;
    `localisation_median`: the same of the difference from the median image of the stage's volumes, which needs no
    training; `localisation_chance`: mean share of lesion voxels, what a map without skill gets. Only labelled volumes
    that the stage was not trained on are looked at.
    """
    if stage.reconstruct is None:
        return {}
    chosen = _chosen(context, plan)
    if not chosen:
        return {}
    volumes = context.bank.batch(chosen, context.device)  # [N, C, D, H, W]
    shown, residual = _look(stage, volumes, generator(plan.key, "examples"))
    masks = [context.dataset.lesion_mask(context.bank.items[i]) for i in chosen]
    few = slice(0, SHOWN)
    images = {
        "volume": _slices(volumes[few, 0].float().cpu().numpy(), masks[few]),
        stage.shows: _slices(shown[few, 0], masks[few]),
        "residual": _slices(residual[few, 0], masks[few]),
        "mask": _slices(np.stack([_known(mask, shown.shape[2:]) for mask in masks[few]]), masks[few]),
        "names": np.array([context.bank.items[i].finding or "unknown" for i in chosen[few]]),
    }
    path = context.store.stage_folder(plan.key) / "examples.npz"
    write_whole(path, lambda file: np.savez_compressed(file, **images))
    truth = {i: mask for i, mask in enumerate(masks) if mask is not None and mask.any() and not mask.all()}
    if not truth:
        return {}
    known, lesions = list(truth), list(truth.values())
    return {
        "localisation": _found(lesions, residual[known, 0]),
        "localisation_median": _found(lesions, _untrained(context, plan, volumes[known])[:, 0]),
        "localisation_chance": float(np.mean([mask.mean() for mask in lesions])),
        "n_localised": len(known),
    }


def _found(masks: Sequence[Any], maps: Array) -> float:
    """Mean over volumes of the voxel average precision of maps [N, D, H, W]."""
    return float(np.mean([average_precision_score(m.ravel(), r.ravel()) for m, r in zip(masks, maps, strict=True)]))


def _untrained(context: Context, plan: StagePlan, volumes: Tensor) -> Array:
    """How far `volumes` [N, C, D, H, W] are from the median image of the stage's, filtered as residuals mostly are."""
    every = math.ceil(len(plan.members) / MEDIAN_OF)
    members = plan.members[::every]
    image = MedianImage(context.bank.shape)
    image.learn(context.bank.batch(members[i : i + AT_ONCE]) for i in range(0, len(members), AT_ONCE))
    volumes = volumes.float().cpu()
    return median_filter((volumes - image(volumes)).abs(), FILTER).numpy()


def _look(stage: Stage, volumes: Tensor, rng: torch.Generator) -> tuple[Array, Array]:
    """What the stage shows first, and its residual, both [N, C, D, H, W] of `volumes`."""
    reconstruct = stage.reconstruct
    assert reconstruct is not None

    def one() -> Array:
        parts = [reconstruct(part, rng).float().cpu().numpy() for part in torch.split(volumes, AT_ONCE)]
        return np.concatenate(parts)

    with torch.no_grad():
        shown = one()
        if stage.shows == "residual":
            return shown, shown
        truth = volumes.float().cpu().numpy()
        draws = [shown, *(one() for _ in range(DRAWS - 1))]
    return shown, np.mean([np.abs(truth - draw) for draw in draws], axis=0)


def _chosen(context: Context, plan: StagePlan) -> list[int]:
    """Labelled volumes that the stage did not see, none closed or known to be normal: each kind of finding in turn."""
    known = {*plan.members, *context.bank.closed}
    kinds: dict[str, list[int]] = {}
    for i, item in enumerate(context.bank.items):
        if item.label is not None and item.label != context.dataset.normal and i not in known:
            kinds.setdefault(item.finding or "", []).append(i)
    chosen: list[int] = []
    while len(chosen) < SCORED and any(kinds.values()):
        chosen += [members.pop(0) for members in kinds.values() if members]
    return chosen[:SCORED]


def _slices(volumes: Any, masks: list[Any]) -> Any:
    """One axial slice [D, H] a volume: through the middle of the lesion where it is known."""
    picked = []
    for volume, mask in zip(volumes, masks, strict=True):
        level = volume.shape[2] // 2
        if mask is not None and mask.any():
            level = int(np.argmax(mask.sum(axis=(0, 1))))
        picked.append(volume[:, :, level].astype(np.float16))
    return np.stack(picked)


def _known(mask: Any, shape: tuple[int, ...]) -> Any:
    return np.zeros(shape, bool) if mask is None else mask
