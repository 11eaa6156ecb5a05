"""Which scans are found, and whose they are: nothing is dropped, and no option ignored, without a word."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.command import gather, prepare
from voxbench.datasets.prepare.find import find_scans
from voxbench.datasets.prepare.scans import Found, Search
from voxbench.datasets.prepare.store import Store

from ...conftest import Typed
from .conftest import options

Save = Callable[..., Path]


def find(source: Path, **given: object) -> Found:
    return find_scans(source, Search(folder=Store(source.parent / "out"), **given))  # type: ignore[arg-type]


def patients(found: Found) -> list[str]:
    return [scan.patient for scan in found.scans]


@pytest.fixture
def bids(tmp_path: Path, save: Save) -> Path:
    for name in ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_FLAIR", "sub-02/ses-1/anat/sub-02_ses-1_FLAIR"):
        save(f"{name}.nii.gz")
    (tmp_path / "scans" / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\nsub-03\n")
    return tmp_path / "scans"


def test_bids_tree(bids: Path) -> None:
    with pytest.raises(DatasetError, match=r"FLAIR, T1w.*--suffix"):
        find(bids)
    found = find(bids, suffix="FLAIR")
    assert patients(found) == ["01", "02"]
    assert found.problems == []


def test_participants_without_a_scan_are_a_note(bids: Path) -> None:
    assert find(bids, suffix="T1w").notes == ["participants.tsv: 2 of 3 participants have no T1w scan (sub-02, sub-03)"]
    (bids / "participants.tsv").write_text("name\nsub-01\n")
    found = find(bids, suffix="T1w")
    assert "no column participant_id" in found.notes[0]
    assert found.problems == []


def test_table_of_paths_and_patterns(tmp_path: Path, save: Save) -> None:
    save("x/p1/t.nii.gz"), save("x/p2/t.nii.gz")
    (tmp_path / "scans" / "list.csv").write_text("path,patient_id,modality\nx/p1/t.nii.gz,Ann,\nx/p2/t.nii.gz,Ben,ct\n")
    found = find(tmp_path / "scans" / "list.csv")
    assert [(s.patient, s.modality) for s in found.scans] == [("Ann", "auto"), ("Ben", "ct")]
    assert found.problems == []
    assert patients(find(tmp_path / "scans", id_pattern=r"(p\d)/")) == ["p1", "p2"]


def test_options_without_an_effect_are_refused(tmp_path: Path, bids: Path, save: Save) -> None:
    loose = save("../loose/ann.nii.gz").parent
    table = loose / "list.csv"
    table.write_text("path,patient_id\nann.nii.gz,Ann\n")
    for source, option in (
        (loose, {"suffix": "T1w"}), (loose, {"series": "t1"}), (loose / "ann.nii.gz", {"suffix": "T1w"}),
        (bids, {"id_pattern": "x"}), (bids, {"series": "t1"}),
        (table, {"suffix": "T1w"}), (table, {"id_pattern": "x"}), (table, {"series": "t1"}),
    ):  # fmt: skip
        name = next(iter(option)).replace("_", "-")
        with pytest.raises(DatasetError, match=rf"--{name} .*{source.name} is .*leave it out"):
            find(source, **option)


def test_contrasts_of_a_bids_tree_are_not_patients(tmp_path: Path, bids: Path) -> None:
    for source in (tmp_path, bids / "sub-01"):
        for suffix in (None, "T1w"):
            with pytest.raises(DatasetError, match=r"sub-01_.* is named as in a BIDS tree; name the tree's root"):
                find(source, suffix=suffix)
    found = find(tmp_path, id_pattern="sub-([^_/]+)")
    assert "patient 01 has 2 scans" in found.problems[0]


def test_output_among_the_scans_is_not_read(tmp_path: Path, save: Save) -> None:
    save("ann.nii.gz")
    out = tmp_path / "scans" / "results" / "prepared"
    Store(out).open()
    save("results/prepared/crops/p1/p1_left_00.nii.gz"), save("results/prepared/private/converted/x/t1.nii.gz")
    assert patients(find(tmp_path / "scans")) == ["ann"]


def test_links_to_folders_are_entered_and_circles_are_not(tmp_path: Path, save: Save) -> None:
    save("p1.nii.gz")
    elsewhere = save("../elsewhere/p2.nii.gz").parent
    save("sub-3/anat/sub-3_T1w.nii.gz").parent.parent.rename(tmp_path / "sub-3")
    root = tmp_path / "scans"
    (root / "p2").symlink_to(elsewhere)
    (root / "again").symlink_to(root)
    (elsewhere / "back").symlink_to(root)
    (root / "nothing").symlink_to(tmp_path / "nothing")
    assert patients(find(root)) == ["p1", "p2"]
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "sub-3").symlink_to(tmp_path / "sub-3")
    assert patients(find(tmp_path / "bids")) == ["3"]


def test_pairs_are_refused_with_their_remedy_and_other_formats_counted(tmp_path: Path, save: Save) -> None:
    save("p1.nii.gz"), save("p3.nii.gz")
    root = tmp_path / "scans"
    for name in ("p2.hdr", "p2.img", "p3.hdr", "p3.img", "p4.nrrd", "p5.mgz", "p6.mgz"):
        (root / name).write_bytes(b"x")
    found = find(root)
    assert patients(found) == ["p1", "p3"]
    assert found.problems == [f"{root}/p2.hdr: .hdr/.img pairs are not read; convert it (nib-convert p2.hdr p2.nii.gz)"]
    assert "(2 .mgz, 1 .nrrd)" in found.notes[0]
    (root / "list.csv").write_text("path,patient_id\np1.nii.gz,1\np2.hdr,2\np2.img,3\n")
    found = find(root / "list.csv")
    assert patients(found) == ["1"]
    assert [problem.split(":")[0] for problem in found.problems] == ["list.csv row 3", "list.csv row 4"]
    assert all("nib-convert" in problem for problem in found.problems)
    (root / "p1.nii.gz").unlink(), (root / "p3.nii.gz").unlink()
    assert "nib-convert p2.hdr" in find(root).problems[0]


def test_a_name_that_is_no_utf8_has_its_line(tmp_path: Path, save: Save, typed: Typed) -> None:
    path = save("ann.nii.gz")
    os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/M\xfcller.nii.gz")  # noqa: PTH104
    save("ben.nii.gz")
    told = typed("prepare", tmp_path / "scans", "--out", tmp_path / "out", "--workers", "1")
    assert told.code == 2
    assert "M\\udcfcller" in told.err
    assert "not UTF-8; rename the file" in told.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["id_pattern", "series"])
def test_a_pattern_that_is_none(tmp_path: Path, option: str) -> None:
    with pytest.raises(DatasetError) as caught:
        prepare(options(tmp_path, tmp_path / "out", **{option: "("}))
    assert "(: not a regular expression" in caught.value.problems[0]


@pytest.mark.parametrize("pattern", ["(x)?p", "()p", "q"])
def test_a_pattern_that_finds_no_patient(tmp_path: Path, save: Save, pattern: str) -> None:
    save("p1.nii.gz"), save("p2.nii.gz")
    found = find(tmp_path / "scans", id_pattern=pattern)
    assert found.scans == []
    assert [problem.split("/")[-1] for problem in found.problems] == [
        f"p{i}.nii.gz: --id-pattern {pattern} finds no patient in this path; mend the pattern or the name"
        for i in (1, 2)
    ]


def test_sub_goes_everywhere(tmp_path: Path, save: Save) -> None:
    umlaut = unicodedata.normalize("NFD", "Müller")
    save("sub-01.nii.gz"), save(f"{umlaut}.nii.gz")
    (tmp_path / "sheet.csv").write_text("patient,side,finding\nsub-01,left,polyp\nMüller,left,polyp\n")
    (tmp_path / "scans.csv").write_text(f"path,patient_id\nscans/sub-01.nii.gz,sub-01\nscans/{umlaut}.nii.gz,Müller\n")
    for given in ({"scans": tmp_path / "scans"}, {"scans": tmp_path / "scans.csv"}, {"id_pattern": r"[^/]+(?=\.nii)"}):
        given = {"scans": tmp_path / "scans", "labels": tmp_path / "sheet.csv", **given}
        search = options(out=tmp_path / "out", **given)  # type: ignore[arg-type]
        scans, labels, problems, _ = gather(search, Store(search.out))
        assert problems == []
        assert labels is not None
        assert {scan.patient for scan in scans} == labels.listed == {"01", "Müller"}


def test_the_remedy_for_two_sessions_is_true(tmp_path: Path, save: Save) -> None:
    for session in (1, 2):
        save(f"sub-01/ses-{session}/anat/sub-01_ses-{session}_T1w.nii.gz")
    problem = find(tmp_path / "scans").problems[0]
    assert "patient 01 has 2 scans" in problem
    assert "a CSV of path,patient_id that lists one scan of each patient" in problem
    (tmp_path / "one.csv").write_text("path,patient_id\nscans/sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz,01\n")
    assert find(tmp_path / "one.csv").problems == []
