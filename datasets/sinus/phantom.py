"""`sinus-phantom`: an MRI-like maxillary sinus in 3D, made on read from a seed; nothing to download.

It is a phantom. It serves to tell methods apart in minutes on any machine, and says nothing about patients.
Every volume is a function of (seed, cohort, patient, side) and the options alone, so order, threads and
processes cannot change it. Right sinuses are mirrored along x, as in the seed paper's data (Bhattacharya et
al., IJCARS 2024), so all volumes look like left ones: x to the nose, y to the face, z up.

A picture of every class: ``python -m voxbench.datasets.sinus.phantom OUT.png``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.ndimage import gaussian_filter1d

from voxbench.datasets.base import Dataset, DatasetError, DatasetOptions, Item
from voxbench.datasets.sinus.anatomy import Array, Scene, draw_anatomy, paint_side
from voxbench.datasets.sinus.findings import Finding, Lesion, draw_finding, grow

GENERATOR_VERSION = 2  # raise it whenever a volume or a label changes: cached volumes and results hang on it

FIELD_OF_VIEW = 50.0  # mm, each axis, at any size
PREVALENCE = 0.54  # of label 1 among volumes
BOTH_SIDES = 0.38  # share of patients with a finding on both sides; 0.29 if the sides were independent
SAME_FINDING = 0.4  # of those, how often the second side copies the kind of the first
GOLDEN = (5**0.5 - 1) / 2

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
COHORTS = {"P": "labelled", "U": "unlabelled pool"}


class SinusPhantomOptions(DatasetOptions):
    """What `--set dataset.KEY=VALUE` may change."""

    patients: int = Field(default=200, ge=1, le=9999, description="labelled patients, two volumes each")
    pool_patients: int = Field(
        default=300, ge=0, le=9999, description="patients of the unlabelled pool, two volumes each"
    )
    size: int = Field(default=32, ge=16, le=128, description="voxels along each axis of the 50 mm field of view")
    seed: int = Field(default=0, ge=0, description="another seed is another cohort")
    extent: float = Field(default=1.0, gt=0.2, le=3.0, description="size of findings; smaller is harder")
    noise: float = Field(default=1.0, ge=0.0, le=10.0, description="factor on the Rician noise; larger is harder")
    jitter: float = Field(
        default=1.6, ge=0.0, le=5.0, description="factor on the spread of the crop's centre: 1 mm, 1.8 mm in z"
    )


@dataclass(frozen=True)
class _Case:
    """Who a volume is: all that its random numbers depend on, besides the options."""

    cohort: str  # a key of COHORTS
    patient: int
    side: Side

    @property
    def name(self) -> str:
        return f"{self.cohort}{self.patient:04d}"


class SinusPhantom(Dataset):
    """The embedded phantom cohort; see the module's text."""

    Options = SinusPhantomOptions
    name: ClassVar[str] = "sinus-phantom"
    about: ClassVar[str] = "embedded phantom of the maxillary sinus (MRI-like, 5 findings); nothing to download"
    public_ids: ClassVar[bool] = True
    is_phantom: ClassVar[bool] = True
    real_images: ClassVar[bool] = False

    options: SinusPhantomOptions

    def __init__(self, options: SinusPhantomOptions, root: Path | None = None) -> None:
        """`options` as above; `root` is not used, for nothing is read from disk."""
        super().__init__(options, root)

    @property
    def classes(self) -> tuple[str, ...]:
        """("normal", "anomalous")."""
        return ("normal", "anomalous")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[1, size, size, size]."""
        return (1, self.options.size, self.options.size, self.options.size)

    def items(self) -> Sequence[Item]:
        """Labelled volumes ("P0000-left", ...), then the pool ("U0000-left", ...) without findings told."""
        counts = {"P": self.options.patients, "U": self.options.pool_patients}
        cases = [_Case(cohort, n, side) for cohort in COHORTS for n in range(counts[cohort]) for side in SIDES]
        return [self._item(case) for case in cases]

    def read(self, item: Item) -> npt.NDArray[np.float32]:
        """The volume, float32 [1, D, H, W] in [0, 1]."""
        return self._scan(self._case(item), with_finding=True)

    def read_without_finding(self, item: Item) -> npt.NDArray[np.float32]:
        """The same sinus in the same scan before its finding grew, [1, D, H, W]; for evaluation only."""
        return self._scan(self._case(item), with_finding=False)

    def lesion_mask(self, item: Item) -> npt.NDArray[np.bool_] | None:
        """Where the finding fills half a voxel or more, bool [D, H, W]; empty if normal, None in the pool."""
        case = self._case(item)
        if case.cohort == "U":
            return None
        scene, lesion = self._scene(case)
        share = scene.air * lesion.share
        # Half a voxel is the rule; of a finding that fills no voxel by half, its fullest voxels count.
        threshold = min(0.5, 0.5 * float(share.max()))
        return np.asarray((share >= threshold) & (share > 0))

    def fingerprint(self) -> str:
        """Hash of the generator's version and the options."""
        told = {"dataset": self.name, "generator": GENERATOR_VERSION, "options": self.options.model_dump()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _item(self, case: _Case) -> Item:
        volume = f"{case.name}-{case.side}"
        if case.cohort == "U":
            return Item(volume=volume, patient=case.name, side=case.side)
        finding = self._finding(case)
        return Item(volume=volume, patient=case.name, side=case.side, label=int(finding != "normal"), finding=finding)

    def _case(self, item: Item) -> _Case:
        """The case behind an item; raises DatasetError where this phantom has no such volume."""
        counts = {"P": self.options.patients, "U": self.options.pool_patients}
        match = re.fullmatch(r"([PU])(\d{4})-(left|right)", item.volume)
        if match is None or int(match[2]) >= counts[match[1]]:
            raise DatasetError(f"sinus-phantom has no volume {item.volume!r}; take items from items()")
        return _Case(match[1], int(match[2]), "left" if match[3] == "left" else "right")

    def _rng(self, case: _Case, topic: str, side: bool = True) -> np.random.Generator:
        """A stream for each topic, so that a finding cannot leave a trace in noise, bias or position."""
        key = [self.options.seed, ord(case.cohort), case.patient, 1 + SIDES.index(case.side) if side else 0]
        return np.random.default_rng([*key, *topic.encode()])

    def _finding(self, case: _Case) -> Finding:
        """Findings of a patient's two sides are drawn together; of two, the second often copies the first."""
        # A golden-ratio sequence with a random start spreads patients evenly over the four states: any number
        # of patients has the stated prevalence, and more patients leave the earlier ones as they are.
        start = np.random.default_rng([self.options.seed, ord(case.cohort)]).random()
        place = (start + case.patient * GOLDEN) % 1.0
        one_side = PREVALENCE - BOTH_SIDES
        first = place < PREVALENCE  # left: [0, both) and then [both, both + one)
        second = place < BOTH_SIDES or PREVALENCE <= place < PREVALENCE + one_side
        rng = self._rng(case, "finding", side=False)
        left, other = draw_finding(rng), draw_finding(rng)
        right = left if first and second and rng.random() < SAME_FINDING else other
        present, kind = (first, left) if case.side == "left" else (second, right)
        return kind if present else "normal"

    def _scene(self, case: _Case) -> tuple[Scene, Lesion]:
        """Anatomy and finding on the crop's grid, before the scanner."""
        size, options = self.options.size, self.options
        voxel = FIELD_OF_VIEW / size
        # 1.6 times this is how far `bench prepare` places crops from the sinuses of real heads (docs/phantom.md).
        spread = self._rng(case, "position").normal(scale=(1.0, 1.0, 1.8)).clip(-5, 5)
        centre = options.jitter * spread
        axis = (np.arange(size) + 0.5) * voxel - FIELD_OF_VIEW / 2
        grid = [np.asarray(g, np.float32) for g in np.meshgrid(*(axis + c for c in centre), indexing="ij")]
        anatomy = draw_anatomy(self._rng(case, "anatomy", side=False), self._rng(case, "anatomy"))
        scene = paint_side(anatomy, grid, voxel)
        lesion = grow(
            self._finding(case), scene.cavity, grid, scene.texture, self._rng(case, "lesion"),
            voxel=voxel, extent=options.extent,
        )  # fmt: skip
        return scene, Lesion(lesion.share, lesion.brightness * anatomy.signal["mucosa"])

    def _scan(self, case: _Case, *, with_finding: bool) -> npt.NDArray[np.float32]:
        scene, lesion = self._scene(case)
        signal = scene.signal
        if with_finding:
            signal = signal + scene.air * lesion.share * (lesion.brightness - signal)
        scanner, side = self._rng(case, "scanner", side=False), self._rng(case, "scan")
        return _acquire(signal, scanner, side, FIELD_OF_VIEW / self.options.size, self.options.noise)[None]


def _acquire(
    signal: Array, scanner: np.random.Generator, side: np.random.Generator, voxel: float, noise: float
) -> Array:
    """What a scanner makes of [D, H, W]: blur (thick slices), bias field, Rician noise, scaling to [0, 1].

    `scanner` draws what both sides of a patient share; `side` draws the rest.
    """
    slices = 2 if scanner.random() < 0.7 else int(scanner.integers(0, 2))  # axial for most, else sagittal or coronal
    blur = np.full(3, scanner.uniform(0.35, 0.7))  # mm
    blur[slices] = scanner.uniform(0.5, 1.7)
    slope = scanner.normal(scale=0.10, size=(3, 2)) + side.normal(scale=0.03, size=(3, 2))
    level = noise * scanner.uniform(0.025, 0.06)
    gamma = scanner.uniform(0.85, 1.2)
    for axis in range(3):
        signal = gaussian_filter1d(signal, blur[axis] / voxel, axis=axis, truncate=3.0)
        place = np.linspace(-1, 1, signal.shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
        signal = signal * np.exp(slope[axis, 0] * place + slope[axis, 1] * place**2)
    real, imaginary = side.normal(scale=level, size=(2, *signal.shape)) if level > 0 else np.zeros((2, 1, 1, 1))
    magnitude = np.hypot(signal + real, imaginary)  # Gudbjartsson and Patz, Magn Reson Med 1995
    low, high = np.percentile(magnitude, [1, 99])  # the seed paper's scaling
    scaled = np.clip((magnitude - low) / (high - low), 0.0, 1.0)
    return np.asarray(scaled**gamma, dtype=np.float32)


def picture(path: Path, *, size: int = 64, seed: int = 0) -> None:
    """Write a picture, a row per finding: three planes at `size` with the lesion outlined, then at 32."""
    from matplotlib.figure import Figure  # heavy, and only needed here

    options = SinusPhantomOptions(seed=seed, size=size, pool_patients=0)
    fine, coarse = SinusPhantom(options), SinusPhantom(options.model_copy(update={"size": 32}))
    kinds = ("normal", "mucosal thickening", "polyp", "retention cyst", "fully opacified")
    figure = Figure(figsize=(10.5, 8.9), layout="constrained")
    axes = figure.subplots(len(kinds), 6)
    for row, kind in enumerate(kinds):
        item = next(item for item in fine.items() if item.finding == kind)
        mask = fine.lesion_mask(item)
        assert mask is not None  # labelled items have one
        volume, small = fine.read(item)[0], coarse.read(item)[0]
        at = [int(c) for c in (np.argwhere(mask).mean(axis=0) if mask.any() else np.full(3, size / 2))]
        for column, plane in enumerate(("coronal", "sagittal", "axial")):
            across = (1, 0, 2)[column]
            half = at[across] * 32 // size
            outline = np.asarray(mask.take(at[across], axis=across))
            _show(axes[row, column], volume.take(at[across], axis=across), outline)
            _show(axes[row, column + 3], small.take(half, axis=across), None)
            if row == 0:
                axes[row, column].set_title(plane)
                axes[row, column + 3].set_title(f"{plane}, 32³")
        axes[row, 0].set_ylabel(kind)
    figure.savefig(path, dpi=80)


def _show(axes: Any, plane: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_] | None) -> None:
    """One plane with its second axis upwards."""
    axes.imshow(plane.T, origin="lower", cmap="gray", vmin=0, vmax=1)
    if mask is not None and mask.any():
        axes.contour(mask.T.astype(float), levels=[0.5], colors="#e69f00", linewidths=0.8)
    axes.set_xticks([])
    axes.set_yticks([])


def main() -> None:
    """``python -m voxbench.datasets.sinus.phantom OUT.png``."""
    parser = argparse.ArgumentParser(description="Write a picture of the sinus phantom, a row for each finding.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    picture(args.out, seed=args.seed)


if __name__ == "__main__":
    main()
