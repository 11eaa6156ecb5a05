"""What every kind of table file is read into: lines of cells, and what is wrong with each."""

from __future__ import annotations

from dataclasses import dataclass, field

from voxbench.datasets.tables.words import plain

ZIP = b"PK\x03\x04"  # how an .xlsx begins
OLE = b"\xd0\xcf\x11\xe0"  # how what Office wrote before begins, and what it wraps a protected .xlsx in


@dataclass(frozen=True)
class Line:
    """A row that holds anything."""

    number: int  # as a spreadsheet program shows it
    cells: tuple[str, ...]
    flaw: str = ""  # why its cells cannot be trusted to stand under their headings

    @property
    def blank(self) -> bool:
        """Whether no cell holds anything."""
        return not any(cell.strip() for cell in self.cells)


@dataclass(frozen=True)
class Grid:
    """A table, its header first."""

    lines: tuple[Line, ...]
    uncomputed: dict[int, list[str]] = field(default_factory=dict)  # column -> cells whose formula has no value yet
    sheet: str = ""  # of a workbook
    note: str = ""  # worth knowing

    @property
    def headings(self) -> list[str]:
        """The cells of the first row, to compare."""
        return [plain(cell) for cell in self.lines[0].cells] if self.lines else []


def places(headings: list[str], known: tuple[str, ...]) -> list[int]:
    """Where the headings that may stand for a column are, best first."""
    return [at for name in known for at, heading in enumerate(headings) if heading == plain(name)]
