"""DICOM through the real dcm2niix, where it is installed (pip install dcm2niix)."""

from __future__ import annotations

import locale
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own convention

from voxbench.datasets.prepare.find import find_scans
from voxbench.datasets.prepare.scans import Found, Search
from voxbench.datasets.prepare.store import Store
from voxbench.datasets.prepare.volume import read_volume

PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
pytestmark = pytest.mark.skipif(shutil.which("dcm2niix", path=PLACES) is None, reason="dcm2niix is not installed")


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", PLACES)
    known = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, known)  # which writing DICOM through SimpleITK changes


def series(folder: Path, number: int, name: str, patient: str = "") -> list[Path]:
    """Twelve slices of 4 mm."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = np.random.default_rng(number).integers(0, 1000, (12, 24, 24)).astype(np.int16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for at in range(len(slices)):
        image = sitk.GetImageFromArray(slices[at : at + 1])
        image.SetSpacing((4, 4, 4))
        for key, value in {
            "0008|0060": "MR", "0008|103e": name, "0020|0011": str(number), "0020|000d": "1.2.3",
            "0020|000e": f"1.2.3.{number}", "0020|0013": str(at + 1), "0020|0032": f"0\\0\\{4.0 * at}",
            "0020|0037": "1\\0\\0\\0\\1\\0", "0008|0018": f"1.2.3.{number}.{at + 1}", "0008|0020": "20200101",
            "0008|0030": "120000", "0010|0020": patient or folder.name, "0018|0050": "4", "0018|0088": "4",
        }.items():  # fmt: skip
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{number}_{at:02d}.dcm"))
        writer.Execute(image)
    return sorted(folder.glob(f"{number}_*.dcm"))


def find(folder: Path) -> Found:
    return find_scans(folder / "scans", Search(folder=Store(folder / "out")))


def test_some_files_that_cannot_be_converted(tmp_path: Path) -> None:
    series(tmp_path / "scans" / "ann", 2, "t1")
    for path in series(tmp_path / "scans" / "ann", 3, "t2"):
        path.write_bytes(path.read_bytes()[:-500])
    found = find(tmp_path)
    assert found.problems == []
    assert [scan.path.name for scan in found.scans] == ["t1_2.nii.gz"]
    assert "dcm2niix converted only some of its files (Error: Converted 12 of 24 files)" in found.notes[0]


def test_files_without_a_preamble_and_deep_folders(tmp_path: Path) -> None:
    for path in series(tmp_path / "scans" / "bare", 2, "t1"):
        path.write_bytes(path.read_bytes()[132:])
    for path in series(tmp_path / "scans" / "barest", 2, "t1"):
        content = path.read_bytes()
        path.write_bytes(content[144 + struct.unpack("<I", content[140:144])[0] :])
    series(tmp_path / "scans" / "deep" / Path(*"abcdefghijk"), 2, "t1")
    series(tmp_path / "scans" / "nested" / "study" / "series", 2, "t1")
    found = find(tmp_path)
    assert found.problems == []
    assert [scan.patient for scan in found.scans] == ["bare", "barest", "deep", "nested"]
    volumes = [read_volume(scan.path).data for scan in found.scans]
    assert volumes[0].shape == (24, 24, 12)
    assert all(np.array_equal(volumes[0], volume) for volume in volumes)
    kept = sorted(path.name for path in (tmp_path / "out" / "private" / "converted").glob("*/*"))
    assert kept == ["t1_2.nii.gz"] * 4, "links and mended copies are gone"


def test_folders_of_one_person_are_told(tmp_path: Path) -> None:
    """A patient's folder given for the folder of patients: its series are no patients."""
    series(tmp_path / "scans" / "series2", 2, "t1", patient="4711")
    series(tmp_path / "scans" / "series3", 3, "t2", patient="4711")
    series(tmp_path / "scans" / "ben", 2, "t1", patient="4712")
    found = find(tmp_path)
    assert len(found.scans) == 3
    assert found.notes == [
        "folders series2, series3 have one PatientID in their DICOM, and count as 2 patients; "
        "if they show one person, put them into one folder"
    ]
