"""`sinus-implant`: phantom findings in the sinuses of real heads, which `--data-root` names.

Each head goes through `bench prepare` once (kept in the user's cache). A "patient" is then a variant of a head: both
sinuses bent by a random affine map and a smooth displacement, shifted, and seen by another scanner (contrast, bias
field, noise); findings grow in the air of the bent sinus as in `sinus-phantom`. Right sinuses are mirrored.

There are only as many real anatomies as heads: variants of one head lie on both sides of every split. So this tells
how a method copes with real tissue around a finding, and nothing about patients it has never seen.

A picture of every class: ``python -m voxbench.datasets.sinus.implant HEADS OUT.png``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from voxbench.datasets.base import Dataset, DatasetError, DatasetOptions, Item
from voxbench.datasets.machine import cache_folder
from voxbench.datasets.prepare import store
from voxbench.datasets.prepare.command import PrepareOptions, prepare
from voxbench.datasets.prepare.head import VERSION as PREPARE_VERSION
from voxbench.datasets.prepare.pyramid import tissue_threshold
from voxbench.datasets.prepare.quality import SINUS_RADII_MM, Side
from voxbench.datasets.prepare.reference import MNI_CENTROIDS
from voxbench.datasets.prepare.scans import is_nifti
from voxbench.datasets.prepare.volume import hash_file
from voxbench.datasets.sinus.anatomy import soft
from voxbench.datasets.sinus.findings import SHARES, Finding, Lesion, draw_finding, grow

Array = npt.NDArray[np.float32]

GENERATOR_VERSION = 2  # raise it whenever a volume or a label changes
BASE_MM, BASE_SIZE = 80.0, 96  # what is kept of a head around each sinus: room for bending and shifting
FIELD_OF_VIEW = 56.0  # mm, each axis of a volume
PREVALENCE = 0.54  # of label 1 among volumes, as in sinus-phantom
MIN_AIR_ML = 3.0  # a sinus with less air has a finding already, or was not found
REACH = 1.35  # air within so many radii of an average sinus is taken for the sinus's own
REFERENCE_NAMES = ("MNI152*T1*.nii*", "tpl-MNI152*T1w.nii*")  # a reference beside the heads, and no head itself


class SinusImplantOptions(DatasetOptions):
    """What `--set dataset.KEY=VALUE` may change."""

    patients: int = Field(default=60, ge=1, le=9999, description="labelled variants, two volumes each")
    pool_patients: int = Field(default=60, ge=0, le=9999, description="variants of the unlabelled pool")
    size: int = Field(default=32, ge=16, le=128, description="voxels along each axis of the 56 mm field of view")
    seed: int = Field(default=0, ge=0, description="another seed is another cohort")
    extent: float = Field(default=1.0, gt=0.2, le=3.0, description="size of findings; smaller is harder")
    bend: float = Field(default=1.0, ge=0.0, le=2.0, description="factor on how much variants of a head differ")


@dataclass(frozen=True)
class _Sinus:
    """One real sinus: image in [0, 1], signed distance to the cavity's wall (mm, negative inside), mucosa's signal."""

    image: Array
    cavity: Array
    mucosa: float


@dataclass(frozen=True)
class _Bent:
    """A variant of a sinus on the volume's grid."""

    image: Array
    cavity: Array
    grid: tuple[Array, Array, Array]
    lesion: Lesion


