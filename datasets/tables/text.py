"""Tables that are text: CSV and TSV, strict about quotes, every row with the number that a spreadsheet shows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import cause, remedy
from voxbench.datasets.tables.grid import OLE, ZIP, Grid, Line

SIGNS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
# Excel's own first line, which it does not count.
TOLD = re.compile(r'"?sep=([^\w\s"\0]|\t|\\t)"?[,;\t ]*', re.IGNORECASE)
UTF16 = (b"\xff\xfe", b"\xfe\xff")
REMEDY = 'save it as "CSV UTF-8"'


def read_text(path: Path, *, commas: bool = False) -> Grid:
    """UTF-8, or UTF-16 as Excel's "Unicode text" is; the separator as a line sep=; tells, or as the header has most.

    With `commas` nothing is guessed: UTF-8 and commas, or what the line tells. Raises DatasetError for what is no text.
    """
    lines = list(io.StringIO(decoded(path, commas), newline=""))
    told, skipped = separator_told(lines)
    first = next((line for line in lines[skipped:] if line.strip()), "")
    if "\x00" in first:
        raise DatasetError(f"{path}: this is not text, or damaged; {REMEDY}")
    separator = told or ("," if commas else likely_separator(first))
    grid = Grid(tuple(rows(lines, skipped, separator)))
    if grid.lines and grid.lines[0].flaw:
        raise DatasetError(f"{path}: row {grid.lines[0].number}: {grid.lines[0].flaw}")
    return grid


def decoded(path: Path, strict: bool) -> str:
    """The text of a file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: it cannot be read ({cause(error)}); {remedy(error)}") from error
    if content.startswith(OLE) or (content.startswith(ZIP) and b"xl/" in content):
        raise DatasetError(f"{path}: this is a workbook, not text; {REMEDY} in a spreadsheet program")
    if content.startswith(UTF16) and not strict:
        text = content.decode("utf-16", errors="replace")
        if "\n" not in text and "\r" not in text:
            raise DatasetError(f"{path}: the spreadsheet is not readable text; {REMEDY}")
        return text
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        others = "not as Excel or Unicode text" if strict else "not in another encoding"
        raise DatasetError(f"{path}: not UTF-8 text (byte {error.start}); {REMEDY}, {others}") from error


def separator_told(lines: Sequence[str]) -> tuple[str, int]:
    """What a first line such as sep=; tells, and how many lines are not of the table; ("", 0) without one."""
    for at, line in enumerate(lines):
        if line.strip():
            found = TOLD.fullmatch(line.rstrip("\r\n"))
            return (found.group(1).replace("\\t", "\t"), at + 1) if found else ("", 0)
    return "", 0


def likely_separator(header: str) -> str:
    """Comma, semicolon or tab: which the header has most of, outside quotes."""
    return max(",;\t", key=re.sub('"[^"]*"', "", header).count)


def rows(lines: Sequence[str], start: int, separator: str) -> Iterator[Line]:
    """The rows that hold anything. One whose quotes do not match is told, and reading goes on in the next line."""
    number, width, at = 0, 0, start
    while at < len(lines):
        reader = csv.reader((lines[k] for k in range(at, len(lines))), delimiter=separator, strict=True)
        here = at
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                flaw = _quotes(error)
            else:
                flaw = _swallowed(cells, separator, width)
            if flaw:
                place = f" (line {here + 1} of the file)" if here + 1 != number else ""
                yield Line(number, _as_one_line(lines[here], separator), flaw.format(here=f"here{place}"))
                at = here + 1
                break
            line = Line(number, tuple(cells), _flaw(cells, separator, width))
            if not line.blank:
                width = width or len(cells)
                yield line
            here = at + reader.line_num


def _quotes(error: csv.Error) -> str:
    """Why a row could not be read; its quotes are the only thing that the parser is strict about."""
    if "expected after" in str(error):
        return "a quote that opens {here} is not closed where its cell ends; check the quotes"
    return "a quote that opens {here} is never closed; close or remove it, and check the quotes below"


def _swallowed(cells: Sequence[str], separator: str, width: int) -> str:
    """Whether a cell of several lines holds what looks like rows: then its quote is closed by another one's."""
    for cell in cells if width > 1 else ():
        for line in cell.splitlines()[1:]:
            if line.count(separator) == width - 1 and f"{separator} " not in line:
                return "a quote that opens {here} is closed in a later row only; check the quotes"
    return ""


def _flaw(cells: Sequence[str], separator: str, width: int) -> str:
    """Why the cells of a row cannot be trusted."""
    if any("\x00" in cell for cell in cells):
        return "it holds NUL bytes, so the file is damaged; save or copy it again"
    if width and len(cells) > width and any(cell.strip() for cell in cells):
        sign = SIGNS.get(separator, f"separator {separator}")
        return (
            f"{len(cells)} cells where the header has {width}; quote a value that holds a {sign}, and leave no cell out"
        )
    return ""


def _as_one_line(line: str, separator: str) -> tuple[str, ...]:
    """The cells that a row with wrong quotes seems to have."""
    return tuple(next(csv.reader([line.replace('"', "")], delimiter=separator), []))
