from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxbench.datasets.prepare.command import PrepareOptions, prepare
from voxbench.datasets.prepare.limits import Limits
from voxbench.datasets.prepare.volume import Volume

from . import heads
from .heads import CENTROIDS, REFERENCE, WHY_ABSENT

SHEET = "patient,side,finding\nMueller_Anna,left,polyp\nMueller_Anna,right,normal\nHuber_Josef,,\n"
RADIUS = 14  # mm of the lesion planted into a scan


@pytest.fixture(scope="session")
def reference() -> Path:
    if not REFERENCE.is_file():
        pytest.skip(WHY_ABSENT)
    return REFERENCE


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small NIfTI below tmp_path/scans."""

    def write(name: str, data: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            seed = sum(map(ord, name))
            data = np.random.default_rng(seed).normal(100, 10, (24, 24, 24)).astype(np.float32)
        image = nib.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1.0]) if affine is None else affine)
        nib.save(image, path)
        return path

    return write


def options(scans: Path, out: Path, **more: object) -> PrepareOptions:
    text = "/".join(",".join(f"{v:g}" for v in c) for c in CENTROIDS)
    given = {"scans": scans, "out": out, "reference": REFERENCE, "centroids": text, "workers": 1, **more}
    return PrepareOptions(**given)  # type: ignore[arg-type]


def save_named(path: Path, volume: Volume) -> None:
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.header["descrip"] = b"Anna Mueller 1970-01-01"
    image.to_filename(path)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PrepareOptions:
    """Two patients: a T2 with a bright lesion in the left sinus, and a CT; three crops a sinus. For reading only."""
    if not REFERENCE.is_file():
        pytest.skip(WHY_ABSENT)
    folder = tmp_path_factory.mktemp("prepare")
    (folder / "scans").mkdir()
    t2 = heads.HEADS["t2"]
    volume = t2.read()
    lesion = np.linalg.norm(heads.world(volume) - np.array(t2.centroids[0]), axis=-1) < RADIUS
    save_named(folder / "scans" / "Mueller_Anna.nii.gz", replace(volume, data=np.where(lesion, 2500, volume.data)))
    shutil.copyfile(heads.DATA / heads.HEADS["ct"].path, folder / "scans" / "Huber_Josef.nii.gz")
    (folder / "sheet.csv").write_text(SHEET)
    given = options(
        folder / "scans", folder / "out", labels=folder / "sheet.csv", samples_per_sinus=3, size=32, limits=Limits()
    )
    assert prepare(given).done_now == 2
    return given
