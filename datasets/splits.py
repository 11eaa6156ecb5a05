"""Who is trained, selected and tested on: splits between patients, and nested label fractions.

All functions work on positions in a sequence of items and draw from a seed alone, so every method, fraction and worker
sees the same split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from voxbench.datasets.base import DatasetError, Item
from voxbench.datasets.dealing import dealt

PARTS = ("train", "val", "test")
DRAWS = 20  # random splits to try; all but the oddest cohorts take the first
REDRAW = 1_000_003  # between the seeds of two draws
_NO_SPLIT = "give no split, and cross-validation draws one"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Positions of labelled items, no patient in two of the three."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def official_fold(items: Sequence[Item], classes: Sequence[str] = ()) -> Fold:
    """The split that the items carry; `classes` names them.

    Raises DatasetError where a part has no labelled volume, or where training or test has none of a class: nothing
    could be learnt or scored. Validation may lack one: models are then selected without it, which the plan notes.
    """
    parts = {
        part: tuple(i for i, item in enumerate(items) if item.label is not None and item.split == part)
        for part in PARTS
    }
    empty = [repr(part) for part, members in parts.items() if not members]
    if empty:
        raise DatasetError(f"the official split has no labelled volume in {' and '.join(empty)}: {_NO_SPLIT}")
    labels = _known_labels(items, [i for members in parts.values() for i in members], classes)
    counts = {part: Counter(_label(items[i]) for i in members) for part, members in parts.items()}
    problems = []
    for label in labels:
        lacking = [part for part in parts if not counts[part][label]]
        if lacking and lacking != ["val"]:
            there = ", ".join(f"{counts[part][label]} in {part!r}" for part in parts if part not in lacking)
            where = " or ".join(map(repr, lacking))
            problems.append(
                f"the official split has no labelled volume of class {_named(label, classes)} in {where} ({there}): "
                f"move patients of it there, merge it with another class, or {_NO_SPLIT}"
            )
    _refuse("the official split cannot be used:", problems)
    return Fold(**parts)


def cross_validation(
    items: Sequence[Item], folds: int, val_share: float, seed: int, classes: Sequence[str] = ()
) -> list[Fold]:
    """`folds` splits in which every labelled patient is tested once (scikit-learn's StratifiedGroupKFold).

    The validation part, about `val_share` of what is not tested, is drawn from it by patient and stratified too; it
    has every class of which training can spare a patient, for it selects the model.
    Where the first draw leaves a training or test part without a class, others are tried, then a split constructed by
    patients.
    Raises DatasetError where there are too few patients of a class, which `classes` names.
    """
    labelled = [i for i, item in enumerate(items) if item.label is not None]
    labels = _known_labels(items, labelled, classes)
    _check_patients(items, labelled, labels, folds, classes)
    best: list[Fold] = []
    gaps: list[_Gap] = []
    for attempt, tests in enumerate(_drawn_tests(items, labelled, folds, seed)):
        drawn = [_fold(items, labelled, test, val_share, seed + 1 + number) for number, test in enumerate(tests)]
        found = _gaps(items, drawn, labels)
        if not best or _badness(found) < _badness(gaps):
            best, gaps = drawn, found
        # The first draw is kept where all can be learnt and scored, so that results of before still stand.
        if not gaps or (attempt == 0 and not any(gap.fatal for gap in gaps)):
            break
    _check_gaps(items, labelled, gaps, folds, classes)
    return best


def without_test(items: Sequence[Item], fold: Fold, val_share: float, seed: int) -> Fold:
    """The fold as a search for settings may see it: its validation part is what is tested, and its test part in none.

    A new validation part is drawn from its training part, as `cross_validation` draws one.
    """
    return _fold(items, [*fold.train, *fold.val], frozenset(fold.val), val_share, seed)


def _drawn_tests(
    items: Sequence[Item], labelled: Sequence[int], folds: int, seed: int
) -> Iterator[list[frozenset[int]]]:
    """Test parts of all folds, in the order in which they are preferred.

    The draws balance volumes; where patients differ much in size, that can leave a fold without a class.
    """
    labels = np.array([_stratum(items[i]) for i in labelled])
    patients = np.array([items[i].patient for i in labelled])
    for attempt in range(DRAWS):
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=(seed + attempt * REDRAW) % 2**32)
        yield [frozenset(labelled[i] for i in test) for _, test in splitter.split(labels, labels, patients)]
    carried: dict[str, Counter[int]] = defaultdict(Counter)
    for i in labelled:
        carried[items[i].patient][_label(items[i])] += 1
    fold_of = dealt(carried, folds, seed)
    if fold_of is not None:
        yield [frozenset(i for i in labelled if fold_of[items[i].patient] == number) for number in range(folds)]


def _fold(items: Sequence[Item], labelled: Sequence[int], test: Set[int], val_share: float, seed: int) -> Fold:
    rest = [i for i in labelled if i not in test]
    ordered = [rest[i] for i in nested_order([items[i] for i in rest], seed)]
    val, train = _with_every_class(items, *cut(items, ordered, round(val_share * len(ordered))))
    return Fold(train=tuple(sorted(train)), val=tuple(sorted(val)), test=tuple(sorted(test)))


def _with_every_class(
    items: Sequence[Item], val: Sequence[int], train: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """A patient of each class that training lacks goes over to it, and one of each that validation lacks to that,
    unless training has no other of that class."""
    for label in sorted({_label(items[i]) for i in val} - {_label(items[i]) for i in train}):
        if label not in {_label(items[i]) for i in train}:  # an earlier one may have brought it along
            moved, rest = next(_parted(items, val, label))
            train, val = [*train, *moved], rest
    for label in sorted({_label(items[i]) for i in train} - {_label(items[i]) for i in val}):
        for moved, rest in _parted(items, train, label):
            if {items[i].label for i in moved} <= {items[i].label for i in rest}:
                val, train = [*val, *moved], rest
                break
    return val, train


def _parted(items: Sequence[Item], members: Sequence[int], label: int) -> Iterator[tuple[list[int], list[int]]]:
    """For each patient who carries `label`: his volumes among `members`, and all others."""
    for patient in dict.fromkeys(items[i].patient for i in members if items[i].label == label):
        whole = [i for i in members if items[i].patient == patient]
        yield whole, [i for i in members if items[i].patient != patient]


def nested_order(items: Sequence[Item], seed: int) -> list[int]:
    """Positions, patient by patient, such that every prefix has about the classes of the whole.

    Patients are shuffled within strata (the multiset of their labels) and each gets the quantile of its
    place in its stratum; sorting by quantile interleaves the strata (systematic sampling). Prefixes are nested by
    construction, so the 10 % are inside the 50 %.
    """
    rng = np.random.default_rng(seed % 2**63)
    members: dict[str, list[int]] = defaultdict(list)
    for position, item in enumerate(items):
        members[item.patient].append(position)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient in sorted(members):
        strata[tuple(sorted(str(items[i].label) for i in members[patient]))].append(patient)
    ranked: list[tuple[float, str]] = []
    for stratum in sorted(strata):
        patients = [strata[stratum][i] for i in rng.permutation(len(strata[stratum]))]
        offset = rng.uniform()
        ranked += [((rank + offset) / len(patients), patient) for rank, patient in enumerate(patients)]
    return [position for _, patient in sorted(ranked) for position in members[patient]]


def cut(items: Sequence[Item], ordered: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """The first `count` of `ordered` and the rest, the border moved to the nearest end of a patient (never to zero)."""
    borders = [i for i in range(1, len(ordered)) if items[ordered[i]].patient != items[ordered[i - 1]].patient]
    borders.append(len(ordered))
    border = min(borders, key=lambda b: (abs(b - count), b))
    return list(ordered[:border]), list(ordered[border:])


def fraction_of(items: Sequence[Item], members: Sequence[int], fraction: float, seed: int, least: int = 0) -> list[int]:
    """A nested share of `members`: whole patients, stratified; the same draw for every method.

    `least` asks for at least so many scored units of each class (or all that there are), however small the fraction.
    A fraction that means no fewer patients than there are classes has at least one of each in any case.
    """
    order = [members[i] for i in nested_order([items[i] for i in members], seed)]
    chosen = order if fraction >= 1 else cut(items, order, max(1, round(fraction * len(order))))[0]
    whole: dict[str, list[int]] = defaultdict(list)
    for i in members:
        whole[items[i].patient].append(i)
    taken: set[str] = set()
    units: dict[int | None, set[str]] = {items[i].label: set() for i in members}

    def take(patient: str) -> None:
        taken.add(patient)
        for i in whole[patient]:
            units[items[i].label].add(items[i].scored_unit)

    for i in chosen:
        take(items[i].patient)
    if max(len(taken), round(fraction * len(whole))) >= len(units):  # the latter: one patient may be all the volumes
        least = max(least, 1)
    for label in sorted(units, key=str):
        for i in order:
            if len(units[label]) >= least:
                break
            if items[i].label == label:
                take(items[i].patient)
    return sorted(i for i in members if items[i].patient in taken)


def _stratum(item: Item) -> str:
    # The label alone: finer strata (findings) leave too few patients in each for many folds.
    return str(item.label)


def _label(item: Item) -> int:
    """Of a labelled item."""
    assert item.label is not None
    return item.label


def _named(label: int, classes: Sequence[str]) -> str:
    return repr(classes[label]) if classes else str(label)


# --- what cannot be split ---


@dataclass(frozen=True)
class _Gap:
    """A class that a part of a fold lacks."""

    part: str
    fold: int
    label: int
    fatal: bool  # nothing can be learnt or scored; validation may lack a class, if not all


def _gaps(items: Sequence[Item], folds: Sequence[Fold], labels: Sequence[int]) -> list[_Gap]:
    found = []
    for number, fold in enumerate(folds):
        for part, members in (("test", fold.test), ("training", fold.train), ("validation", fold.val)):
            present = {items[i].label for i in members}
            fatal = part != "validation" or not members
            found += [_Gap(part, number, label, fatal) for label in labels if label not in present]
    return found


def _badness(gaps: Sequence[_Gap]) -> tuple[int, int]:
    return sum(gap.fatal for gap in gaps), len(gaps)


def _known_labels(items: Sequence[Item], labelled: Sequence[int], classes: Sequence[str]) -> list[int]:
    """All labels that a part should have. Raises DatasetError where they do not fit the classes."""
    present = {_label(items[i]) for i in labelled}
    if not labelled:
        raise DatasetError("no volume has a label: there is nothing to fine-tune or test on")
    if len(present) < 2:
        raise DatasetError("all labelled volumes are of one class: there is nothing to tell apart")
    if not classes:
        return sorted(present)
    known = range(len(classes))
    _refuse(
        "labels that no class has:",
        [
            f"{items[i].volume}: label {items[i].label}, and the {len(classes)} classes are numbered from 0: mend it"
            for i in labelled
            if items[i].label not in known
        ],
    )
    _refuse(
        "classes that no volume has:",
        [
            f"class {classes[label]!r} has no labelled volume: leave it out (dataset.classes), or add volumes of it"
            for label in known
            if label not in present
        ],
    )
    return list(known)


def _check_patients(
    items: Sequence[Item], labelled: Sequence[int], labels: Sequence[int], folds: int, classes: Sequence[str]
) -> None:
    # Each fold tests, trains and validates: a class needs a patient for each.
    need = max(folds, 3)
    patients = _carriers(items, labelled)
    few = [f"class {_named(label, classes)} has {patients[label]}" for label in labels if patients[label] < need]
    if few:
        raise DatasetError(
            f"{folds} folds need at least {need} patients a class (never fewer than 3), and {', '.join(few)}: "
            "use fewer folds, add patients, or mend the label if it is a slip; or merge it with another class"
        )


def _check_gaps(
    items: Sequence[Item], labelled: Sequence[int], gaps: Sequence[_Gap], folds: int, classes: Sequence[str]
) -> None:
    """Raises DatasetError where even the best split cannot be used."""
    fatal = {gap.label: gap for gap in reversed(gaps) if gap.fatal}  # the first of each class
    patients = _carriers(items, labelled)
    remedy = "use fewer folds, merge classes, or add patients" if folds > 2 else "merge classes, or add patients"
    _refuse(
        f"no split into {folds} folds has every class in every part:",
        [
            f"{patients[label]} patients of class {_named(label, classes)} are too few for {folds} folds where some "
            f"carry several classes (none is left for the {gap.part} part of fold {gap.fold}): {remedy}"
            for label, gap in sorted(fatal.items())
        ],
    )


def _carriers(items: Sequence[Item], labelled: Sequence[int]) -> Counter[int]:
    """How many patients have a volume of each class."""
    return Counter(label for label, _ in {(_label(items[i]), items[i].patient) for i in labelled})


def _refuse(message: str, problems: Sequence[str]) -> None:
    """Raises DatasetError if there is a problem; one alone needs no heading."""
    if len(problems) == 1:
        raise DatasetError(problems[0])
    if problems:
        raise DatasetError(message, problems)
