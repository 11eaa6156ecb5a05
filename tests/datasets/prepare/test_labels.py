"""The sheet of labels: whatever cannot be read safely is said, never left out or guessed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import openpyxl
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare import labels as sheet
from voxbench.datasets.prepare.output import Tables
from voxbench.datasets.prepare.scans import Scan

from .conftest import options


def csv_of(folder: Path, text: str) -> Path:
    (folder / "sheet.csv").write_text(text)
    return folder / "sheet.csv"


@pytest.mark.parametrize("heading", ["Finding class", "Befund", "Pathology"])
def test_a_sheet_without_a_column_of_labels_is_refused(tmp_path: Path, heading: str) -> None:
    path = csv_of(tmp_path, f"patient,side,{heading}\n7,left,polyp\n")
    with pytest.raises(DatasetError, match=f"no column finding or .* label or .*there are: .*{heading.lower()}"):
        sheet.read_labels(path)


def workbook(path: Path, **sheets: list[list[str]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        made = book.create_sheet(name)
        for row in rows:
            made.append(row)
    book.save(path)
    return path


HEADINGS = ["patient", "side", "finding"]


def test_a_formula_that_nothing_has_computed_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "s.xlsx", Labels=[HEADINGS, ["7", "left", '=IF(1,"polyp","")'], ["8", "left", "cyst"]])
    with pytest.raises(DatasetError, match=r"Labels: formulas without a stored value \(C2\); open the file"):
        sheet.read_labels(path)


def test_a_formula_that_gave_an_empty_text_is_a_value(tmp_path: Path) -> None:
    """As spreadsheet programs store it; the row is then of the unlabelled pool."""
    path = workbook(tmp_path / "s.xlsx", Labels=[HEADINGS, ["7", "left", '=IF(1,"","")'], ["8", "left", "cyst"]])
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(path, "w") as book:
        for name, part in parts.items():
            book.writestr(name, part.replace(b'<c r="C2">', b'<c r="C2" t="str">'))
    labels, problems = sheet.read_labels(path)
    assert problems == []
    assert labels.listed == {"7", "8"}
    assert list(labels.known) == [("8", "left")]


def test_the_sheet_with_the_columns_is_taken_and_never_one_of_several(tmp_path: Path) -> None:
    about, old = [["made by"], ["Ann"]], [HEADINGS, ["7", "left", "normal"]]
    final = [HEADINGS, ["7", "left", "polyp"]]
    labels, _ = sheet.read_labels(workbook(tmp_path / "one.xlsx", about=about, final=final))
    assert labels.known[("7", "left")].finding == "polyp"
    both = workbook(tmp_path / "two.xlsx", about=about, old=old, final=final)
    with pytest.raises(DatasetError, match=r"several sheets have these columns \(old, final\).*--sheet"):
        sheet.read_labels(both)
    labels, _ = sheet.read_labels(both, "final")
    assert labels.known[("7", "left")].finding == "polyp"
    with pytest.raises(DatasetError, match="no such sheet; there are: about, old, final"):
        sheet.read_labels(both, "Final 2")
    with pytest.raises(DatasetError, match=r"no column patient_id .*there are: made by"):
        sheet.read_labels(both, "about")
    with pytest.raises(DatasetError, match=r"sheet.csv is text and has no sheets"):
        sheet.read_labels(csv_of(tmp_path, "patient,side,finding\n"), "final")
    assert "add --labels" in options(tmp_path, tmp_path, sheet="final").problems()[0]


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_rows_are_numbered_as_a_spreadsheet_shows_them(tmp_path: Path, kind: str) -> None:
    rows = [["Patient ID", "Side", "Finding"], ["7", "left", "polyp"], [], ["", "", ""], [], ["8", "up", "polyp"]]
    path = csv_of(tmp_path, "\n".join(";".join(row) for row in rows))
    if kind == "xlsx":
        path = workbook(tmp_path / "sheet.xlsx", Labels=rows)
    _, problems = sheet.read_labels(path)
    assert [problem.split(":")[0] for problem in problems] == [f"{path.name} row 6"]


def test_a_cell_of_two_lines_is_one_row(tmp_path: Path) -> None:
    path = csv_of(tmp_path, 'patient,side,finding,label\n7,left,"cyst\nand more",1\n8,up,polyp,\n')
    labels, problems = sheet.read_labels(path)
    assert problems[0].startswith("sheet.csv row 3: patient 8")
    assert labels.listed == {"7", "8"}


def test_spaces_underscores_and_case_do_not_matter(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "PATIENT  id,Side,FINDING\n7,Left,Mucosal  thickening\n7, RIGHT ,No_Finding\n")
    labels, problems = sheet.read_labels(path)
    assert problems == []
    assert [label.finding for label in labels.known.values()] == ["mucosal thickening", "normal"]
    twice = csv_of(tmp_path, "Patient ID,patient_id,side,finding\n7,8,left,polyp\n")
    with pytest.raises(DatasetError, match="two columns are named patient id"):
        sheet.read_labels(twice)


def test_free_text_of_the_sheet_stays_private(tmp_path: Path) -> None:
    text = "cyst; Mr Smith MRN 123456"
    path = csv_of(tmp_path, f"patient,side,finding,label\n7,left,{text},1\n7,right,as said by Dr Roe,0\n8,left,Cyst,\n")
    labels, problems = sheet.read_labels(path)
    assert problems == []
    sides = {side: {"refused": [], "crops": [{"path": f"{side}.nii.gz"}]} for side in ("left", "right")}
    people = {"pa": Scan(Path("7.nii"), "7"), "pb": Scan(Path("8.nii"), "8")}
    tables = Tables.of({code: {"sides": sides} for code in people}, {}, people, labels)
    public = [(row["label"], row["finding"]) for row in tables.manifest]
    assert public == [("anomalous", "other"), ("normal", "normal"), ("anomalous", "retention cyst"), ("", "")]
    assert [row["finding_as_told"] for row in tables.sources] == [text, "as said by Dr Roe", "Cyst", ""]
