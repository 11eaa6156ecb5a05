from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxbench.datasets.prepare.command import PrepareOptions

from .heads import CENTROIDS, REFERENCE, WHY_ABSENT


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
