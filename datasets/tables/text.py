"""Tables that are text: CSV and TSV, strict about quotes, every row with the number that a spreadsheet shows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import cause, remedy
from voxbench.datasets.tables.grid import OLE, ZIP, Grid, Line

SIGNS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
# Excel's own first line, which it does not count.
TOLD = re.compile(r'"?sep=([^\w\s"\0]|\t|\\t)"?[,;\t ]*', re.IGNORECASE)
UTF16 = (b"\xff\xfe", b"\xfe\xff")
SOME = 4  # rows, from which on "every row" means something
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
    if not grid.lines:
        return grid
    if grid.lines[0].flaw:
        raise DatasetError(f"{path}: row {grid.lines[0].number}: {grid.lines[0].flaw}")
    return Grid(_all_longer(grid.lines))


def _all_longer(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines; where all rows are longer than the header by as much, each says that a heading may be missing."""
    width, *lengths = (len(line.cells) for line in lines)
    if len(lengths) < SOME or len(set(lengths)) > 1 or not lengths[0] > width > 1:
        return tuple(lines)
    hint = (
        "; every row is so: is a heading missing (in R: write row.names = FALSE), or a sign at each row's end too many?"
    )
    return (lines[0], *(replace(line, flaw=f"{line.flaw}{hint}") for line in lines[1:]))


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
    number, at, usual = 0, start, Usual(separator)
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
                usual.header(cells, lines[here])
                flaw = _swallowed(cells, lines[here : at + reader.line_num], usual)
            if flaw:
                place = f" (line {here + 1} of the file)" if here + 1 != number else ""
                yield Line(number, _as_one_line(lines[here], separator), flaw.format(here=f"here{place}"))
                at = here + 1
                break
            line = Line(number, tuple(cells), _flaw(cells, separator, usual.width))
            if not line.blank:
                usual.lengths.add(len(cells))
                yield line
            here = at + reader.line_num


@dataclass
class Usual:
    """What the rows of a file look like, as far as they have been read."""

    separator: str
    width: int = 0  # of the header
    spaced: bool = False  # whether a blank follows a separator
    lengths: set[int] = field(default_factory=set)  # Excel cuts rows

    def header(self, cells: Sequence[str], line: str) -> None:
        """Takes the first row that holds anything for the header."""
        if not self.width and any(cell.strip() for cell in cells):
            self.width, self.spaced = len(cells), f"{self.separator} " in line

    def is_full(self, line: str) -> bool:
        """Whether a line looks like a row that is as long as the header."""
        return line.count(self.separator) == self.width - 1 > 0 and self._is_spaced_so(line)

    def fits(self, line: str) -> bool:
        """The same, or as long as another row; a comma between two digits is then a decimal one."""
        cut = line.count(self.separator) > 0 and line.count(self.separator) + 1 in self.lengths
        return self.is_full(line) or (cut and self._is_spaced_so(line) and not re.search(r"\d,\d", line))

    def _is_spaced_so(self, line: str) -> bool:
        """A blank after a separator is that of a sentence, but where the header has one, too."""
        return self.spaced or f"{self.separator} " not in line


def _quotes(error: csv.Error) -> str:
    """Why a row could not be read; its quotes are the only thing that the parser is strict about."""
    if "expected after" in str(error):
        return "a quote that opens {here} is not closed where its cell ends; check the quotes"
    return "a quote that opens {here} is never closed; close or remove it, and check the quotes below"


def _swallowed(cells: Sequence[str], lines: Sequence[str], usual: Usual) -> str:
    """Whether a cell of several lines holds what looks like rows: then its quote is closed by another one's.

    Either rows lie within a cell, or the record's own `lines` in the file are each as long as a row.
    """
    rows_within = any(usual.fits(line) for cell in cells for line in cell.splitlines()[1:])
    if rows_within or (usual.is_full(lines[0]) and any(usual.is_full(line) for line in lines[1:])):
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
