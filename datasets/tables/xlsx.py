"""Excel workbooks, read as a stream: a million rows that are formatted and empty cost seconds and no memory."""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from openpyxl.styles.numbers import BUILTIN_FORMATS
from openpyxl.utils.cell import column_index_from_string, get_column_letter, range_boundaries
from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import cause, remedy
from voxbench.datasets.tables.formats import shown
from voxbench.datasets.tables.grid import OLE, Grid, Line

ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, EOFError, LookupError, ValueError, StopIteration),
    *(NotImplementedError, RuntimeError),  # a compression or an encryption that zipfile does not know
)
EMPTY_CELL = re.compile(rb'<c r="[A-Z]+[0-9]+"[^<>]*/>')
EMPTY_ROW = re.compile(rb'<row r="[0-9]+"[^<>]*(?:/>|>\s*</row>)')
CHUNK = 1 << 20  # bytes
PEEK = 512  # bytes that tell what a file is
Element = ElementTree.Element


@dataclass(frozen=True)
class Workbook:
    """What all sheets share, and where each is. Raises DatasetError for what cannot be read."""

    path: Path
    sheets: dict[str, str]  # title -> part of the file; charts are none
    texts: list[str]
    formats: list[str]  # of numbers, by style
    epoch: datetime

    def headings(self, title: str) -> list[str]:
        """The headings of a sheet; nothing else of it is read."""
        with _opened(self.path) as book:
            first = next(self._lines(book, title, []), None)
            return Grid((first[0],)).headings if first else []

    def grid(self, title: str) -> Grid:
        """A sheet; a value in merged cells stands in each of them."""
        with _opened(self.path) as book:
            merged: list[str] = []
            lines: list[Line] = []
            uncomputed: dict[int, list[str]] = {}
            for line, formulas in self._lines(book, title, merged):
                lines += [line] * (not line.blank)
                for at in formulas:
                    uncomputed.setdefault(at, []).append(f"{get_column_letter(at + 1)}{line.number}")
            return Grid(tuple(_unmerged(lines, merged)), uncomputed, sheet=title)

    def _lines(self, book: zipfile.ZipFile, title: str, merged: list[str]) -> Iterator[tuple[Line, list[int]]]:
        """Rows that hold anything, with the columns whose formula has no value; ranges of merged cells join `merged`.

        Each row is forgotten once it has been read.
        """
        above: list[Element] = []
        number = 0
        with book.open(self.sheets[title]) as part:
            for event, element in _elements(part):
                name = _name(element)
                if event == "start":
                    above += [element] if name == "sheetData" else []
                elif name == "row":
                    number = int(element.get("r", number + 1))
                    line, formulas = self._line(number, element)
                    above[0].clear()
                    if formulas or not line.blank:
                        yield line, formulas
                elif name == "mergeCell":
                    merged.append(element.get("ref", ""))

    def _line(self, number: int, row: Element) -> tuple[Line, list[int]]:
        cells: dict[int, str] = {}
        formulas = []
        at = -1
        for cell in row:
            place = cell.get("r", "").rstrip("0123456789")
            at = column_index_from_string(place) - 1 if place else at + 1
            if len(cell):
                text, computed = self._cell(cell)
                if text:
                    cells[at] = text
                if not computed:
                    formulas.append(at)
        return Line(number, tuple(cells.get(at, "") for at in range(max(cells, default=-1) + 1))), formulas

    def _cell(self, cell: Element) -> tuple[str, bool]:
        """What a person sees in a cell, and whether that is known: a formula may never have been computed."""
        kind = cell.get("t", "n")
        parts = {_name(part): part for part in cell}
        if kind == "inlineStr":
            return (_text(parts["is"]) if "is" in parts else ""), True
        value = parts["v"].text if "v" in parts else None
        if not value:
            return "", "f" not in parts or kind == "str"  # a formula that gave an empty text is of this kind
        if kind == "s":
            return self.texts[int(value)], True
        if kind == "b":
            return ("TRUE" if value == "1" else "FALSE"), True
        if kind != "n":
            return (value.removesuffix("T00:00:00") if kind == "d" else _unescaped(value)), True
        style = int(cell.get("s", 0))
        return shown(float(value), self.formats[style] if style < len(self.formats) else "General", self.epoch), True


