"""The table of a manifest, row by row."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from voxbench.datasets.base import DatasetError
from voxbench.datasets.tables.grid import Grid
from voxbench.datasets.tables.ids import first_spellings, same
from voxbench.datasets.tables.text import read_text
from voxbench.datasets.tables.words import whole_number

REQUIRED = ("path", "patient_id", "label")
COLUMNS = (*REQUIRED, "side", "split", "finding", "unit", "axes")
SIDES: dict[str, Literal["left", "right"]] = {"left": "left", "right": "right"}
SPLITS: dict[str, Literal["train", "val", "test"]] = {"train": "train", "val": "val", "test": "test"}
AXES = {"ras": "ras", "stored": "stored"}
WORDS: dict[str, Mapping[str, str]] = {"side": SIDES, "split": SPLITS, "axes": AXES}  # columns with a few words only
NAMES = ("patient_id", "label", "finding", "unit")  # what is told apart by how it is written
USUAL = {  # other names of the columns that are needed
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "volume", "scan"),
    "patient_id": ("patient", "patientid", "participant_id", "participant", "subject", "subject_id", "case", "id"),
    "label": ("class", "target", "diagnosis", "y"),
}


@dataclass(frozen=True)
class Row:
    """One row, its cells stripped."""

    number: int  # as a spreadsheet counts; the header is 1
    path: str
    patient_id: str
    label: str
    side: str = ""
    split: str = ""
    finding: str = ""
    unit: str = ""
    axes: str = ""  # "stored": axis order as in the file (mirrored crops of `bench prepare`); else RAS+ by the affine

    @property
    def volume(self) -> str:
        """The path as volumes are named."""
        return PurePath(self.path).as_posix()

    def problem(self, text: str) -> str:
        """A line about this row."""
        return f"row {self.number}, {self.path or 'no file'}: {text}"


def read_rows(path: Path) -> tuple[tuple[Row, ...], list[str]]:
    """The rows, and a problem for each that cannot be read.

    Names that look the same are written as the first of them is. Raises DatasetError with all that is wrong with the
    table as such.
    """
    grid = read_text(path, commas=True)
    if not grid.lines:
        raise DatasetError(f"{path}: empty; its first row names the columns {','.join(REQUIRED)}")
    header = [same(cell).casefold() for cell in grid.lines[0].cells]
    problems = _wrong_separator(grid) or [*_header_problems(header), *_slips(header, grid)]
    if problems:
        raise DatasetError(f"{path}: the columns cannot be used:", problems)
    if len(grid.lines) == 1:
        raise DatasetError(f"{path}: no rows below the header; add one for each volume")
    rows: list[Row] = []
    for line in grid.lines[1:]:
        if line.flaw:
            problems.append(f"row {line.number}: {line.flaw}")
            continue
        known = dict.fromkeys(REQUIRED, "")  # cells that are left out at the end are empty, as Excel means them
        known |= {key: cell.strip() for key, cell in zip(header, line.cells, strict=False) if key in COLUMNS}
        known |= {key: same(known[key]) for key in WORDS if key in known}
        rows.append(Row(number=line.number, **{**known, "label": whole_number(known["label"])}))
    return tuple(_one_spelling(rows)), problems


def _one_spelling(rows: Sequence[Row]) -> Iterator[Row]:
    """Rows in which what looks the same is the same."""
    first = {name: first_spellings(getattr(row, name) for row in rows) for name in NAMES}
    for row in rows:
        names: dict[str, Any] = {name: first[name][getattr(row, name)] for name in NAMES}
        yield replace(row, **names)


def _wrong_separator(grid: Grid) -> list[str]:
    """A line if there is one column only because something else than commas separates them."""
    first, *others = grid.lines[0].cells
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if sign in first and not others:
            return [f"they are separated by {name}; save the file with commas"]
    return []


def _header_problems(header: Sequence[str]) -> list[str]:
    """Columns that are missing, each with the one that may be meant, or there twice."""
    missing = [column for column in REQUIRED if column not in header]
    problems = [f"{column} stands twice; keep one" for column in COLUMNS if header.count(column) > 1]
    strange = [column for column in header if column not in COLUMNS]
    for column in missing:
        usual = [other for name in USUAL[column] for other in strange if other.replace(" ", "_") == name]
        near = usual or difflib.get_close_matches(column, strange, n=1, cutoff=0.8)
        problems.append(f"{column} is missing" + (f"; rename {near[0]} to it" if near else "; add it"))
    return problems


def _slips(header: Sequence[str], grid: Grid) -> Iterator[str]:
    """Columns one letter off one that is not there, with values for it; any other further column is left alone."""
    for at, column in enumerate(header):
        for known in (*WORDS, "unit"):
            if known not in header and one_letter_off(column, known) and _fits(known, at, header, grid):
                yield f"{column} is not known; rename it to {known}, or to something less alike"


def _fits(known: str, at: int, header: Sequence[str], grid: Grid) -> bool:
    """Whether the values of a column could be meant for a known one: `splt` of train and test, but not `site` of Bonn.

    Units are told by some having several rows, and each only one patient.
    """
    lines = [line.cells for line in grid.lines[1:] if len(line.cells) > at and line.cells[at].strip()]
    if known in WORDS:
        return bool(lines) and all(same(cells[at]).casefold() in WORDS[known] for cells in lines)
    if "patient_id" not in header:
        return False
    patients: dict[str, set[str]] = defaultdict(set)
    for cells in lines:
        patients[cells[at].strip()].add(cells[header.index("patient_id")].strip())
    return len(patients) < len(lines) and all(len(names) == 1 for names in patients.values())


def one_letter_off(one: str, other: str) -> bool:
    """Whether two words differ by one letter that is wrong, missing or too many, or by two that are swapped."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    swapped = len(a) > 1 and a[:2] == b[1::-1] and a[2:] == b[2:]
    return swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]
