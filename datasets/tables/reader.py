"""Columns by any of a few names out of CSV, TSV or XLSX, every cell as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voxbench.datasets.base import DatasetError
from voxbench.datasets.tables.grid import OLE, ZIP, Grid, places
from voxbench.datasets.tables.text import read_text
from voxbench.datasets.tables.xlsx import Workbook, read_workbook

OTHER = (".xls", ".ods", ".xlsb", ".numbers")


@dataclass(frozen=True)
class Table:
    """The rows that could be read, and what is wrong with the others."""

    rows: tuple[tuple[int, dict[str, str]], ...]  # number as a spreadsheet program shows it, cells by our column name
    problems: tuple[str, ...] = ()
    doubtful: frozenset[str] = frozenset()  # all cells of rows that could not be read: who they are about is not known
    note: str = ""


def read_table(
    path: Path,
    required: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
    *,
    one_of: Sequence[str] = (),
    sheet: str | None = None,
) -> Table:
    """A table's rows; raises DatasetError if it cannot be read as such.

    `required` and `optional` map our column names to the headings that may stand for them; of the optional ones in
    `one_of`, one must be there. `sheet` names the sheet of a workbook; without, it is the one with the columns.
    """
    grid = read_grid(path, required.values(), sheet)
    if not grid.lines:
        raise DatasetError(f"{path}: the spreadsheet is empty; its first row must name the columns")
    where = {
        name: at for name, known in {**required, **optional}.items() for at in places(grid.headings, tuple(known))[:1]
    }
    check_header(path, grid.headings, where, required, {name: optional[name] for name in one_of})
    check_formulas(path, grid, where)
    rows, problems, doubtful = [], [], set()
    for line in grid.lines[1:]:
        if line.flaw:
            problems.append(f"{path.name} row {line.number}: {line.flaw}")
            doubtful |= set(line.cells)
            continue
        row = {name: (line.cells[at].strip() if at < len(line.cells) else "") for name, at in where.items()}
        if any(row.values()):
            rows.append((line.number, {**dict.fromkeys(optional, ""), **row}))
    return Table(tuple(rows), tuple(problems), frozenset(doubtful), grid.note)


def read_grid(path: Path, required: Iterable[Sequence[str]], sheet: str | None) -> Grid:
    """The cells of a file, by what it holds rather than by its name."""
    if path.is_dir():
        raise DatasetError(f"{path}: a folder, not a spreadsheet; name the file in it")
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such spreadsheet; correct the path")
    if path.suffix.lower() in OTHER:
        raise DatasetError(f"{path}: {path.suffix} files are not read; save the spreadsheet as .xlsx or CSV")
    if path.suffix.lower() in (".xlsx", ".xlsm") or starts_with(path, (ZIP, OLE)):
        return chosen_sheet(read_workbook(path), [tuple(known) for known in required], sheet)
    if sheet is not None:
        raise DatasetError(f"--sheet {sheet}: {path.name} is text and has no sheets; leave --sheet out")
    return read_text(path)


def starts_with(path: Path, signs: tuple[bytes, ...]) -> bool:
    """Whether a file begins with any of these bytes; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(signs)
    except OSError:
        return False


def chosen_sheet(book: Workbook, required: Sequence[tuple[str, ...]], name: str | None) -> Grid:
    """The sheet that is named, or else the only one with the required columns, or else the first."""
    if not book.sheets:
        raise DatasetError(f"{book.path}: the workbook has no sheet of cells; save the table as CSV")
    if name is not None and name not in book.sheets:
        known = ", ".join(book.sheets)
        raise DatasetError(f"--sheet {name}: {book.path.name} has no such sheet; there are: {known}")
    first = next(iter(book.sheets))
    if name is not None or len(book.sheets) == 1:
        return book.grid(name or first)
    fitting = [title for title in book.sheets if all(places(book.headings(title), known) for known in required)]
    if len(fitting) > 1:
        raise DatasetError(
            f"{book.path}: several sheets have these columns ({', '.join(fitting)}); "
            "choose that of the labels with --sheet, or keep only one in the file"
        )
    grid = book.grid(fitting[0] if fitting else first)
    if not fitting or fitting[0] == first:
        return grid
    columns = " and ".join(known[0] for known in required)
    note = f"{book.path.name}: the sheet {fitting[0]} was read; the first one, {first}, has no columns {columns}"
    return replace(grid, note=note)


def check_header(
    path: Path,
    header: Sequence[str],
    where: Mapping[str, int],
    required: Mapping[str, Sequence[str]],
    one_of: Mapping[str, Sequence[str]],
) -> None:
    """Raises DatasetError for a column that is missing or there twice."""
    there = f"there are: {', '.join(heading for heading in header if heading)}"
    for name, known in required.items():
        if name not in where:
            raise DatasetError(f"{path}: no column {' or '.join(known)}; {there}")
    if one_of and not set(one_of) & set(where):
        headings = [heading for names in one_of.values() for heading in names]
        raise DatasetError(f"{path}: no column {' or '.join(headings)}; rename the one that is meant; {there}")
    for at in where.values():
        if header.count(header[at]) > 1:
            raise DatasetError(f"{path}: two columns are named {header[at]}; remove or rename one")


def check_formulas(path: Path, grid: Grid, where: Mapping[str, int]) -> None:
    """Raises DatasetError if a cell that is needed holds a formula that no program has computed yet."""
    cells = [cell for at in where.values() for cell in grid.uncomputed.get(at, ())]
    if cells:
        some = ", ".join(cells[:5]) + (", ..." if len(cells) > 5 else "")
        raise DatasetError(
            f"{path}: sheet {grid.sheet}: formulas without a stored value ({some}); open the file in a spreadsheet "
            "program and save it, or paste values"
        )
