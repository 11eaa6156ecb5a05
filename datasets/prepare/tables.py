"""Spreadsheets: CSV, TSV or XLSX with columns by any of a few names, every cell as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import openpyxl

from voxbench.datasets.base import DatasetError

Row = dict[str, str]
Line = tuple[int, list[str]]  # the row's number as a spreadsheet program shows it, and its cells


def plain(text: str) -> str:
    """A heading or a word to compare: lower case, underscores as spaces, no space twice."""
    return " ".join(text.replace("_", " ").casefold().split())


def read_table(
    path: Path,
    required: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
    *,
    one_of: Sequence[str] = (),
    sheet: str | None = None,
) -> list[tuple[int, Row]]:
    """Rows as (number in the sheet, cells by our column name); raises DatasetError if the sheet cannot be read.

    `required` and `optional` map our column names to the headings that may stand for them; of the optional ones in
    `one_of`, one must be there. `sheet` names the sheet of a workbook; without, it is the one with the columns.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such spreadsheet")
    if path.suffix.lower() in (".xls", ".ods"):
        raise DatasetError(f"{path}: {path.suffix} files are not read; save the spreadsheet as .xlsx or CSV")
    if path.suffix.lower() == ".xlsx":
        lines = read_xlsx(path, required, sheet)
    elif sheet is not None:
        raise DatasetError(f"--sheet {sheet}: {path.name} is text and has no sheets; leave --sheet out")
    else:
        lines = read_text(path)
    if not lines:
        raise DatasetError(f"{path}: the spreadsheet is empty; its first row must name the columns")
    header = headings(lines)
    places = {name: where for name, known in {**required, **optional}.items() for where in columns(header, known)[:1]}
    check_header(path, header, places, required, {name: optional[name] for name in one_of})
    rows = []
    for number, cells in lines[1:]:
        row = {name: (cells[at].strip() if at < len(cells) else "") for name, at in places.items()}
        if any(row.values()):
            rows.append((number, {**dict.fromkeys(optional, ""), **row}))
    return rows


def headings(lines: Sequence[Line]) -> list[str]:
    """The cells of the first row."""
    return [plain(cell.lstrip("\ufeff")) for cell in lines[0][1]] if lines else []


def columns(header: Sequence[str], known: Sequence[str]) -> list[int]:
    """Where the headings that may stand for a column are, best first."""
    return [at for name in known for at, heading in enumerate(header) if heading == plain(name)]


def check_header(
    path: Path,
    header: Sequence[str],
    places: Mapping[str, int],
    required: Mapping[str, Sequence[str]],
    one_of: Mapping[str, Sequence[str]],
) -> None:
    """Raises DatasetError for a column that is missing or there twice."""
    there = f"there are: {', '.join(heading for heading in header if heading)}"
    for name, known in required.items():
        if name not in places:
            raise DatasetError(f"{path}: no column {' or '.join(known)}; {there}")
    if one_of and not set(one_of) & set(places):
        known = [heading for names in one_of.values() for heading in names]
        raise DatasetError(f"{path}: no column {' or '.join(known)}; rename the one that is meant; {there}")
    for at in places.values():
        if header.count(header[at]) > 1:
            raise DatasetError(f"{path}: two columns are named {header[at]}; remove or rename one")


def read_text(path: Path) -> list[Line]:
    """A CSV or TSV in UTF-8; comma, semicolon or tab, whichever the first line has most of."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"{path}: the spreadsheet is not readable text ({error}); save it as UTF-8 CSV") from error
    if "\x00" in text:
        raise DatasetError(f"{path}: the spreadsheet is not text; save it as UTF-8 CSV")
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = list(enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1))
    except csv.Error as error:
        raise DatasetError(f"{path}: the spreadsheet is not readable ({error}); save it as UTF-8 CSV") from error
    return [line for line in lines if any(cell.strip() for cell in line[1])]


def read_xlsx(path: Path, required: Mapping[str, Sequence[str]], name: str | None) -> list[Line]:
    """The sheet of a workbook that is named, or else the only one with the required columns, or else the first."""
    try:
        values = openpyxl.load_workbook(path, data_only=True).worksheets
        formulas = openpyxl.load_workbook(path).worksheets
    except Exception as error:  # openpyxl passes on whatever zip, XML or its own parser raise
        raise DatasetError(
            f"{path}: the spreadsheet is not readable ({type(error).__name__}); save it again"
        ) from error
    if not values:
        raise DatasetError(f"{path}: the workbook has no sheet of cells; save the table as CSV")
    sheets = {sheet.title: sheet_lines(sheet) for sheet in values}
    fitting = [
        title for title, lines in sheets.items() if all(columns(headings(lines), known) for known in required.values())
    ]
    if name is not None and name not in sheets:
        raise DatasetError(f"--sheet {name}: {path.name} has no such sheet; there are: {', '.join(sheets)}")
    if name is None and len(fitting) > 1:
        raise DatasetError(
            f"{path}: several sheets have these columns ({', '.join(fitting)}); "
            "choose that of the labels with --sheet, or keep only one in the file"
        )
    chosen = name or (fitting[0] if fitting else next(iter(sheets)))
    at = list(sheets).index(chosen)
    empty = uncomputed(values[at], formulas[at])
    if empty:
        raise DatasetError(
            f"{path}: sheet {chosen}: formulas without a stored value ({', '.join(empty[:5])}"
            f"{', ...' if len(empty) > 5 else ''}); open the file in a spreadsheet program and save it, or paste values"
        )
    return sheets[chosen]


def sheet_lines(sheet: openpyxl.worksheet.worksheet.Worksheet) -> list[Line]:
    """The rows that hold anything."""
    lines = [
        (number, [as_text(cell) for cell in row]) for number, row in enumerate(sheet.iter_rows(values_only=True), 1)
    ]
    return [line for line in lines if any(cell.strip() for cell in line[1])]


def uncomputed(
    values: openpyxl.worksheet.worksheet.Worksheet, formulas: openpyxl.worksheet.worksheet.Worksheet
) -> list[str]:
    """Cells whose formula no program has computed yet; a formula that gave an empty text is of type "str"."""
    return [
        cell.coordinate
        for row in formulas.iter_rows()
        for cell in row
        if cell.data_type == "f"
        and values[cell.coordinate].value is None
        and values[cell.coordinate].data_type != "str"
    ]


def as_text(cell: object) -> str:
    """A cell as it looks; whole numbers lose their .0, so that a numeric patient id stays one."""
    if cell is None:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
