"""DICOM folders. A program named dcm2niix stands in: it writes NIfTI files named as the real one names them."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import sys
from pathlib import Path

import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.command import prepare
from voxbench.datasets.prepare.dicom import is_dicom
from voxbench.datasets.prepare.find import find_scans
from voxbench.datasets.prepare.scans import Found, Search
from voxbench.datasets.prepare.store import Store

from .conftest import options

STAND_IN = """#!{python}
import sys
from pathlib import Path
import nibabel, numpy
out, pattern = Path(sys.argv[sys.argv.index("-o") + 1]), sys.argv[sys.argv.index("-f") + 1]
for number, path in enumerate(sorted(Path(sys.argv[-1]).rglob("*.dcm")), start=2):
    series = path.read_bytes()[132:].decode()
    name = pattern.replace("%d", series).replace("%s", str(number)) + ".nii.gz"
    if series == "torn":
        (out / name).write_bytes(b"half of it")
        sys.exit("Error: disk full")
    if series not in ("report", "broken"):
        data = numpy.random.default_rng([number, *series.encode()]).normal(100, 10, (24, 24, 24)).astype("float32")
        nibabel.save(nibabel.Nifti1Image(data, numpy.diag([4.0, 4.0, 4.0, 1.0])), out / name)
with open({log!r}, "a") as log:
    log.write(sys.argv[-1] + "\\n")
if "broken" in [path.read_bytes()[132:].decode() for path in Path(sys.argv[-1]).rglob("*.dcm")]:
    sys.exit(8)
"""


def dicom(folder: Path, *series: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(series):
        (folder / f"{number}.dcm").write_bytes(bytes(128) + b"DICM" + name.encode())


def find(folder: Path, series: str | None = None) -> Found:
    return find_scans(folder / "scans", Search(folder=Store(folder / "out"), series=series))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the program on the PATH; the file lists the folders it has converted."""
    program = tmp_path / "bin" / "dcm2niix"
    program.parent.mkdir()
    log = tmp_path / "calls"
    log.touch()
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return log


