"""Spreadsheets: CSV, TSV or XLSX with columns by any of a few names, every cell as text."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import openpyxl

from voxbench.datasets.base import DatasetError

Row = dict[str, str]


def read_table(
    path: Path, required: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]]
) -> list[tuple[int, Row]]:
    """Rows as (number in the sheet, cells by our column name); raises DatasetError if the sheet cannot be read.

    `required` and `optional` map our column names to the headings that may stand for them.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such spreadsheet")
    if path.suffix.lower() in (".xls", ".ods"):
        raise DatasetError(f"{path}: {path.suffix} files are not read; save the spreadsheet as .xlsx or CSV")
    lines = read_xlsx(path) if path.suffix.lower() == ".xlsx" else read_text(path)
    if not lines:
        raise DatasetError(f"{path}: the spreadsheet is empty; its first row must name the columns")
    header = [cell.strip().lower().lstrip("\ufeff") for cell in lines[0]]
    places: dict[str, int] = {}
    for name, headings in {**required, **optional}.items():
        found = [header.index(heading) for heading in headings if heading in header]
        if found:
            places[name] = found[0]
        elif name in required:
            raise DatasetError(f"{path}: no column {' or '.join(headings)}; there are {', '.join(header)}")
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        row = {name: (cells[at].strip() if at < len(cells) else "") for name, at in places.items()}
        if any(row.values()):
            rows.append((number, {**dict.fromkeys(optional, ""), **row}))
    return rows


def read_text(path: Path) -> list[list[str]]:
    """A CSV or TSV in UTF-8; comma, semicolon or tab, whichever the first line has most of."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"{path}: the spreadsheet is not readable text ({error}); save it as UTF-8 CSV") from error
    if "\x00" in text:
        raise DatasetError(f"{path}: the spreadsheet is not text; save it as UTF-8 CSV")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        return [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if line]
    except csv.Error as error:
        raise DatasetError(f"{path}: the spreadsheet is not readable ({error}); save it as UTF-8 CSV") from error


def read_xlsx(path: Path) -> list[list[str]]:
    """The first sheet of an Excel file; whole numbers lose their .0, so that a numeric patient id stays one."""
    try:
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
        lines = [[as_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # openpyxl passes on whatever zip, XML or its own parser raise
        raise DatasetError(
            f"{path}: the spreadsheet is not readable ({type(error).__name__}); save it again"
        ) from error
    return [line for line in lines if any(line)]


def as_text(cell: object) -> str:
    """A cell as it looks."""
    if cell is None:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
