"""Workbooks: what a person sees in a cell is what is read, and what cannot be read has one line."""

from __future__ import annotations

import resource
import time
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from openpyxl.styles import Font
from openpyxl.utils.datetime import MAC_EPOCH

from voxbench.datasets.base import DatasetError
from voxbench.datasets.tables.reader import Table, read_table
from voxbench.datasets.tables.xlsx import read_workbook

HEADINGS = ["patient", "side", "finding"]


def workbook(path: Path, *rows: list[Any]) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    for row in [HEADINGS, *rows]:
        book.active.append(row)
    book.save(path)
    return book


def read(path: Path, sheet: str | None = None) -> Table:
    return read_table(path, {"patient": ["patient"], "side": ["side"]}, {"finding": ["finding"]}, sheet=sheet)


def cells(path: Path, column: str = "patient") -> list[str]:
    return [row[column] for _, row in read(path).rows]


@pytest.mark.parametrize(
    ("value", "code", "seen"),
    [
        (7, "000", "007"),
        (7, "General", "7"),
        (7.0, "0", "7"),
        (1234, "000", "1234"),
        (7, '"P"000', "P007"),
        (7, "\\P000", "P007"),
        (7, '"sub-"00;-0', "sub-07"),
        (123456789, "000-00-0000", "123-45-6789"),
        (1234, "00-0", "123-4"),
        (1234, "#,##0", "1234"),
        (7, "# ?/?", "7"),
        (7, "0.00E+00", "7"),
        (1, "0.00", "1"),
        (0.5, "0%", "0.5"),
        (-7, "000", "-7"),
        (7, "@", "7"),
        (7, "[Red]000", "007"),
        (7, "000_)", "007"),
        (12345678901, "0", "12345678901"),
        ("007", "General", "007"),
        (True, "General", "TRUE"),
        (date(2026, 11, 27), "dd/mm/yyyy", "2026-11-27"),
        (datetime(2026, 11, 27, 8, 30), "dd/mm/yyyy hh:mm", "2026-11-27 08:30:00"),
        ("#N/A", "General", "#N/A"),
        ("a\nb_x000D_", "General", "a\nb"),
    ],
)
def test_a_cell_is_what_a_person_sees(value: Any, code: str, seen: str, tmp_path: Path) -> None:
    book = workbook(tmp_path / "s.xlsx", [value, "left", "polyp"])
    book.active["A2"].number_format = code
    book.save(tmp_path / "s.xlsx")
    assert cells(tmp_path / "s.xlsx") == [seen]


def test_days_of_the_other_epoch(tmp_path: Path) -> None:
    book = workbook(tmp_path / "s.xlsx")
    book.epoch = MAC_EPOCH
    book.active.append([date(2026, 11, 27), "left", "polyp"])
    book.save(tmp_path / "s.xlsx")
    assert cells(tmp_path / "s.xlsx") == ["2026-11-27"]


@pytest.mark.parametrize("last", ["C1048576", "XFD1048576"])
def test_an_empty_cell_at_the_end_of_the_sheet_costs_nothing(last: str, tmp_path: Path) -> None:
    book = workbook(tmp_path / "s.xlsx", ["7", "left", "polyp"])
    book.active[last].font = Font(bold=True)
    book.save(tmp_path / "s.xlsx")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert cells(tmp_path / "s.xlsx") == ["7"]
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_many_empty_rows_that_are_formatted_are_forgotten_one_by_one(tmp_path: Path) -> None:
    workbook(tmp_path / "s.xlsx", ["7", "left", "polyp"])
    empty = b"".join(b'<row r="%d"><c r="A%d" s="0"/><c r="B%d" s="0"/></row>' % (n, n, n) for n in range(3, 600_000))
    rewrite(tmp_path / "s.xlsx", "xl/worksheets/sheet1.xml", b"</sheetData>", empty + b"</sheetData>")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert cells(tmp_path / "s.xlsx") == ["7"]
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def rewrite(path: Path, part: str, old: bytes, new: bytes) -> None:
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    assert old in parts[part]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in parts.items():
            book.writestr(name, content.replace(old, new) if name == part else content)


def test_a_value_in_merged_cells_stands_in_each_of_them(tmp_path: Path) -> None:
    rows = [["7", "left", "polyp"], [None, "right", None], ["8", "left", "cyst"], [None, None, None], ["9", "left", ""]]
    book = workbook(tmp_path / "s.xlsx", *rows)
    book.active.merge_cells("A2:A3")
    book.active.merge_cells("C2:C3")
    book.active.merge_cells("C4:Z4")
    book.active.merge_cells("A1:A1")
    book.save(tmp_path / "s.xlsx")
    assert [(number, *row.values()) for number, row in read(tmp_path / "s.xlsx").rows] == [
        (2, "polyp", "7", "left"),
        (3, "polyp", "7", "right"),
        (4, "cyst", "8", "left"),
        (6, "", "9", "left"),
    ]


def test_a_formula_counts_where_it_is_needed(tmp_path: Path) -> None:
    book = workbook(tmp_path / "s.xlsx", ["7", "left", "polyp", "=1+1"])
    assert cells(tmp_path / "s.xlsx") == ["7"], "one in a further column is left alone"
    book.active["A3"], book.active["B3"] = "=A2", "=B2"
    book.save(tmp_path / "s.xlsx")
    with pytest.raises(DatasetError, match=r"sheet Sheet: formulas without a stored value \(A3, B3\); open the file"):
        read(tmp_path / "s.xlsx")
    rewrite(tmp_path / "s.xlsx", "xl/worksheets/sheet1.xml", b"<f>A2</f><v />", b"<f>A2</f><v>8</v>")
    rewrite(tmp_path / "s.xlsx", "xl/worksheets/sheet1.xml", b"<f>B2</f><v />", b"<f>B2</f><v>12</v>")
    assert cells(tmp_path / "s.xlsx") == ["7", "8"]


