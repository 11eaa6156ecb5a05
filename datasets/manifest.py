"""Your own volumes: a CSV of NIfTI files, ``path,patient_id,label[,side,split,finding,unit]``.

An empty label puts a volume into the unlabelled pool. Paths are relative to the CSV's folder. Volumes of
any 3D size, spacing and orientation are turned to RAS+ and brought to one grid. See docs/data.md.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from voxbench.datasets.base import Dataset, DatasetError, DatasetOptions, Item
from voxbench.datasets.files import is_readable
from voxbench.datasets.volumes import nifti

REQUIRED = ("path", "patient_id", "label")
COLUMNS = (*REQUIRED, "side", "split", "finding", "unit", "axes")
SIDES: dict[str, Literal["left", "right"]] = {"left": "left", "right": "right"}
SPLITS: dict[str, Literal["train", "val", "test"]] = {"train": "train", "val": "val", "test": "test"}
AXES = {"ras": "ras", "stored": "stored"}
NORMAL_WORDS = ("normal", "healthy", "control", "negative", "none", "no", "false")
READERS = 4  # threads

Percent = Annotated[float, Field(ge=0, le=100)]


class ManifestOptions(DatasetOptions):
    """`--set dataset.KEY=VALUE`."""

    size: Annotated[int, Field(ge=8, le=256)] = 64  # voxels along each side of the common grid
    fit: Literal["resize", "pad"] = "resize"  # stretch to the cube, or keep proportions and pad
    spacing: Annotated[float, Field(gt=0)] | None = None  # mm, with fit=pad; None: each volume just fits
    percentiles: tuple[Percent, Percent] = (1.0, 99.0)  # of a volume, to 0 and 1 (the seed paper's)
    classes: tuple[str, ...] = ()  # labels in order; of two the second is positive; () = rule of docs/data.md
    positive: str | None = None  # of two labels the one to be found
    normal: str | None = None  # the label for "nothing found"; None = rule of docs/data.md

    @model_validator(mode="after")
    def _consistent(self) -> ManifestOptions:
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles: give (lower, higher)")
        if self.spacing is not None and self.fit != "pad":
            raise ValueError("spacing goes with fit=pad; fit=resize stretches each volume to the cube")
        if self.classes and self.positive is not None:
            raise ValueError("give classes or positive, not both")
        return self


@dataclass(frozen=True)
class _Row:
    """One line of the CSV, its cells stripped."""

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
        return PurePath(self.path).as_posix()

    def problem(self, text: str) -> str:
        return f"row {self.number}, {self.path or 'no file'}: {text}"


class Manifest(Dataset):
    """NIfTI volumes listed in a CSV (`root`: the file, or a folder holding manifest.csv)."""

    Options: ClassVar[type[DatasetOptions]] = ManifestOptions
    name = "manifest"
    about = "your own NIfTI volumes: a CSV of path,patient_id,label[,side,split,finding,unit]"
    storage = "float16"  # a step of at most 1/2048 in [0, 1], at half the size

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in order; raises DatasetError where the order cannot be told."""
        return self._classes

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """One channel; all sides are equal."""
        return (1, self.options.size, self.options.size, self.options.size)

    @property
    def normal(self) -> int | None:
        """The class named by the option; else the first if there are two or if it has a name like
        "normal"."""
        if self.options.normal is not None:
            return self.classes.index(self.options.normal) if self.options.normal in self.classes else None
        first_is_normal = len(self.classes) == 2 or self.classes[0].casefold() in NORMAL_WORDS
        return 0 if first_is_normal else None

    @property
    def has_official_split(self) -> bool:
        """Whether the column `split` is filled in."""
        return any(row.split for row in self._rows)

    def items(self) -> Sequence[Item]:
        """The rows in order, once every file has been read and found sound; `progress` hears of each file."""
        return self._items

    def read(self, item: Item) -> npt.NDArray[np.float32]:
        """The volume on the common grid."""
        path = self._folder / item.volume
        try:
            scan = nifti.load(path, stored_axes=item.volume in self._stored)
        except nifti.NiftiError as error:
            raise DatasetError(f"{path}: {error}") from error
        o = self.options
        data = nifti.scaled(scan.data, o.percentiles)
        return nifti.to_cube(data, scan.spacing, o.size, o.fit, o.spacing)[None]

    def fingerprint(self) -> str:
        """From the rows, the bytes of each file and the options."""
        if self._parsed[1]:
            self.items()  # lists the rows that cannot be read with all other flaws
        digest = hashlib.sha256(f"manifest:1:{self.options.model_dump_json()}".encode())
        for row in self._rows:
            path = self._folder / row.path
            if not is_readable(path):
                self.items()  # lists this flaw with all others
            cells = [getattr(row, column) for column in COLUMNS if column != "path"]
            digest.update(json.dumps([row.volume, *cells]).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @property
    def _csv(self) -> Path:
        if self.root is None:
            raise DatasetError("manifest: no file given; name it, as in --dataset path/to/manifest.csv")
        path = self.root / "manifest.csv" if self.root.is_dir() else self.root
        if not path.is_file():
            raise DatasetError(f"{path}: there is no such file; give a CSV or a folder holding manifest.csv")
        return path

    @property
    def _folder(self) -> Path:
        return self._csv.parent

    @cached_property
    def _rows(self) -> tuple[_Row, ...]:
        return self._parsed[0]

    @cached_property
    def _parsed(self) -> tuple[tuple[_Row, ...], list[str]]:
        return _parse(self._csv)

    @cached_property
    def _stored(self) -> frozenset[str]:
        return frozenset(row.volume for row in self._rows if row.axes == "stored")

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        labels = sorted({row.label for row in self._rows} - {""})
        try:
            return _order(labels, self.options)
        except ValueError as error:
            raise DatasetError(f"{self._csv}: {error}") from error

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        rows, problems = self._rows, list(self._parsed[1])
        classes: tuple[str, ...] = ()
        try:
            classes = self._classes
        except DatasetError as error:
            problems.append(error.message.removeprefix(f"{self._csv}: "))
        if classes and self.options.normal is not None and self.options.normal not in classes:
            known = ", ".join(classes)
            problems.append(f"dataset.normal={self.options.normal} is none of the labels {known}")
        problems += [problem for row in rows for problem in _cell_problems(row, classes)]
        problems += _group_problems(rows)
        problems += self._file_problems()
        if problems:
            raise DatasetError(f"{self._csv}: problems found, nothing is used until they are gone:", problems)
        return tuple(_item(row, classes) for row in rows)

    def _file_problems(self) -> list[str]:
        """Every file is read once; one that stands twice, by path or by content, is a problem too."""
        rows = [row for row in self._rows if row.path]
        problems: list[str] = []
        paths: dict[str, _Row] = {}
        contents: dict[str, _Row] = {}
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda row: _examine(self._folder / row.path, row), rows)
            for done, (row, (content, flaw)) in enumerate(zip(rows, found, strict=True), start=1):
                if self.progress is not None:
                    self.progress(done, len(rows))
                place = os.path.realpath(self._folder / row.path)
                twin = paths.setdefault(place, row)
                if twin is not row:
                    problems.append(row.problem(f"the same file as in row {twin.number}; keep one of them"))
                elif flaw is not None:
                    problems.append(row.problem(flaw))
                elif (twin := contents.setdefault(content, row)) is not row:
                    same = f"the same volume as row {twin.number}, {twin.path}, under another name"
                    problems.append(row.problem(f"{same}; keep one of them"))
        return problems