def read_workbook(path: Path) -> Workbook:
    """A workbook without its sheets' cells. Raises DatasetError for a file that is none of today."""
    with _opened(path) as book:
        main = next(target for kind, target in _targets(book, "").values() if kind == "officeDocument")
        if main.endswith(".bin"):
            raise DatasetError(f"{path}: this is a binary workbook (.xlsb); save the spreadsheet as .xlsx or CSV")
        tree, targets = _tree(book, main), _targets(book, main)
        sheets = {}
        for sheet in _all(tree, "sheet"):
            kind, target = targets[next(value for key, value in sheet.items() if key.endswith("}id"))]
            if kind == "worksheet":
                sheets[sheet.get("name", "")] = target
        parts = dict(targets.values())
        texts = [_text(item) for item in _all(_tree(book, parts.get("sharedStrings")), "si")]
        mac = any(part.get("date1904") in ("1", "true") for part in _all(tree, "workbookPr"))
        return Workbook(
            path, sheets, texts, _formats(_tree(book, parts.get("styles"))), MAC_EPOCH if mac else WINDOWS_EPOCH
        )


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The parts of a workbook; whatever zip and XML raise for a damaged one becomes one line."""
    try:
        with path.open("rb") as file:
            content = file.read(PEEK)
            content += file.read() if content.startswith(OLE) else b""
    except OSError as error:
        raise DatasetError(f"{path}: it cannot be read ({cause(error)}); {remedy(error)}") from error
    if ENCRYPTED in content:
        raise DatasetError(f"{path}: the workbook is protected by a password; save it without one, or as CSV")
    if content.startswith(OLE):
        raise DatasetError(f"{path}: this is a workbook of the old kind (.xls); save the spreadsheet as .xlsx or CSV")
    try:
        with zipfile.ZipFile(path) as book:
            yield book
    except DAMAGE as error:
        if _is_table(content):
            raise DatasetError(
                f"{path}: this is text, not a workbook; rename it to .csv, or save it as .xlsx"
            ) from error
        why = "the spreadsheet is not readable: it is no whole .xlsx workbook"
        raise DatasetError(f"{path}: {why}; save it again, or copy it again") from error


def _is_table(start: bytes) -> bool:
    """Whether a file that begins so is a CSV under another name."""
    text = "".join(start.decode("utf-8-sig", "ignore").split())
    return text.isprintable() and text != "" and not text.startswith(("PK", "<"))


def _elements(part: IO[bytes]) -> Iterator[tuple[Any, ...]]:
    """Starts and ends of elements; empty cells and rows are cut out before they cost a parser's time."""
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(("start", "end"))
    held = b""
    while chunk := part.read(CHUNK):
        held += chunk
        cut = max(held.rfind(b"<row "), 0)
        parser.feed(EMPTY_ROW.sub(b"", EMPTY_CELL.sub(b"", held[:cut])))
        held = held[cut:]
        yield from parser.read_events()
    parser.feed(EMPTY_ROW.sub(b"", EMPTY_CELL.sub(b"", held)))
    parser.close()
    yield from parser.read_events()


def _name(element: Element) -> str:
    """A tag without its namespace: Excel has two sets of them."""
    return element.tag.rpartition("}")[2]


def _all(tree: Element | None, name: str) -> Iterator[Element]:
    return (element for element in (tree.iter() if tree is not None else ()) if _name(element) == name)


def _tree(book: zipfile.ZipFile, part: str | None) -> Element | None:
    return None if part is None else ElementTree.fromstring(book.read(part))


def _targets(book: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """What a part refers to: id -> (kind, part)."""
    folder, file = posixpath.split(part)
    found = {}
    for link in _all(_tree(book, posixpath.join(folder, "_rels", f"{file}.rels")), "Relationship"):
        target = posixpath.normpath(posixpath.join("/", folder, link.get("Target", ""))).lstrip("/")
        found[link.get("Id", "")] = (link.get("Type", "").rpartition("/")[2], target)
    return found


def _text(item: Element) -> str:
    """A text without its fonts, and without how it is pronounced."""
    spoken = {id(text) for part in _all(item, "rPh") for text in part.iter()}
    return _unescaped("".join(text.text or "" for text in _all(item, "t") if id(text) not in spoken))


def _unescaped(text: str) -> str:
    return ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), text)


def _formats(styles: Element | None) -> list[str]:
    codes = {int(part.get("numFmtId", 0)): part.get("formatCode", "") for part in _all(styles, "numFmt")}
    cells = next(_all(styles, "cellXfs"), ())
    numbers = [int(style.get("numFmtId", 0)) for style in cells]
    return [codes.get(number) or BUILTIN_FORMATS.get(number, "General") for number in numbers]


def _unmerged(lines: Sequence[Line], ranges: Sequence[str]) -> list[Line]:
    """A value of merged cells in each of them, below the header and under its headings."""
    if not lines:
        return []
    rows = {line.number: list(line.cells) for line in lines}
    header, width, last = lines[0].number, len(lines[0].cells), lines[-1].number
    for left, top, right, bottom in (range_boundaries(ref) for ref in ranges):
        if top <= header or top not in rows:
            continue
        value = dict(enumerate(rows[top])).get(left - 1, "")
        for number in range(top, min(bottom, last) + 1):
            if value and number in rows:
                cells = rows[number]
                cells += [""] * (min(right, width) - len(cells))
                cells[left - 1 : min(right, width)] = [value] * (min(right, width) - left + 1)
    return [replace(line, cells=tuple(rows[line.number])) for line in lines]
