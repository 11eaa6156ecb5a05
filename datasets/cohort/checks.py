"""What is wrong with the rows of a manifest, each by itself and held against the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from voxbench.datasets.cohort.rows import SPLITS, WORDS, Row
from voxbench.datasets.tables.ids import AS_TEXT, difference, look_alikes, rounded, same
from voxbench.datasets.tables.words import names_nobody, stands_for_nothing

Cell = Callable[[Row], str]


def row_problems(rows: Sequence[Row], classes: Sequence[str], missing: Collection[str]) -> Iterator[str]:
    """All that can be told without opening a file; `missing` are labels that stand for a missing value."""
    for row in rows:
        yield from _cells(row, classes, missing)
    named = [_without_nobody(row) for row in rows]
    yield from _splits(named)
    yield from _disagreements(named, "unit", lambda row: row.unit, "patient", lambda row: row.patient_id)
    yield from _disagreements(named, "unit", lambda row: row.unit, "label", lambda row: row.label)
    yield from _spellings(named)


def _without_nobody(row: Row) -> Row:
    """A row without words for "not known" where patients and units stand: they group nothing."""
    return replace(
        row,
        patient_id="" if names_nobody(row.patient_id) else row.patient_id,
        unit="" if names_nobody(row.unit) else row.unit,
    )


def _cells(row: Row, classes: Sequence[str], missing: Collection[str]) -> Iterator[str]:
    """What is wrong with one row by itself."""
    if not row.path:
        yield row.problem("the path is empty; name the file, or remove the row")
    if not row.patient_id:
        yield row.problem("patient_id is empty; volumes are split between patients, so each needs one")
    elif names_nobody(row.patient_id):
        yield row.problem(f"patient_id {row.patient_id} names nobody; fill it in: volumes are split between patients")
    elif rounded(row.patient_id):
        yield row.problem(f"patient_id {row.patient_id} {AS_TEXT}")
    if row.label in missing:
        remedy = "leave the cell empty (unlabelled), or name it in dataset.classes if it is a class"
        yield row.problem(f"label {row.label} stands for a missing value; {remedy}")
    elif row.label and classes and row.label not in classes:
        known = ", ".join(classes)
        yield row.problem(f"label {row.label} is none of {known}; correct it or set dataset.classes")
    for column, allowed in WORDS.items():
        value = getattr(row, column)
        if value and value.casefold() not in allowed:
            known = ", ".join(allowed)
            yield row.problem(f"{column} {value} is none of {known}; correct it or leave it empty")
    for column, says_nothing in (("finding", stands_for_nothing), ("unit", names_nobody)):
        value = getattr(row, column)
        if says_nothing(value):
            yield row.problem(f"{column} {value} stands for a missing value; leave the cell empty")


def _splits(rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with an official split."""
    splits = {row.split.casefold() for row in rows if row.split}
    if splits and splits <= set(SPLITS):
        absent = [split for split in SPLITS if split not in splits]
        if absent:
            yield f"split: no row is of {' or '.join(absent)}; fill in all three, or leave the column empty"
        for row in rows:
            if row.label and not row.split:
                yield row.problem("has a label but no split, while other rows have one; fill it in")
    yield from _disagreements(rows, "patient", lambda row: row.patient_id, "split", lambda row: row.split.casefold())


def _disagreements(rows: Sequence[Row], group: str, key: Cell, what: str, value: Cell) -> Iterator[str]:
    """Rows of one group must have one value (empty ones aside)."""
    first: dict[str, Row] = {}
    reported: set[tuple[str, str]] = set()
    for row in rows:
        if not key(row) or not value(row):
            continue
        other = first.setdefault(key(row), row)
        if value(other) != value(row) and (key(row), value(row)) not in reported:
            reported.add((key(row), value(row)))
            text = f"{group} {key(row)} has {what} {value(row)} here and {value(other)} in row {other.number}"
            yield row.problem(f"{text}; one {group} belongs to one {what}")


def _spellings(rows: Sequence[Row]) -> Iterator[str]:
    """Patients who may be one person, and units of one patient that may be one unit."""
    people: dict[str, Row] = {}
    units: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        people.setdefault(row.patient_id, row)
        units[row.patient_id].setdefault(row.unit, row)
    yield from _pairs("patient", "person", people)
    for patient in filter(None, units):
        yield from _pairs("unit", "unit of a patient", units[patient])


def _pairs(group: str, what: str, first: dict[str, Row]) -> Iterator[str]:
    """A line for each two names that look like one; `first` has the first row of each."""
    by_look = {same(name): row for name, row in first.items() if name}
    for one, other in look_alikes(by_look):
        how = f"they differ by {difference(one, other)} only"
        remedy = "write it in one way; if they are two, rename one so that more than that differs"
        place = f"{one} in row {by_look[one].number}"
        yield by_look[other].problem(f"{group} {other} and {place} look like one {what}, {how}; {remedy}")