class SinusImplant(Dataset):
    """Phantom findings in real heads; see the module's text."""

    Options = SinusImplantOptions
    name: ClassVar[str] = "sinus-implant"
    about: ClassVar[str] = "phantom findings in the sinuses of real heads; the heads' folder by --data-root"
    public_ids: ClassVar[bool] = True
    is_phantom: ClassVar[bool] = True

    options: SinusImplantOptions

    @property
    def classes(self) -> tuple[str, ...]:
        """("normal", "anomalous")."""
        return ("normal", "anomalous")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[1, size, size, size]."""
        return (1, self.options.size, self.options.size, self.options.size)

    def items(self) -> Sequence[Item]:
        """Labelled volumes ("P0000-left", ...), then the pool; every head that passed has its turn."""
        made = []
        for cohort, count in (("P", self.options.patients), ("U", self.options.pool_patients)):
            for number in range(count):
                for side in self._heads[number % len(self._heads)]:
                    name = f"{cohort}{number:04d}"
                    if cohort == "U":
                        made.append(Item(volume=f"{name}-{side}", patient=name, side=side))
                        continue
                    finding = self._finding(cohort, number, side)
                    label = int(finding != "normal")
                    made.append(Item(volume=f"{name}-{side}", patient=name, side=side, label=label, finding=finding))
        return made

    def read(self, item: Item) -> npt.NDArray[np.float32]:
        """The volume, float32 [1, D, H, W] in [0, 1]."""
        bent, sinus = self._bent(item)
        air = soft(bent.cavity, FIELD_OF_VIEW / self.options.size)
        share = air * bent.lesion.share
        signal = bent.image + share * (sinus.mucosa * bent.lesion.brightness - bent.image)
        return _another_scanner(signal, self._rng(item, "scan"))[None]

    def lesion_mask(self, item: Item) -> npt.NDArray[np.bool_] | None:
        """Where the finding fills half a voxel or more, bool [D, H, W]; empty if normal, None in the pool."""
        if item.volume.startswith("U"):
            return None
        bent, _ = self._bent(item)
        share = soft(bent.cavity, FIELD_OF_VIEW / self.options.size) * bent.lesion.share
        return np.asarray((share >= min(0.5, 0.5 * float(share.max()))) & (share > 0))

    def fingerprint(self) -> str:
        """Hash of the heads' content, the generator's version and the options."""
        told = {
            "dataset": self.name,
            "generator": [GENERATOR_VERSION, PREPARE_VERSION],
            "options": self.options.model_dump(),
        }
        return hashlib.sha256(json.dumps([told, self._digest], sort_keys=True).encode()).hexdigest()

    # --- the heads ---

    @cached_property
    def _files(self) -> tuple[list[Path], Path | None]:
        """Heads, and a reference if one lies beside them."""
        if self.root is None or not self.root.is_dir():
            raise DatasetError("sinus-implant needs real heads: give their folder (NIfTI) as --data-root")
        files = sorted(p for p in self.root.rglob("*") if is_nifti(p) and p.is_file())
        references = [p for p in files if any(p.match(name) for name in REFERENCE_NAMES)]
        heads = [p for p in files if p not in references]
        if not heads:
            raise DatasetError(f"{self.root}: no NIfTI heads (.nii.gz) in here")
        return heads, references[0] if references else None

    @cached_property
    def _digest(self) -> list[str]:
        """Content hashes, wherever the files lie: of the heads in order, and of the reference."""
        heads, reference = self._files
        return [*sorted(hash_file(p) for p in heads), hash_file(reference) if reference else ""]

    @cached_property
    def _heads(self) -> list[dict[Side, Path]]:
        """The kept crop of each usable sinus of each head; heads in the order of their content."""
        heads, reference = self._files
        name = hashlib.sha256(json.dumps([GENERATOR_VERSION, self._digest]).encode()).hexdigest()[:16]
        out = cache_folder()[0] / "sinus-implant" / name
        out.mkdir(parents=True, exist_ok=True)
        table = out / "heads.csv"
        rows = [{"path": str(path.resolve()), "patient_id": f"h{hash_file(path)[:12]}"} for path in heads]
        store.write(table, store.table(("path", "patient_id"), rows))
        centroids = "/".join(",".join(f"{v:g}" for v in c) for c in MNI_CENTROIDS)
        prepare(
            PrepareOptions(
                scans=table, out=out / "prepared", reference=reference, centroids=centroids if reference else None,
                crop_mm=BASE_MM, size=BASE_SIZE, mirror="right", skip_broken=True,
            ),
            lambda _phase, done, total: self.progress(done, total) if self.progress is not None else None,
        )  # fmt: skip
        found: dict[str, dict[Side, Path]] = {}
        with (out / "prepared" / "private" / "sources.csv").open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                path = out / "prepared" / row["crop"]
                if row["crop"] and _sinus(path) is not None:
                    found.setdefault(row["patient_id"], {})["left" if row["side"] == "left" else "right"] = path
        usable = [found[patient] for patient in sorted(found)]
        if not usable:
            raise DatasetError(f"{self.root}: no head has a usable sinus; see {out / 'prepared' / 'index.html'}")
        return usable

    # --- variants ---

    def _rng(self, item: Item, topic: str) -> np.random.Generator:
        """A stream for each volume and topic, so that a finding leaves no trace in anything else."""
        return np.random.default_rng([self.options.seed, *f"{item.volume}/{topic}".encode()])

    def _finding(self, cohort: str, number: int, side: Side) -> Finding:
        rng = np.random.default_rng([self.options.seed, *f"{cohort}{number}/{side}/finding".encode()])
        return draw_finding(rng) if rng.random() < PREVALENCE else "normal"

    def _bent(self, item: Item) -> tuple[_Bent, _Sinus]:
        match = re.fullmatch(r"([PU])(\d{4})-(left|right)", item.volume)
        if match is None:
            raise DatasetError(f"sinus-implant has no volume {item.volume!r}; take items from items()")
        side: Side = "left" if match[3] == "left" else "right"
        sinus = _sinus(self._heads[int(match[2]) % len(self._heads)][side])
        if sinus is None:
            raise DatasetError(f"sinus-implant: the sinus of {item.volume} has no air; clear the cache and try again")
        size, bend = self.options.size, self.options.bend
        axis = (np.arange(size) + 0.5) * FIELD_OF_VIEW / size - FIELD_OF_VIEW / 2
        x, y, z = (np.asarray(g, np.float32) for g in np.meshgrid(axis, axis, axis, indexing="ij"))
        places = bend_places(np.stack([x, y, z]), self._rng(item, "bend"), bend)  # [3, D, H, W] mm
        index = places * (BASE_SIZE / BASE_MM) + (BASE_SIZE - 1) / 2
        image, cavity = (
            ndimage.map_coordinates(source, index, order=1, mode="nearest").astype(np.float32)
            for source in (sinus.image, sinus.cavity)
        )
        texture = _texture(self._rng(item, "texture"), image.shape, 3.0 * size / FIELD_OF_VIEW)
        lesion = grow(
            self._finding(match[1], int(match[2]), side), cavity, (x, y, z), texture, self._rng(item, "lesion"),
            voxel=FIELD_OF_VIEW / size, extent=self.options.extent,
        )  # fmt: skip
        return _Bent(image, cavity, (x, y, z), lesion), sinus


@lru_cache(maxsize=64)
def _sinus(path: Path) -> _Sinus | None:
    """Read a kept crop and find the sinus's air in it; None if there is too little."""
    image = np.asarray(nib.load(path).dataobj, dtype=np.float32)
    step = BASE_MM / BASE_SIZE
    threshold = tissue_threshold(image)
    axis = (np.arange(BASE_SIZE) - (BASE_SIZE - 1) / 2) * step
    radii = np.array(SINUS_RADII_MM) * REACH
    reach = sum((g / r) ** 2 for g, r in zip(np.meshgrid(axis, axis, axis, indexing="ij"), radii, strict=True))
    dark = ndimage.binary_opening((image < threshold) & (np.asarray(reach) < 1), iterations=2)
    pieces, count = ndimage.label(dark)
    sizes = np.bincount(pieces.ravel(), minlength=2)[1:]
    if count == 0 or sizes.max() * step**3 / 1000 < MIN_AIR_ML:
        return None
    air = ndimage.binary_fill_holes(pieces == 1 + sizes.argmax())
    outside = ndimage.distance_transform_edt(~air, sampling=step)
    inside = ndimage.distance_transform_edt(air, sampling=step)
    cavity = ndimage.gaussian_filter((outside - inside).astype(np.float32), 1.0)
    near = image[(image > threshold) & (outside < 15)]
    return _Sinus(image, cavity.astype(np.float32), float(np.median(near)))


