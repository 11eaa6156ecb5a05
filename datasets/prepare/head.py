"""One head from file to crops: what a worker process does."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import cause, remedy
from voxbench.datasets.prepare import crop, picture, quality, store
from voxbench.datasets.prepare.limits import Limits
from voxbench.datasets.prepare.pyramid import STAGES_MM, Pyramid, Target, make_pyramid
from voxbench.datasets.prepare.quality import SIDES
from voxbench.datasets.prepare.reference import Reference
from voxbench.datasets.prepare.register import Registration, register
from voxbench.datasets.prepare.scans import ScanModality
from voxbench.datasets.prepare.volume import Matrix, Volume, read_volume, to_grid

VERSION = 3  # raise it when results change: earlier heads are then done again


@dataclass(frozen=True)
class Recipe:
    """Everything besides the scan that decides a head's crops."""

    reference: Reference
    limits: Limits
    samples: int
    spread_mm: float
    crop_mm: float
    size: int
    mirror: Literal["left", "right", "none"]
    seed: int

    def position_key(self) -> dict[str, Any]:
        """What decides the registration."""
        head = {"reference": self.reference.sha256, "centroids": self.reference.centroids}
        return {"version": VERSION, "seed": self.seed, **head}

    def key(self) -> dict[str, Any]:
        """What decides everything."""
        rest = {"limits": asdict(self.limits), "samples": self.samples, "spread_mm": self.spread_mm}
        cube = {"crop_mm": self.crop_mm, "size": self.size, "mirror": self.mirror}
        return {**self.position_key(), **rest, **cube}


@dataclass(frozen=True)
class Task:
    """A head to be done."""

    path: Path
    sha256: str
    modality: ScanModality
    code: str
    out: Path
    recipe: Recipe

    def position_key(self) -> str:
        """Hash of what decides the registration."""
        return store.digest([self.sha256, self.modality, self.recipe.position_key()])

    def key(self) -> str:
        """Hash of what decides the crops."""
        return store.digest([self.sha256, self.modality, self.recipe.key(), self.code])


@lru_cache(maxsize=2)
def target_of(reference: Reference) -> Target:
    """The reference, read once a process."""
    return reference.target()


def check_scan(path: Path, modality: ScanModality) -> tuple[str, str]:
    """(SHA-256, "") of a good file, ("", what is wrong) of a bad one."""
    try:
        read_volume(path, modality)
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), ""
    except DatasetError as error:
        return "", error.message
    except OSError as error:
        return "", f"{cause(error)}; {remedy(error)}"


def do_head(task: Task) -> store.Record:
    """Register, judge, crop, draw; write the crops, the picture and, last, the record; return the record."""
    scan = read_volume(task.path, task.modality)
    target = target_of(task.recipe.reference)
    pyramid = make_pyramid(to_grid(scan, STAGES_MM[-1]))
    folder = store.Store(task.out)
    position = find_position(task, target, pyramid, folder.record(task.code))
    transform = np.array(position["transform"])
    found = Registration(transform, position["information"], position["covered"], tuple(position["apart"]))
    head = quality.head_figures(found)
    refused = quality.judge_head(head, task.recipe.limits)
    *window, rule = crop.intensity_window(scan, target, transform)
    low, high = float(window[0]), float(window[1])
    sides, files = {}, []
    for side, centroid in zip(SIDES, task.recipe.reference.points(), strict=True):
        figures = quality.side_figures(target, scan, pyramid, found, centroid, side)
        reasons = refused or quality.judge_side(figures, task.recipe.limits)
        crops = [] if reasons else write_crops(task, scan, transform, centroid, side, (low, high))
        files += [c["path"] for c in crops]
        sides[side] = {**quality.as_record(figures), "refused": reasons, "crops": crops}
    drawn = f"heads/{task.code}.jpg"
    boxes = {
        side: crop.box_at(transform, c, task.recipe.crop_mm, task.recipe.size, mirrored=False)
        for side, c in zip(SIDES, task.recipe.reference.points(), strict=True)
    }
    taken = {side: not sides[side]["refused"] for side in SIDES}
    store.write(task.out / drawn, picture.draw(pyramid.fine, transform, target, boxes, taken))
    record: store.Record = {
        "code": task.code, "key": task.key(), "position": position, "head": quality.as_record(head), "sides": sides,
        "modality": scan.modality, "shape": list(scan.data.shape), "spacing": [round(s, 4) for s in scan.spacing],
        "intensity": {"low": low, "high": high, "rule": rule}, "notes": list(scan.notes), "files": [*files, drawn],
    }  # fmt: skip
    store.write(folder.record_path(task.code), store.dump(record))
    return record


def find_position(task: Task, target: Target, pyramid: Pyramid, earlier: store.Record | None) -> dict[str, Any]:
    """The registration, or that of an earlier call if nothing that decides it has changed."""
    if earlier is not None and earlier["position"]["key"] == task.position_key():
        return dict(earlier["position"])
    found = register(target, pyramid, task.recipe.reference.points(), task.recipe.seed)
    return {
        "key": task.position_key(), "transform": found.transform.tolist(), "apart": list(found.apart),
        "information": found.information, "covered": found.covered,
    }  # fmt: skip


def write_crops(
    task: Task,
    scan: Volume,
    transform: Matrix,
    centroid: Matrix,
    side: quality.Side,
    window: tuple[float, float],
) -> list[dict[str, Any]]:
    """Cut and write one sinus's crops; the draws depend on seed, scan and side alone."""
    recipe = task.recipe
    rng = np.random.default_rng([recipe.seed, int(task.sha256[:15], 16), SIDES.index(side)])
    mirrored = crop.is_mirrored(side, recipe.mirror)
    tag = task.key()[:8]  # crops of another recipe are other files: an old manifest never names new crops
    made = []
    for number, centre in enumerate(crop.sample_centres(centroid, recipe.samples, recipe.spread_mm, rng)):
        box = crop.box_at(transform, centre, recipe.crop_mm, recipe.size, mirrored=mirrored)
        path = f"crops/{task.code}/{task.code}_{tag}_{side}_{number:02d}.nii.gz"
        store.write(task.out / path, crop.encode(crop.cut(scan, box, window), box.affine))
        made.append({"path": path, "centre": [round(float(v), 3) for v in centre], "mirrored": mirrored})
    return made