EXCEL = {  # parts as Excel writes them, and openpyxl does not
    "_rels/.rels": '<Relationships xmlns="r"><Relationship Id="a" Type="x/officeDocument" Target="xl/workbook.xml"/>'
    "</Relationships>",
    "xl/workbook.xml": '<workbook xmlns="m" xmlns:q="r"><sheets><sheet name="Data" sheetId="1" q:id="b"/></sheets>'
    "</workbook>",
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="r">'
    '<Relationship Id="b" Type="x/worksheet" Target="/xl/worksheets/one.xml"/>'
    '<Relationship Id="c" Type="x/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
    "xl/sharedStrings.xml": '<sst xmlns="m"><si><t>patient</t></si><si><t>side</t></si><si><t>finding</t></si>'
    "<si><r><t>P</t></r><r><rPr><b/></rPr><t>7</t></r><rPh sb='0' eb='1'><t>pee</t></rPh></si>"
    '<si><t xml:space="preserve"> left</t></si><si><t>two_x000D_lines</t></si></sst>',
    "xl/worksheets/one.xml": '<worksheet xmlns="m"><sheetData><row><c t="s"><v>0</v></c><c/><c t="s"><v>1</v></c>'
    '<c t="s"><v>2</v></c></row><row r="4"><c r="A4" t="s"><v>3</v></c><c r="C4" t="s"><v>4</v></c>'
    '<c r="D4" t="e"><f>1/0</f><v>#DIV/0!</v></c></row><row r="5"/><row r="6"><c r="A6" t="s"><v>5</v></c></row>'
    "</sheetData></worksheet>",
}


def test_parts_as_excel_writes_them(tmp_path: Path) -> None:
    """Shared texts of several fonts, with their reading; rows and cells that name no place; errors."""
    with zipfile.ZipFile(tmp_path / "s.xlsx", "w") as book:
        for name, content in EXCEL.items():
            book.writestr(name, content)
    assert read(tmp_path / "s.xlsx").rows == (
        (4, {"patient": "P7", "side": "left", "finding": "#DIV/0!"}),
        (6, {"patient": "two\rlines", "side": "", "finding": ""}),
    )


def test_the_sheet_that_was_taken_is_said(tmp_path: Path) -> None:
    book = workbook(tmp_path / "s.xlsx", ["7", "left", "polyp"])
    book.create_sheet("about", 0).append(["made by", "Ann"])
    book.create_sheet("empty", 0)
    book.create_chartsheet("chart", 0)
    book.save(tmp_path / "s.xlsx")
    table = read(tmp_path / "s.xlsx")
    assert table.note == "s.xlsx: the sheet Sheet was read; the first one, empty, has no columns patient and side"
    assert len(table.rows) == 1
    assert read(tmp_path / "s.xlsx", "Sheet").note == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xd0\xcf\x11\xe0" + bytes(600) + "EncryptedPackage".encode("utf-16-le"), "protected by a password; save it"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), r"old kind \(.xls\); save the spreadsheet as .xlsx"),
        (b"", "no whole .xlsx workbook; save it again"),
        (b"<html><table>", "no whole .xlsx workbook; save it again"),
    ],
)
def test_a_file_that_is_no_workbook(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.xlsx").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path / "s.xlsx")
    assert str(caught.value).count("\n") == 0


def test_a_damaged_workbook_has_one_line(tmp_path: Path) -> None:
    workbook(tmp_path / "s.xlsx", *[[str(i), "left", f"finding {i * 7919}"] for i in range(300)])
    whole = (tmp_path / "s.xlsx").read_bytes()
    for cut in (1000, len(whole) - 30):
        (tmp_path / "s.xlsx").write_bytes(whole[:cut])
        with pytest.raises(DatasetError, match="no whole"):
            read(tmp_path / "s.xlsx")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as other:
        other.writestr("word/document.xml", "<x/>")
    with pytest.raises(DatasetError, match="no whole"):
        read(tmp_path / "whole.zip")
    (tmp_path / "s.xlsx").write_bytes(whole)
    for part in ("xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/styles.xml"):
        (tmp_path / "part.xlsx").write_bytes(whole)
        rewrite(tmp_path / "part.xlsx", part, b"</", b"<")
        with pytest.raises(DatasetError, match="no whole"):
            read(tmp_path / "part.xlsx")
    bits = bytearray(whole)
    with zipfile.ZipFile(tmp_path / "s.xlsx") as book:
        at = book.getinfo("xl/worksheets/sheet1.xml").header_offset
    bits[at + 200] ^= 255
    (tmp_path / "s.xlsx").write_bytes(bytes(bits))
    with pytest.raises(DatasetError, match="no whole"):
        read(tmp_path / "s.xlsx")


def test_a_workbook_is_known_by_what_it_holds(tmp_path: Path) -> None:
    workbook(tmp_path / "s.xlsx", ["7", "left", "polyp"])
    (tmp_path / "s.xlsx").rename(tmp_path / "s.csv")
    assert cells(tmp_path / "s.csv") == ["7"]
    assert list(read_workbook(tmp_path / "s.csv").sheets) == ["Sheet"]
