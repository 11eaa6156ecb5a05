"""A sheet as people keep it: words that say nothing, numbers, ids in two spellings, rows that cannot be read."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.command import gather
from voxbench.datasets.prepare.labels import Label, Labels, read_labels
from voxbench.datasets.prepare.store import Store

from ...conftest import Typed
from .conftest import options

Save = Callable[..., Path]


def sheet(folder: Path, text: str) -> Path:
    (folder / "sheet.csv").write_text(text, encoding="utf-8")
    return folder / "sheet.csv"


def lines(folder: Path, **more: object) -> list[str]:
    """The problems of scans and sheet together."""
    given = options(folder / "scans", folder / "out", labels=folder / "sheet.csv", **more)
    return gather(given, Store(given.out))[2]


def test_nothing_is_prepared_from_a_sheet_that_cannot_be_read(tmp_path: Path, save: Save, typed: Typed) -> None:
    for name in ("P0", "P1", "P2", "P3"):
        save(f"{name}.nii.gz")
    rows = 'P0,both,,0\nP1,left,2,5,1\nP2,left,"2 cm,1\nP3,both,NA,0\nP3,left\n'
    path = sheet(tmp_path, "patient_id,side,size_cm,label\n" + rows)
    told = typed("prepare", tmp_path / "scans", "--labels", path, "--out", tmp_path / "out", "--workers", "1")
    assert told.code == 2
    assert "sheet.csv row 3: 5 cells where the header has 4; quote a value that holds a comma" in told.err
    assert "sheet.csv row 4: a quote that opens here is never closed" in told.err
    assert "row 6: patient P3, left: a duplicate of row 5" in told.err
    assert "no row in the spreadsheet" not in told.err, "P1 and P2 have rows"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["NA", "n/a", "NaN", "NULL", "-", "?", "#N/A", ".", "<NA>"])
def test_a_word_for_nothing_is_refused_with_its_remedy(tmp_path: Path, word: str) -> None:
    rows = f"1,left,{word},\n2,left,,{word}\n3,left,polyp,{word}\n4,left,{word},1\n5,{word},,\n6,{word},cyst,\n"
    rows += f"{word},left,cyst,\n"
    labels, problems = read_labels(sheet(tmp_path, "patient,side,finding,label\n" + rows))
    nothing = f"{word} says nothing; leave the cell empty (without a label: unlabelled)"
    assert problems == [
        f"sheet.csv row 2: patient 1: finding {nothing}",
        f"sheet.csv row 3: patient 2: label {nothing}",
        f"sheet.csv row 4: patient 3: label {nothing}",
        f"sheet.csv row 5: patient 4: finding {nothing}",
        f"sheet.csv row 6: patient 5: side {word} says nothing; leave the cell empty",
        f"sheet.csv row 7: patient 6: side {word} says nothing; write left, right or both",
        f"sheet.csv row 8: the patient is missing ({word} names nobody); fill it in",
    ]
    assert labels.known == {} and labels.listed == set("123456")


def test_unknown_is_a_finding_only_with_a_label(tmp_path: Path) -> None:
    text = "patient,side,finding,label\n1,left,unknown,1\n2,left,unknown,\n3,left,None,\nunknown,left,cyst,\n"
    labels, problems = read_labels(sheet(tmp_path, text))
    assert labels.known == {
        ("1", "left"): Label("anomalous", "other", "unknown"),
        ("3", "left"): Label("normal", "normal", "None"),
    }
    assert [problem.split(";")[0] for problem in problems] == [
        "sheet.csv row 3: patient 2: finding unknown says nothing",
        "sheet.csv row 5: the patient is missing (unknown names nobody)",
    ]


@pytest.mark.parametrize("sign", [".0", ".00", ",0", ""])
def test_labels_that_are_numbers(tmp_path: Path, sign: str) -> None:
    labels, problems = read_labels(sheet(tmp_path, f"sep=;\npatient;side;label\n1;left;1{sign}\n1;right;0{sign}\n"))
    assert problems == []
    assert [label.label for label in labels.known.values()] == ["anomalous", "normal"]


def test_ids_of_a_workbook_are_those_that_a_person_sees(tmp_path: Path, save: Save) -> None:
    save("007.nii.gz"), save("P12.nii.gz")
    book = openpyxl.Workbook()
    for row in (["Patient", "Side", "Label"], [7, "both", 1.0], [12, "left", True]):
        book.active.append(row)
    book.active["A2"].number_format, book.active["A3"].number_format = "000", '"P"00'
    book.save(tmp_path / "sheet.xlsx")
    given = options(tmp_path / "scans", tmp_path / "out", labels=tmp_path / "sheet.xlsx")
    _, labels, problems, _ = gather(given, Store(given.out))
    assert problems == []
    assert labels is not None
    assert {key: label.label for key, label in labels.known.items()} == dict.fromkeys(
        [("007", "left"), ("007", "right"), ("P12", "left")], "anomalous"
    )


@pytest.mark.parametrize(
    ("scan", "row", "how"),
    [
        ("007", "7", "zeros in front"),
        ("P007", "p007", "capitals"),
        ("7", "7.0", "a .0 at the end"),
        ("Anna_M", "Anna M", "signs between"),
        ("7", "subject-7", "a prefix as sub-"),
    ],
)
def test_a_patient_whom_sheet_and_scan_write_in_two_ways_is_told(
    tmp_path: Path, save: Save, scan: str, row: str, how: str
) -> None:
    save(f"{scan}.nii.gz"), save("other.nii.gz")
    sheet(tmp_path, f"patient,side,finding\n{row},left,polyp\nother,both,normal\n")
    for unlisted in (False, True):
        assert lines(tmp_path, pool_unlisted=unlisted) == [
            f"patient {row} is in the spreadsheet but has no scan, and there is a scan of {scan}: they differ by {how} "
            "only; write the id in one way, as the scan's"
        ]


@pytest.mark.parametrize(
    "row", ["sub-Müller  7", unicodedata.normalize("NFD", "Müller 7"), "Müller\u00a07", "Müller 7\u200b"]
)
def test_what_looks_the_same_is_one_patient(tmp_path: Path, save: Save, row: str) -> None:
    save("Müller 7.nii.gz")
    labels = read_labels(sheet(tmp_path, f"patient,side,finding\n{row},left,polyp\nMüller 7,right,normal\n"))[0]
    assert labels.listed == {"Müller 7"}
    assert len(labels.known) == 2
    assert lines(tmp_path) == []


def test_two_scans_of_what_may_be_one_person(tmp_path: Path, save: Save) -> None:
    for name in ("P1", "p01", "P2", "1-11", "11-1"):
        save(f"{name}.nii.gz")
    sheet(tmp_path, "patient,side,finding\n" + "".join(f"{name},,\n" for name in ("P1", "p01", "P2", "1-11", "11-1")))
    (problem,) = lines(tmp_path)
    assert problem.startswith(
        f"{tmp_path}/scans/p01.nii.gz: patient p01 and P1 of {tmp_path}/scans/P1.nii.gz look like one"
    )
    assert "they differ by capitals and zeros only; keep one of the scans, or rename" in problem


def test_words_for_nothing_in_a_table_of_scans(tmp_path: Path, save: Save) -> None:
    save("a.nii.gz")
    (tmp_path / "scans.csv").write_text(
        "path,patient_id,modality\nscans/a.nii.gz,NA,\nn/a,7,\nscans/a.nii.gz,8,n/a\nscans/a.nii.gz,9,1,mr\nscans/a.nii.gz,5\n"
    )
    given = options(tmp_path / "scans.csv", tmp_path / "out")
    scans, _, problems, _ = gather(given, Store(given.out))
    assert [scan.patient for scan in scans] == ["5"]
    assert problems == [
        "scans.csv row 5: 4 cells where the header has 3; quote a value that holds a comma, and leave no cell out",
        "scans.csv row 2: patient NA names nobody; fill it in, or remove the row",
        "scans.csv row 3: path n/a names no file; name it, or remove the row",
        "scans.csv row 4: modality n/a says nothing; leave the cell empty",
    ]


def test_the_sheet_of_a_workbook_that_was_taken_is_a_note(tmp_path: Path, save: Save) -> None:
    save("7.nii.gz")
    book = openpyxl.Workbook()
    book.active.append(["made by Ann"])
    for row in (["patient", "side", "finding"], [7, "left", "polyp"]):
        book.create_sheet("data") if row[0] == "patient" else None
        book["data"].append(row)
    book.save(tmp_path / "sheet.xlsx")
    given = options(tmp_path / "scans", tmp_path / "out", labels=tmp_path / "sheet.xlsx")
    _, labels, problems, notes = gather(given, Store(given.out))
    assert isinstance(labels, Labels) and problems == []
    assert notes == ["sheet.xlsx: the sheet data was read; the first one, Sheet, has no columns patient_id and side"]


def test_a_scan_that_looks_like_a_listed_patient_s_has_one_line(tmp_path: Path, save: Save) -> None:
    save("P3.nii.gz"), save("p-03.nii.gz")
    sheet(tmp_path, "patient,side,finding\nP3,left,polyp\n")
    (problem,) = lines(tmp_path)
    assert "patient p-03 and P3 of" in problem
    assert "keep one of the scans, or rename one" in problem


def test_a_folder_is_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="a folder, not a spreadsheet; name the file in it"):
        read_labels(tmp_path)


def test_ids_that_a_spreadsheet_has_rounded(tmp_path: Path, save: Save) -> None:
    told = "patient 1.23E+11 is a number that a spreadsheet has rounded; format the column as text"
    _, problems = read_labels(sheet(tmp_path, "patient,side,finding\n1.23E+11,left,cyst\n1.23E+11,right,\n7,left,\n"))
    assert [problem.split(",")[0] for problem in problems] == [f"sheet.csv row {row}: {told}" for row in (2, 3)]
    save("a.nii.gz")
    (tmp_path / "scans.csv").write_text("path,patient_id\nscans/a.nii.gz,1.23E+11\n")
    given = options(tmp_path / "scans.csv", tmp_path / "out")
    _, _, problems, _ = gather(given, Store(given.out))
    assert problems[0].startswith(f"scans.csv row 2: {told}")
