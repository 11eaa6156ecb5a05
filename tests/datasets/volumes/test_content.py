"""A header's unit of length holds, and a volume of which its cube would show nothing is refused with the manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.manifest import Manifest, ManifestOptions
from voxbench.datasets.prepare.volume import read_volume
from voxbench.datasets.volumes import nifti

from ...conftest import Typed

SIZES = {"meter": 0.001, "mm": 1.0, "micron": 1000.0, "unknown": 1.0}  # of a mm in each


def blob(seed: int = 0, n: int = 24, at: tuple[float, ...] = (0.5, 0.5, 0.5), radius: float = 0.3) -> np.ndarray:
    """A ball in the air."""
    grid = np.indices((n, n, n)) / (n - 1)
    away = np.sqrt(sum((grid[axis] - at[axis]) ** 2 for axis in range(3)))
    noise = np.random.default_rng(seed).integers(0, 60, (n, n, n))
    return np.where(away < radius, 400 + noise, 0).astype(np.int16)


def save(path: Path, data: np.ndarray, mm: float = 2.0, units: str = "mm", told: float | None = None) -> Path:
    """`told`: the voxel size in the header, where it is not `mm` in its units."""
    size = told if told is not None else mm * SIZES[units]
    image = nib.Nifti1Image(data, np.diag([size, size, size, 1.0]))
    image.header.set_xyzt_units(units)
    nib.save(image, path)
    return path


def manifest(folder: Path, **options: Any) -> Manifest:
    names = sorted(path.name for path in folder.glob("*.nii.gz"))
    rows = [f"{name},p{number},{number % 2}" for number, name in enumerate(names)]
    (folder / "manifest.csv").write_text("\n".join(["path,patient_id,label", *rows]))
    return Manifest(ManifestOptions(**options), folder)


def problems(dataset: Manifest) -> list[str]:
    with pytest.raises(DatasetError) as raised:
        dataset.items()
    return list(raised.value.problems)


@pytest.mark.parametrize("units", SIZES)
def test_one_volume_in_every_unit_makes_one_cube(units: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path / f"{seed}.nii.gz", blob(seed), units=units)
    dataset = manifest(tmp_path, size=16, fit="pad", spacing=3.0)
    cube = dataset.read(dataset.items()[0])[0]
    expected = nifti.to_cube(nifti.scaled(blob(0).astype(np.float32), (1, 99)), (2, 2, 2), 16, "pad", 3.0)
    np.testing.assert_allclose(cube, expected, atol=1e-4)
    assert np.ptp(cube) > 0.9
    np.testing.assert_allclose(nifti.load(tmp_path / "0.nii.gz").spacing, (2, 2, 2), rtol=1e-6)
    np.testing.assert_allclose(read_volume(tmp_path / "0.nii.gz").spacing, (2, 2, 2), rtol=1e-6)


@pytest.mark.parametrize("code", [4, 5, 7, 16, 56])
def test_a_code_of_no_length_is_taken_for_mm(code: int, tmp_path: Path) -> None:
    """Seconds and Hz too, which some programs put there alone."""
    image = nib.Nifti1Image(blob(), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header["xyzt_units"] = code
    nib.save(image, tmp_path / "a.nii.gz")
    assert nifti.load(tmp_path / "a.nii.gz").spacing == (2.0, 2.0, 2.0)
    assert read_volume(tmp_path / "a.nii.gz").spacing == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("units", "told", "words"),
    [
        ("mm", 0.002, "its voxels are 0.002 x 0.002 x 0.002 mm, which makes it 0.048 mm wide"),  # metres, unsaid
        ("mm", 2000.0, "which makes it 4.8e+04 mm wide"),  # microns, unsaid
        ("meter", 2.0, "its voxels are 2e+03 x 2e+03 x 2e+03 mm (told in metres), which makes it 4.8e+04 mm wide"),
        ("micron", 2.0, "its voxels are 0.002 x 0.002 x 0.002 mm (told in microns), which makes it 0.048 mm wide"),
        ("mm", 0.05, "it would fill next to none of the cube"),
        ("mm", 200.0, "the cube would show next to none of them"),
    ],
)
def test_a_voxel_size_that_cannot_be_is_refused_with_its_row(
    units: str, told: float, words: str, tmp_path: Path
) -> None:
    save(tmp_path / "a.nii.gz", blob(0))
    save(tmp_path / "b.nii.gz", blob(1), units=units, told=told)
    (line,) = problems(manifest(tmp_path, size=16, fit="pad", spacing=3.0))
    assert line.startswith("row 3, b.nii.gz: by its header, ")
    assert words in line
    assert "correct the header's voxel size or units (pixdim, xyzt_units), or set dataset.spacing to suit" in line
    for fit in ("resize", "pad"):  # where mm do not count, as with a microscope's volumes
        assert len(manifest(tmp_path, size=16, fit=fit).items()) == 2


def test_a_microscope_s_volumes_are_used_at_a_spacing_that_suits(tmp_path: Path) -> None:
    """20 voxels of 5 microns are 0.1 mm, which is said where the cube is of another size."""
    for seed in (0, 1):
        save(tmp_path / f"{seed}.nii.gz", blob(seed, n=20), mm=0.005)
    assert len(manifest(tmp_path, size=16, fit="pad", spacing=0.008).items()) == 2
    lines = problems(manifest(tmp_path, size=16, fit="pad", spacing=0.1))
    assert all("which makes it 0.1 mm wide" in line and "set dataset.spacing to suit" in line for line in lines)


def test_a_window_beside_all_content_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", blob(0, n=40))
    save(tmp_path / "corner.nii.gz", blob(1, n=40, at=(0.1, 0.1, 0.1), radius=0.15))
    save(tmp_path / "wall.nii.gz", np.where(np.indices((40, 40, 40))[0] < 8, 500, 0).astype(np.int16))
    lines = problems(manifest(tmp_path, size=16, fit="pad", spacing=2.0))
    assert [line.split(":")[0] for line in lines] == ["row 3, corner.nii.gz", "row 4, wall.nii.gz"]
    assert all("the 32 mm that the cube shows are all but constant: an empty volume" in line for line in lines)
    assert len(manifest(tmp_path, size=16, fit="pad", spacing=5.0).items()) == 3


def test_a_bright_middle_padded_with_zeros_is_no_content(tmp_path: Path) -> None:
    """The border that padding makes must not count: along two axes all is seen, along the third a constant middle."""
    plank = np.zeros((120, 12, 12), np.int16)
    plank[20:-20] = 300
    save(tmp_path / "a.nii.gz", plank, mm=1.0)
    save(tmp_path / "b.nii.gz", blob(1), mm=1.0)
    lines = problems(manifest(tmp_path, size=16, fit="pad", spacing=1.0))
    assert [line.split(":")[0] for line in lines] == ["row 2, a.nii.gz"]


def test_a_speck_that_averaging_wipes_out_is_refused_and_a_small_mask_is_not(tmp_path: Path) -> None:
    speck, mask = np.zeros((96, 96, 96), np.uint8), np.zeros((96, 96, 96), np.uint8)
    speck[40, 40, 40] = 1
    mask[40:52, 40:52, 40:52] = 1
    save(tmp_path / "mask.nii.gz", mask)
    save(tmp_path / "speck.nii.gz", speck)
    (line,) = problems(manifest(tmp_path, size=8))
    assert line.startswith("row 3, speck.nii.gz: averaged onto 8x8x8 voxels it is all but constant; raise dataset.size")
    assert len(manifest(tmp_path, size=48).items()) == 2


def test_thin_and_small_volumes_still_pass(tmp_path: Path) -> None:
    save(tmp_path / "slab.nii.gz", np.random.default_rng(0).integers(0, 99, (40, 40, 2)).astype(np.int16))
    save(tmp_path / "small.nii.gz", np.random.default_rng(1).integers(0, 99, (6, 6, 6)).astype(np.int16))
    assert len(manifest(tmp_path, size=16, fit="pad", spacing=4.0).items()) == 2


def before(dataset: Manifest) -> str:
    """The fingerprint as it was before units counted: volumes that are kept under it stay valid."""
    assert dataset.root is not None
    digest = hashlib.sha256(f"manifest:1:{dataset.options.model_dump_json()}".encode())
    for number, path in enumerate(sorted(dataset.root.glob("*.nii.gz"))):
        digest.update(json.dumps([path.name, f"p{number}", str(number % 2), *[""] * 5]).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@pytest.mark.parametrize("units", SIZES)
def test_a_fingerprint_changes_only_where_units_were_once_overlooked(units: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path / f"{seed}.nii.gz", blob(seed), units=units)
    for options in ({}, {"fit": "pad"}, {"fit": "pad", "spacing": 3.0}):
        dataset = manifest(tmp_path, size=16, **options)
        overlooked = "spacing" in options and SIZES[units] != 1
        assert (dataset.fingerprint() != before(dataset)) == overlooked


def test_a_scan_in_the_wrong_unit_is_refused_by_prepare(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", blob(), units="meter", told=2.0)
    with pytest.raises(DatasetError, match=r"\[2000.0, 2000.0, 2000.0\] mm \(told in metres\) are outside 0.1-12.0 mm"):
        read_volume(tmp_path / "a.nii.gz")


def test_a_run_is_stopped_before_anything_trains(tmp_path: Path, typed: Typed) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.nii.gz", blob(number), told=0.002 if number == 2 else 2.0)
    manifest(tmp_path)
    told = typed(
        "run", "--dataset", tmp_path, "--set", "dataset.fit=pad", "--set", "dataset.spacing=2", "--set",
        "dataset.size=16", "--out", tmp_path / "run", "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert told.code == 2
    assert [line[:21] for line in told.err.splitlines() if line.startswith("  - ")] == ["  - row 4, 2.nii.gz: "]