def test_without_dcm2niix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom(tmp_path / "scans" / "ann", "t1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatasetError, match="install dcm2niix"):
        find(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_converted_once_and_again_when_it_changes(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans" / "sub-ann", "t1")
    first = find(tmp_path)
    assert [scan.patient for scan in first.scans] == ["ann"]
    assert first.scans[0].path.name == "t1_2.nii.gz"
    assert find(tmp_path).scans == first.scans
    assert len(calls.read_text().splitlines()) == 1
    dicom(tmp_path / "scans" / "sub-ann", "flair")
    changed = find(tmp_path).scans[0].path
    assert changed.name == "flair_2.nii.gz"
    assert len(list((tmp_path / "out" / "private" / "converted").iterdir())) == 1
    assert stat.S_IMODE((tmp_path / "out" / "private").stat().st_mode) == 0o700


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path, calls: Path) -> None:
    """The same command again says the same: a conversion does not lock the output folder."""
    dicom(tmp_path / "scans" / "ann", "localizer", "T1_mprage", "T2_tse")
    dicom(tmp_path / "scans" / "ben", "T1_mprage")
    (tmp_path / "sheet.csv").write_text("patient,side,finding\nann,left,polyp\nben,left,normal\n")
    given = options(tmp_path / "scans", tmp_path / "out", labels=tmp_path / "sheet.csv")
    for _ in range(2):
        with pytest.raises(DatasetError) as caught:
            prepare(given)
        lines = [line for line in caught.value.problems if "series" in line]
        assert "ann: 3 series (T1_mprage_3, T2_tse_4, localizer_2); choose one with --series" in lines[0]
        assert not any("spreadsheet" in line for line in caught.value.problems)
        assert "nothing was written" not in caught.value.message
    found = find(tmp_path, "^t1_")
    assert [(scan.patient, scan.path.name) for scan in found.scans] == [
        ("ann", "T1_mprage_3.nii.gz"), ("ben", "T1_mprage_2.nii.gz"),
    ]  # fmt: skip
    assert "no series fits --series flair; there are: T1_mprage_3" in find(tmp_path, "flair").problems[0]


def test_a_conversion_goes_with_its_patient(tmp_path: Path, calls: Path, reference: Path) -> None:
    for name in ("ann", "ben"):
        dicom(tmp_path / "scans" / name, f"t1_{name}")
    given = options(tmp_path / "scans", tmp_path / "out")
    prepare(given)
    shutil.rmtree(tmp_path / "scans" / "ann")
    prepare(given)
    assert [p.name for p in (tmp_path / "out" / "private" / "converted").rglob("*.nii.gz")] == ["t1_ben_2.nii.gz"]
    assert len(calls.read_text().splitlines()) == 2


def test_a_conversion_that_failed_midway_is_not_believed(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans" / "ann", "torn")
    dicom(tmp_path / "scans" / "ben", "report")
    for _ in range(2):
        found = find(tmp_path)
        assert found.scans == []
        assert "ann: dcm2niix failed: Error: disk full" in found.problems[0]
        assert "ben: dcm2niix made no volume of it" in found.problems[1]


def test_output_among_the_dicom_folders_is_no_patient(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans" / "ann", "t1")
    folder = Store(tmp_path / "scans" / "out")
    for _ in range(2):
        found = find_scans(tmp_path / "scans", Search(folder=folder))
        assert [scan.patient for scan in found.scans] == ["ann"]
        dicom(folder.root / "copy", "t1")


def test_what_dcm2niix_made_of_a_part_is_kept_with_a_note(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans" / "ann", "t1", "broken")
    dicom(tmp_path / "scans" / "ben", "t1")
    dicom(tmp_path / "scans" / "cleo", "broken")
    for _ in range(2):  # the note is kept with the conversion
        found = find(tmp_path)
        assert [(scan.patient, scan.path.name) for scan in found.scans] == [
            ("ann", "t1_2.nii.gz"), ("ben", "t1_2.nii.gz"),
        ]  # fmt: skip
        (note,) = found.notes
        assert note.startswith(f"{tmp_path}/scans/ann: dcm2niix converted only some of its files (exit status 8)")
        (problem,) = found.problems
        assert f"{tmp_path}/scans/cleo: dcm2niix made no volume of it" in problem


def element(group: int, number: int, code: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, code, len(value)) + value


META = element(2, 0, b"UL", bytes(4)) + element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
EXPLICIT = element(8, 5, b"CS", b"ISO_IR 100") + element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.4\0")
IMPLICIT = struct.pack("<HHI", 8, 8, 4) + b"ORIG" + struct.pack("<HHI", 8, 0x16, 4) + b"1.2\0" + bytes(40)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (bytes(128) + b"DICM" + META, True),
        (META + EXPLICIT, True),
        (EXPLICIT, True),
        (IMPLICIT, True),
        (element(2, 1, b"OB", b"")[:6] + bytes(2) + struct.pack("<I", 2) + b"\0\1" + META[12:], True),
        (b"", False),
        (bytes(2000), False),
        (b"\x08\x00", False),
        (b"\x02\x00" + b"\xff" * 500, False),
        (b"\x08\x00" * 200, False),
        (b'{"Modality": "MR"}' * 20, False),
    ],
)
def test_dicom_is_seen_by_its_bytes_with_and_without_a_preamble(start: bytes, expected: bool, tmp_path: Path) -> None:
    for name, counts in (("IM0001", True), ("._IM0001", False), ("DICOMDIR", False)):
        (tmp_path / name).write_bytes(start)
        assert is_dicom(tmp_path / name) == (expected and counts)


def test_dicom_files_in_the_folder_itself_have_no_patient(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans", "t1", "t2")
    with pytest.raises(DatasetError, match=r"2 DICOM files lie in the folder itself \(0.dcm, 1.dcm\); put each"):
        find(tmp_path)
    dicom(tmp_path / "scans" / "ann", "t1")
    with pytest.raises(DatasetError, match=r"2 DICOM files .* beside 1 folders of DICOM \(ann\); put each patient's"):
        find(tmp_path)
    assert not calls.read_text()


def test_folders_without_dicom_are_told_and_unfetched_ones_refused(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans" / "ann", "t1")
    (tmp_path / "scans" / "ann" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "scans" / "ann" / "report.pdf").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (tmp_path / "scans" / "empty").mkdir()
    for name in ("ben", "cleo"):
        (tmp_path / "scans" / name).mkdir()
    (tmp_path / "scans" / "ben" / "0.dcm").symlink_to("../../.git/annex/objects/x/y/z")
    dicom(tmp_path / "scans" / "cleo", "t1")
    (tmp_path / "scans" / "cleo" / "1.dcm").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    (tmp_path / "scans" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    found = find(tmp_path)
    assert [scan.patient for scan in found.scans] == ["ann"]
    assert found.notes == ["folders without DICOM files were left out: empty"]
    assert [line.split("/")[-1].split(":")[0] for line in found.problems] == ["ben", "cleo"]
    assert all("1 files are links or pointers to what is not here" in line for line in found.problems)
    assert found.named == {"ben", "cleo"}


def test_dicom_in_a_tree_shaped_as_bids(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans" / "sub-01" / "anat", "t1")
    dicom(tmp_path / "scans" / "sub-02" / "ses-1" / "anat", "t1")
    (tmp_path / "scans" / "old.nrrd").write_bytes(b"x")
    found = find(tmp_path)
    assert [scan.patient for scan in found.scans] == ["01", "02"]
    assert "files that are no NIfTI were left out (1 .nrrd)" in found.notes[0]


def test_a_reference_beside_folders_of_dicom_is_no_nifti_among_them(tmp_path: Path, calls: Path) -> None:
    dicom(tmp_path / "scans" / "ann", "t1")
    reference = tmp_path / "scans" / "template.nii.gz"
    reference.write_bytes(b"x")
    search = Search(folder=Store(tmp_path / "out"), reference=reference)
    assert [scan.patient for scan in find_scans(tmp_path / "scans", search).scans] == ["ann"]