def _examine(path: Path, row: _Row) -> tuple[str, str | None]:
    """The content hash of a file and what is wrong with it, if anything."""
    try:
        return nifti.load(path, stored_axes=row.axes == "stored").content(), None
    except nifti.NiftiError as error:
        return "", str(error)


# --- the CSV ---


def _parse(path: Path) -> tuple[tuple[_Row, ...], list[str]]:
    """The rows, their cells stripped, and a problem for each that cannot be read.

    Raises DatasetError with all that is wrong with the table as such.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = 'save it as "CSV UTF-8", not as Excel or Unicode text'
        raise DatasetError(f"{path}: not UTF-8 text (byte {error.start}); {remedy}") from error
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DatasetError(f"{path}: row {reader.line_num}: {error}; check the quotes") from error
    if not lines:
        raise DatasetError(f"{path}: empty; its first row names the columns {','.join(REQUIRED)}")
    header = [cell.strip().casefold() for cell in lines[0][1]]
    problems = _header_problems(header)
    if problems:
        raise DatasetError(f"{path}: the columns cannot be used:", problems)
    if len(lines) == 1:
        raise DatasetError(f"{path}: no rows below the header; add one for each volume")
    rows: list[_Row] = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            more = f"row {number}: {len(cells)} cells where the header has {len(header)}"
            problems.append(f"{more}; quote a value that holds a comma, and leave no cell out")
            continue
        known = {key: cell.strip() for key, cell in zip(header, cells, strict=True) if key in COLUMNS}
        rows.append(_Row(number=number, **{**known, "label": _label(known["label"])}))
    return tuple(rows), problems


def _header_problems(header: Sequence[str]) -> list[str]:
    missing = [column for column in REQUIRED if column not in header]
    if missing and len(header) == 1:
        for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if sign in header[0]:
                return [f"they are separated by {name}; save the file with commas"]
    problems = [f"{column} stands twice; keep one" for column in COLUMNS if header.count(column) > 1]
    strange = {column: difflib.get_close_matches(column, COLUMNS, n=1) for column in header if column not in COLUMNS}
    for column in missing:
        near = [other for other, match in strange.items() if match == [column]]
        problems.append(f"{column} is missing" + (f"; rename {near[0]} to it" if near else "; add it"))
    for column, match in strange.items():
        if match and match[0] not in missing:
            problems.append(f"{column} is not known; rename it to {match[0]}, or to something less alike")
    return problems


def _label(text: str) -> str:
    """Spreadsheets write 1 as 1.0."""
    head, dot, tail = text.partition(".")
    return head if dot and head.isdigit() and tail and not tail.strip("0") else text


def _order(labels: Sequence[str], options: Any) -> tuple[str, ...]:
    """Classes in order, by the rule of docs/data.md; raises ValueError where it does not decide."""
    if options.classes:
        if len(set(options.classes)) < max(2, len(options.classes)):
            raise ValueError(f"dataset.classes={','.join(options.classes)}: name two or more, each once")
        return tuple(options.classes)
    if len(labels) < 2:
        found = f"the only label is {labels[0]}" if labels else "no row has a label"
        raise ValueError(f"{found}; a benchmark needs labelled volumes of at least two classes")
    folded = {label.casefold(): label for label in labels}
    if len(folded) < len(labels):
        raise ValueError(f"labels {', '.join(labels)} differ in capitals only; write each in one way")
    if options.positive is not None:
        if options.positive not in labels or len(labels) != 2:
            raise ValueError(
                f"dataset.positive={options.positive}, but the labels are {', '.join(labels)}; "
                "it names one of two labels (for more, set dataset.classes)"
            )
        return (*(label for label in labels if label != options.positive), options.positive)
    if set(labels) == {str(index) for index in range(len(labels))}:
        return tuple(str(index) for index in range(len(labels)))
    normal = [folded[word] for word in NORMAL_WORDS if word in folded]
    if len(normal) == 1:
        return (*normal, *(label for label in labels if label != normal[0]))
    raise ValueError(
        f"which of the labels {', '.join(labels)} is positive? Set dataset.classes={','.join(labels)} "
        "in your order (of two, the negative one first)"
    )


def _cell_problems(row: _Row, classes: Sequence[str]) -> Iterable[str]:
    """What is wrong with one row by itself."""
    if not row.path:
        yield row.problem("the path is empty; name the file, or remove the row")
    if not row.patient_id:
        yield row.problem("patient_id is empty; volumes are split between patients, so each needs one")
    if row.label and classes and row.label not in classes:
        known = ", ".join(classes)
        yield row.problem(f"label {row.label} is none of {known}; correct it or set dataset.classes")
    for column, allowed in (("side", SIDES), ("split", SPLITS), ("axes", AXES)):
        value = getattr(row, column)
        if value and value.casefold() not in allowed:
            known = ", ".join(allowed)
            yield row.problem(f"{column} {value} is none of {known}; correct it or leave it empty")


def _group_problems(rows: Sequence[_Row]) -> Iterable[str]:
    """What is wrong between rows: official splits and units."""
    splits = {row.split.casefold() for row in rows if row.split}
    if splits and splits <= set(SPLITS):
        absent = [split for split in SPLITS if split not in splits]
        if absent:
            yield f"split: no row is of {' or '.join(absent)}; fill in all three, or leave the column empty"
        for row in rows:
            if row.label and not row.split:
                yield row.problem("has a label but no split, while other rows have one; fill it in")
    yield from _disagreements(rows, "patient", lambda row: row.patient_id, "split", lambda row: row.split.casefold())
    yield from _disagreements(rows, "unit", lambda row: row.unit, "patient", lambda row: row.patient_id)
    yield from _disagreements(rows, "unit", lambda row: row.unit, "label", lambda row: row.label)


Cell = Callable[[_Row], str]


def _disagreements(rows: Sequence[_Row], group: str, key: Cell, what: str, value: Cell) -> Iterable[str]:
    """Rows of one group must have one value (empty ones aside)."""
    first: dict[str, _Row] = {}
    reported: set[tuple[str, str]] = set()
    for row in rows:
        if not key(row) or not value(row):
            continue
        other = first.setdefault(key(row), row)
        if value(other) != value(row) and (key(row), value(row)) not in reported:
            reported.add((key(row), value(row)))
            text = f"{group} {key(row)} has {what} {value(row)} here and {value(other)} in row {other.number}"
            yield row.problem(f"{text}; one {group} belongs to one {what}")


def _item(row: _Row, classes: Sequence[str]) -> Item:
    return Item(
        volume=row.volume,
        patient=row.patient_id,
        label=classes.index(row.label) if row.label else None,
        unit=row.unit,
        side=SIDES.get(row.side.casefold()),
        finding=row.finding or None,
        split=SPLITS.get(row.split.casefold()),
    )