def bend_places(places: Array, rng: np.random.Generator, bend: float) -> Array:
    """Where each point [3, D, H, W] (mm around the centre) is looked up: turned, stretched, shifted, displaced."""
    turn, _ = np.linalg.qr(np.eye(3) + bend * np.radians(8) * _antisymmetric(rng.normal(size=3) * 0.6))
    turn = turn * np.sign(np.diag(turn))  # qr may flip axes
    stretch = np.exp(bend * rng.normal(scale=0.06, size=3))
    shift = np.clip(bend * rng.normal(scale=(1.0, 1.0, 1.8)), -5, 5)
    moved = np.tensordot(turn * stretch, places, axes=1) + shift[:, None, None, None]
    coarse = rng.normal(scale=2.0 * bend, size=(3, 5, 5, 5))  # mm on a lattice 14 mm wide
    zoom = [1, *(n / 5 for n in places.shape[1:])]
    return np.asarray(moved + ndimage.zoom(coarse, zoom, order=3, mode="nearest"), dtype=np.float32)


def _antisymmetric(v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


def _texture(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Array:
    """Smooth noise of unit variance."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), width, mode="wrap")
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _another_scanner(signal: Array, rng: np.random.Generator) -> Array:
    """Bias field, contrast and Rician noise; percentiles 1 to 99 become 0 to 1."""
    field = np.zeros(signal.shape)
    for axis, size in enumerate(signal.shape):
        place = np.linspace(-1, 1, size).reshape([-1 if a == axis else 1 for a in range(3)])
        field = field + rng.normal(scale=0.08) * place + rng.normal(scale=0.05) * place**2
    level = rng.uniform(0.01, 0.03)
    real, imaginary = rng.normal(scale=level, size=(2, *signal.shape))
    magnitude = np.hypot(np.maximum(signal, 0) ** rng.uniform(0.8, 1.25) * np.exp(field) + real, imaginary)
    low, high = np.percentile(magnitude, [1, 99])
    return np.asarray(np.clip((magnitude - low) / (high - low), 0, 1), dtype=np.float32)


def picture(heads: Path, path: Path, *, size: int = 64, seed: int = 0) -> None:
    """Write a picture: a row a finding, in coronal, sagittal and axial planes of two patients, lesion outlined."""
    from matplotlib.figure import Figure  # heavy, and only needed here

    data = SinusImplant(SinusImplantOptions(seed=seed, size=size, pool_patients=0), heads)
    kinds: list[Literal["normal"] | str] = ["normal", *SHARES]
    figure = Figure(figsize=(10.5, 8.9), layout="constrained")
    axes = figure.subplots(len(kinds), 6)
    for row, kind in enumerate(kinds):
        chosen = [item for item in data.items() if item.finding == kind]
        for column, item in enumerate((chosen[0], next(i for i in chosen if i.patient[-1] != chosen[0].patient[-1]))):
            mask, volume = data.lesion_mask(item), data.read(item)[0]
            assert mask is not None  # labelled items have one
            at = [int(c) for c in (np.argwhere(mask).mean(axis=0) if mask.any() else np.full(3, size / 2))]
            for plane, across in enumerate((1, 0, 2)):
                shown: Any = axes[row, 3 * column + plane]
                shown.imshow(volume.take(at[across], axis=across).T, origin="lower", cmap="gray", vmin=0, vmax=1)
                outline = mask.take(at[across], axis=across)
                if outline.any():
                    shown.contour(outline.T.astype(float), levels=[0.5], colors="#e69f00", linewidths=0.8)
                shown.set_xticks([])
                shown.set_yticks([])
                if row == 0:
                    shown.set_title(("coronal", "sagittal", "axial")[plane])
        axes[row, 0].set_ylabel(kind)
    figure.savefig(path, dpi=80)


def main() -> None:
    """``python -m voxbench.datasets.sinus.implant HEADS OUT.png``."""
    parser = argparse.ArgumentParser(description="Write a picture of sinus-implant, a row for each finding.")
    parser.add_argument("heads", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    picture(args.heads, args.out, seed=args.seed)


if __name__ == "__main__":
    main()
