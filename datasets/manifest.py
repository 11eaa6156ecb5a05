"""Your own volumes: a CSV of NIfTI files, ``path,patient_id,label[,side,split,finding,unit]``.

An empty label puts a volume into the unlabelled pool. Paths are relative to the CSV's folder. Volumes of
any 3D size, spacing and orientation are turned to RAS+ and brought to one grid. See docs/data.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from voxbench.datasets.base import Dataset, DatasetError, DatasetOptions, Item
from voxbench.datasets.cohort.checks import row_problems
from voxbench.datasets.cohort.classes import NORMAL_WORDS, as_written, class_order, no_labels
from voxbench.datasets.cohort.rows import COLUMNS, SIDES, SPLITS, Row, read_rows
from voxbench.datasets.volumes import nifti
from voxbench.datasets.volumes.mistaken import mistaken
from voxbench.datasets.volumes.names import as_stored
from voxbench.datasets.volumes.reading import NiftiError, unit_of_file

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
            named = as_written(self.options.normal, self.classes)
            return self.classes.index(named) if named in self.classes else None
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
        path = as_stored(self._folder / item.volume)
        try:
            scan = nifti.load(path, stored_axes=item.volume in self._stored)
        except NiftiError as error:
            raise DatasetError(f"{path}: {error}") from error
        o = self.options
        data = nifti.scaled(scan.data, o.percentiles)
        return nifti.to_cube(data, scan.spacing, o.size, o.fit, o.spacing)[None]

    def fingerprint(self) -> str:
        """From the rows, the bytes of each file and the options."""
        if self._table_problems:
            self.items()  # lists them with all other flaws; a bank of before they were looked for is not used
        digest = hashlib.sha256(f"manifest:1:{self.options.model_dump_json()}".encode())
        for row in self._rows:
            path = as_stored(self._folder / row.path)
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
            except (OSError, ValueError):  # ValueError: a NUL in the name
                self.items()  # lists this flaw with all others
                raise
            cells = [getattr(row, column) for column in COLUMNS if column != "path"]
            digest.update(json.dumps([row.volume, *cells]).encode())
            digest.update(content)
            if self.options.spacing is not None and (mm := unit_of_file(path)) != 1:
                digest.update(f"units:{mm}".encode())  # which were once taken for mm
        return digest.hexdigest()

    @property
    def _csv(self) -> Path:
        if self.root is None:
            raise DatasetError("manifest: no file given; name it, as in --dataset path/to/manifest.csv")
        wrong = mistaken(self.root)
        if wrong is not None:
            raise DatasetError(f"{self.root}: {wrong}")
        path = self.root / "manifest.csv" if self.root.is_dir() else self.root
        if not path.is_file():
            raise DatasetError(f"{path}: there is no such file; give a CSV or a folder holding manifest.csv")
        return path

    @property
    def _folder(self) -> Path:
        return self._csv.parent

    @cached_property
    def _rows(self) -> tuple[Row, ...]:
        return self._parsed[0]

    @cached_property
    def _parsed(self) -> tuple[tuple[Row, ...], list[str]]:
        return read_rows(self._csv)

    @cached_property
    def _stored(self) -> frozenset[str]:
        return frozenset(row.volume for row in self._rows if row.axes == "stored")

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        labels = sorted({row.label for row in self._rows} - {""} - self._no_labels)
        try:
            return class_order(labels, self.options)
        except ValueError as error:
            raise DatasetError(f"{self._csv}: {error}") from error

    @cached_property
    def _no_labels(self) -> frozenset[str]:
        return no_labels({row.label for row in self._rows} - {""}, self.options)

    @cached_property
    def _table_problems(self) -> list[str]:
        """All that is wrong with the table itself."""
        problems = list(self._parsed[1])
        classes: tuple[str, ...] = ()
        try:
            classes = self._classes
        except DatasetError as error:
            problems.append(error.message.removeprefix(f"{self._csv}: "))
        normal = self.options.normal
        if classes and normal is not None and as_written(normal, classes) not in classes:
            problems.append(f"dataset.normal={normal} is none of the labels {', '.join(classes)}")
        return [*problems, *row_problems(self._rows, classes, self._no_labels)]

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        problems = [*self._table_problems, *self._file_problems()]
        if problems:
            raise DatasetError(f"{self._csv}: problems found, nothing is used until they are gone:", problems)
        return tuple(_item(row, self._classes) for row in self._rows)

    def _file_problems(self) -> list[str]:
        """Every file is read once; one that stands twice, by path or by content, is a problem too."""
        rows = [row for row in self._rows if row.path]
        problems: list[str] = []
        paths: dict[str, Row] = {}
        contents: dict[str, Row] = {}
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._examine, rows)
            for done, (row, (content, flaw)) in enumerate(zip(rows, found, strict=True), start=1):
                if self.progress is not None:
                    self.progress(done, len(rows))
                place = os.path.realpath(as_stored(self._folder / row.path))
                twin = paths.setdefault(place, row)
                if twin is not row:
                    problems.append(row.problem(f"the same file as in row {twin.number}; keep one of them"))
                elif flaw is not None:
                    problems.append(row.problem(flaw))
                elif (twin := contents.setdefault(content, row)) is not row:
                    same = f"the same volume as row {twin.number}, {twin.path}, under another name"
                    problems.append(row.problem(f"{same}; keep one of them"))
        return problems

    def _examine(self, row: Row) -> tuple[str, str | None]:
        """The content hash of a file and what is wrong with it, if anything."""
        o = self.options
        try:
            scan = nifti.load(as_stored(self._folder / row.path), stored_axes=row.axes == "stored")
        except NiftiError as error:
            return "", str(error)
        return scan.content(), nifti.lost(scan, o.percentiles, o.size, o.fit, o.spacing)


def _item(row: Row, classes: Sequence[str]) -> Item:
    return Item(
        volume=row.volume,
        patient=row.patient_id,
        label=classes.index(row.label) if row.label else None,
        unit=row.unit,
        side=SIDES.get(row.side.casefold()),
        finding=row.finding or None,
        split=SPLITS.get(row.split.casefold()),
    )
