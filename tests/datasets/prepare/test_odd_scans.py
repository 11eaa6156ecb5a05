"""Scans that no check expected: a line for the one scan, and the others go on."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.command import each, gather, twins, unexpected
from voxbench.datasets.prepare.crop import intensity_window
from voxbench.datasets.prepare.pyramid import make_target
from voxbench.datasets.prepare.store import Store
from voxbench.datasets.prepare.volume import Volume, header_affine, read_volume, to_grid

from .conftest import options

Save = Callable[..., Path]


def noise(shape: tuple[int, int, int] = (24, 24, 24), mean: float = 100.0) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, 10, shape).astype(np.float32)


def test_one_file_for_two_patients(tmp_path: Path, save: Save, reference: Path) -> None:
    path = save("a.nii.gz")
    (tmp_path / "scans.csv").write_text(f"path,patient_id\n{path},A\n{path},B\n")
    scans, _, problems, _ = gather(options(tmp_path / "scans.csv", tmp_path / "out"), Store(tmp_path / "out"))
    assert len(scans) == 2 and not problems
    assert "of another patient" in twins(scans, {path: "sha"})[0]


def test_a_mask_is_no_scan(save: Save) -> None:
    mask = np.zeros((60, 60, 60), np.float32)
    mask[30:34, 30:34, 30:34] = 1
    with pytest.raises(DatasetError, match="a mask, no scan"):
        read_volume(save("mask.nii.gz", mask))


def test_a_qform_that_is_no_rotation(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(), np.diag([4.0, 4.0, 4.0, 1.0]))
    for name, value in (("quatern_b", 0.9), ("quatern_c", 0.9), ("qform_code", 1)):
        image.header[name] = value
    affine, _ = header_affine(image)
    np.testing.assert_allclose(affine, np.diag([4.0, 4.0, 4.0, 1.0]))
    image.header["sform_code"] = 0
    with pytest.raises(DatasetError, match="qform is no rotation"):
        header_affine(image)


@pytest.mark.parametrize(("air", "modality", "expected"), [(0.02, "ct", True), (0.0, "ct", False), (0.02, "mr", False)])
def test_a_tight_ct_has_little_air(air: float, modality: str, expected: bool) -> None:
    data = noise()
    data.ravel()[: int(air * data.size)] = -1000
    volume = Volume(np.random.default_rng(1).permuted(data), np.diag([4.0, 4.0, 4.0, 1.0]), modality)  # type: ignore[arg-type]
    assert volume.hounsfield == expected


def test_a_scan_beyond_the_reference_still_has_a_window() -> None:
    volume = Volume(noise(), np.diag([4.0, 4.0, 4.0, 1.0]), "mr")
    away = np.eye(4)
    away[:3, 3] = 1000
    low, high, _ = intensity_window(volume, make_target(to_grid(volume, 2.0)), away)
    assert np.isfinite([low, high]).all() and low < high


@pytest.mark.parametrize("workers", [1, 2])
def test_what_no_check_foresaw_stops_one_item(workers: int) -> None:
    outcomes = dict(each(math.sqrt, [1.0, -1.0, 4.0], workers))
    assert (outcomes[1.0], outcomes[4.0]) == (1.0, 2.0)
    fault = outcomes[-1.0]
    assert isinstance(fault, ValueError)
    assert unexpected(fault).startswith("could not be worked on (ValueError")
    with pytest.raises(KeyboardInterrupt):
        unexpected(KeyboardInterrupt())


SLEEPERS = """
import os, time
from voxbench.datasets.prepare.command import each
from {module} import nap
if __name__ == "__main__":
    list(each(nap, [{folder!r}] * 2, 2))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import os, time, pathlib\ndef nap(folder):\n"
        "    pathlib.Path(folder, f'{os.getpid()}.pid').touch()\n    time.sleep(120)\n"
    )
    (tmp_path / "main.py").write_text(SLEEPERS.format(module="sleeper", folder=str(tmp_path)))
    parent = subprocess.Popen(
        [sys.executable, "main.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    try:
        workers = wait_for(lambda: [int(p.stem) for p in tmp_path.glob("*.pid")], count=2)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: [w for w in workers if not Path(f"/proc/{w}").exists()], count=2)


def wait_for(found: Callable[[], list[int]], count: int) -> list[int]:
    for _ in range(300):
        if len(found()) == count:
            return found()
        time.sleep(0.2)
    raise AssertionError(f"waited a minute for {count}, have {found()}")
