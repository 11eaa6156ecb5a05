"""Whose a file is, by the folders it lies in; and two kinds of scans in one tree."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.find import find_scans
from voxbench.datasets.prepare.scans import Found, Search
from voxbench.datasets.prepare.store import Store

from ...conftest import Typed

Save = Callable[..., Path]


def find(root: Path, **given: object) -> Found:
    return find_scans(root / "scans", Search(folder=Store(root / "out"), **given))  # type: ignore[arg-type]


def patients(found: Found) -> dict[str, str]:
    assert found.problems == []
    return {scan.patient: scan.path.name for scan in found.scans}


def dicom(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + b"t1")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ["s0001/ct.nii.gz", "s0002/ct.nii.gz", "s0003/ct.nii.gz"],
        ["s0001/CT.Nii.Gz", "s0002/CT.nii.gz", "s0003/ct.nii"],
        ["s0001/CT.nii.gz", "s0002/ct.nii.gz", "s0003/Ct.nii"],
        ["s0001/anat/ct.nii.gz", "s0002/anat/ct.nii.gz", "s0003/anat/ct.nii.gz"],
        ["s0001/ct.nii.gz", "s0002/deep/er/ct.nii.gz", "s0003/anat/ct.nii.gz"],
        ["data/raw/s0001/ct.nii.gz", "data/raw/s0002/ct.nii.gz", "data/raw/s0003/ct.nii.gz"],
        ["site1/s0001/ct.nii.gz", "site1/s0002/ct.nii.gz", "site2/s0003/ct.nii.gz"],
        ["train/s0001/ct.nii.gz", "val/s0002/ct.nii.gz", "test/s0003/ct.nii.gz"],
        ["s0001/ct.nii.gz", "s0002/ct.nii.gz", "s0003/mr.nii.gz"],
        ["s0001/1.2.3/ct.nii.gz", "s0002/4.5.6/ct.nii.gz", "s0003/7.8.9/ct.nii.gz"],
        ["sub-s0001/ct.nii.gz", "sub-s0002/ct.nii.gz", "sub-s0003/ct.nii.gz"],
    ],
)
def test_a_folder_a_case_is_the_patient(names: list[str], tmp_path: Path, save: Save) -> None:
    for name in names:
        part = name.removesuffix(".Nii.Gz").removesuffix(".nii.gz").removesuffix(".nii")
        save(f"{part}.nii" if name.endswith(".nii") else f"{part}.nii.gz").rename(tmp_path / "scans" / name)
    found = find(tmp_path)
    assert sorted(patients(found)) == ["s0001", "s0002", "s0003"]
    assert "a folder is taken for a patient, as s000" in found.notes[0]


def test_what_is_no_scan_does_not_change_the_layout(tmp_path: Path, save: Save) -> None:
    for number in range(3):
        folder = save(f"s{number}/ct.nii.gz").parent
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "._ct.nii.gz").write_bytes(b"\x00\x05\x16\x07")
        (folder / "ct.json").write_text("{}")
    reference = save("template.nii.gz")
    found = find(tmp_path, reference=reference)
    assert sorted(patients(found)) == ["s0", "s1", "s2"]


def test_several_scans_in_a_case_are_listed_and_one_is_chosen(tmp_path: Path, save: Save) -> None:
    for number in (1, 2):
        for kind in ("t1", "flair", "seg"):
            save(f"s{number}/{kind}.nii.gz")
    with pytest.raises(DatasetError, match=r"several scans in a folder \(flair, seg, t1; e\.g\. in s1\).*--suffix"):
        find(tmp_path)
    assert patients(find(tmp_path, suffix="t1")) == {"s1": "t1.nii.gz", "s2": "t1.nii.gz"}
    with pytest.raises(DatasetError, match="no scan ends in t2; there are flair, seg, t1"):
        find(tmp_path, suffix="t2")
    with pytest.raises(DatasetError, match=r"--suffix t1: .*leave it out"):
        find(tmp_path, suffix="t1", id_pattern="s.")


def test_names_that_repeat_the_folder_are_kinds_and_not_patients(tmp_path: Path, save: Save) -> None:
    """As in BraTS: no name occurs twice, and yet no file is a patient of its own."""
    for case in ("Brats_001", "Brats_002"):
        for kind in ("t1", "t1ce", "flair"):
            save(f"{case}/{case}_{kind}.nii.gz")
    with pytest.raises(DatasetError, match=r"several scans in a folder \(flair, t1, t1ce"):
        find(tmp_path)
    assert patients(find(tmp_path, suffix="t1")) == {c: f"{c}_t1.nii.gz" for c in ("Brats_001", "Brats_002")}


def test_masks_beside_a_scan_are_not_patients(tmp_path: Path, save: Save) -> None:
    for number in (1, 2):
        save(f"s{number}/ct.nii.gz"), save(f"s{number}/segmentations/liver.nii.gz")
    with pytest.raises(DatasetError, match=r"several scans in a folder \(ct, liver"):
        find(tmp_path)
    assert sorted(patients(find(tmp_path, suffix="ct"))) == ["s1", "s2"]


def test_files_whose_names_are_patients_keep_them(tmp_path: Path, save: Save) -> None:
    for name in ("a/ann.nii.gz", "a/ben.nii.gz", "b/cleo.nii.gz", "dan.nii.gz"):
        save(name)
    assert sorted(patients(find(tmp_path))) == ["ann", "ben", "cleo", "dan"]
    save("b/ann.nii.gz")
    assert "patient ann has 2 scans" in find(tmp_path).problems[0]


@pytest.mark.parametrize("folders", [("p1/day1", "p1/day2", "p2/day1"), ("site1/s1", "site1/s2", "site2/s1")])
def test_two_scans_of_one_patient_are_refused(folders: tuple[str, ...], tmp_path: Path, save: Save) -> None:
    for folder in folders:
        save(f"{folder}/ct.nii.gz")
    (problem,) = find(tmp_path).problems
    assert "has 2 scans" in problem
    assert "a CSV of path,patient_id" in problem


def test_tables_and_files_in_another_unicode_form(tmp_path: Path, save: Save) -> None:
    one, two = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    save(f"{two}.nii.gz")
    table = tmp_path / "scans" / "list.csv"
    table.write_text(f"path,patient_id\n{one}.nii.gz,{two}\n", encoding="utf-8")
    found = find_scans(table, Search(folder=Store(tmp_path / "out")))
    assert [(scan.path.name, scan.patient) for scan in found.scans] == [(f"{two}.nii.gz", one)]
    assert found.scans[0].path.is_file()


@pytest.mark.parametrize(
    ("nifti", "others", "place"),
    [
        ("stray.nii.gz", ["ann/1.dcm", "ben/1.dcm"], "ann, ben"),
        ("ann/scan.nii.gz", ["ann/1.dcm"], "ann"),
        ("ann.nii.gz", ["ben/study/series/IM0001"], "ben"),
        ("x/ann.nii", ["loose.dcm"], "loose.dcm"),
        ("sub-01/anat/sub-01_T1w.nii.gz", ["cleo/1.dcm"], "cleo"),
        ("sub-01/anat/sub-01_T1w.nii.gz", ["sub-02/IM1"], "sub-02"),
        ("old.hdr", ["ann/1.dcm"], "ann"),
    ],
)
def test_nifti_and_dicom_in_one_tree_are_refused_together(
    nifti: str, others: list[str], place: str, tmp_path: Path, save: Save
) -> None:
    if nifti.endswith(".hdr"):
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans" / nifti).write_bytes(b"x")
    else:
        save(nifti)
    for other in others:
        dicom(tmp_path / "scans" / other)
    with pytest.raises(DatasetError) as raised:
        find(tmp_path)
    text = str(raised.value)
    assert f"NIfTI ({nifti}) and DICOM (in {place}) lie in one folder, and neither is left out" in text
    assert "move one kind elsewhere, or convert the DICOM" in text
    assert "\n" not in text


def test_both_kinds_end_the_command_with_2_and_nothing_is_written(tmp_path: Path, save: Save, typed: Typed) -> None:
    save("stray.nii.gz"), dicom(tmp_path / "scans" / "ann" / "1.dcm")
    told = typed("prepare", tmp_path / "scans", "--out", tmp_path / "out", "--workers", "1")
    assert told.code == 2
    assert "NIfTI (stray.nii.gz) and DICOM (in ann)" in told.err
    assert not (tmp_path / "out").exists()


def test_what_a_bids_tree_keeps_beside_its_scans_is_a_note_at_most(tmp_path: Path, save: Save) -> None:
    for subject in ("01", "02"):
        save(f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
    save("sub-03/func/sub-03_bold.nii.gz"), save("derivatives/fs/sub-01/brain.nii.gz")
    save("atlas.nii.gz"), save("more/p7.nii.gz")
    dicom(tmp_path / "scans" / "sourcedata" / "sub-01" / "1.dcm")
    found = find(tmp_path)
    assert sorted(patients(found)) == ["01", "02"]
    assert found.notes == [
        "1 of 3 sub- folders have no T1w scan (sub-03)",
        "NIfTI outside sub-*/[ses-*/]anat was left out: 2 (atlas.nii.gz, more/p7.nii.gz)",
    ]


def test_a_tree_without_usual_contrasts_names_those_there_are(tmp_path: Path, save: Save) -> None:
    for kind in ("UNIT1", "inv-1_MP2RAGE", "inv-2_MP2RAGE"):
        save(f"sub-01/anat/sub-01_{kind}.nii.gz")
    with pytest.raises(DatasetError, match="there are UNIT1, MP2RAGE: choose one, as in --suffix UNIT1"):
        find(tmp_path)
    assert patients(find(tmp_path, suffix="UNIT1")) == {"01": "sub-01_UNIT1.nii.gz"}
    with pytest.raises(DatasetError, match="no scan ends in _T1w; there are UNIT1, MP2RAGE"):
        find(tmp_path, suffix="T1w")


def test_other_formats_alone_are_named(tmp_path: Path) -> None:
    (tmp_path / "scans" / "p1").mkdir(parents=True)
    for name in ("a.nrrd", "p1/b.mgz", "p1/c.nii.bz2", "scans.zip", ".hidden.nrrd"):
        (tmp_path / "scans" / name).write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"there are 1 \.bz2, 1 \.mgz, 1 \.nrrd, 1 \.zip: convert those"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.dcm", bytes(128) + b"DICM", "one DICOM file; name the folder that holds a folder of DICOM files a patient"),
        ("a.mgz", b"x", "not NIfTI; convert it to .nii.gz"),
    ],
)
def test_one_file_that_is_no_nifti(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        find_scans(tmp_path / name, Search(folder=Store(tmp_path / "out")))
