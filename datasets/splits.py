"""Who is trained, selected and tested on: splits between patients, and nested label fractions.

All functions work on positions in a sequence of items and draw from a seed alone, so every method, fraction and worker
sees the same split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from voxbench.datasets.base import DatasetError, Item


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Positions of labelled items, no patient in two of the three."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def official_fold(items: Sequence[Item]) -> Fold:
    """The split that the items carry. Raises DatasetError if a part is empty."""
    parts = {
        part: tuple(i for i, item in enumerate(items) if item.label is not None and item.split == part)
        for part in ("train", "val", "test")
    }
    for part, members in parts.items():
        if not members:
            raise DatasetError(f"the official split has no labelled volume in {part!r}")
    return Fold(**parts)


def cross_validation(
    items: Sequence[Item], folds: int, val_share: float, seed: int, classes: Sequence[str] = ()
) -> list[Fold]:
    """`folds` splits in which every labelled patient is tested once (scikit-learn's StratifiedGroupKFold).

    The validation part, about `val_share` of what is not tested, is drawn from it by patient and stratified too; it
    has every class of which training can spare a patient, for it selects the model.
    Raises DatasetError where there are too few patients of a class, which `classes` names.
    """
    labelled = [i for i, item in enumerate(items) if item.label is not None]
    labels = np.array([_stratum(items[i]) for i in labelled])
    patients = np.array([items[i].patient for i in labelled])
    _check_patients(items, labelled, folds, classes)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    result = []
    for number, (rest, test) in enumerate(splitter.split(labels, labels, patients)):
        order = nested_order([items[labelled[i]] for i in rest], seed + 1 + number)
        ordered = [labelled[rest[i]] for i in order]
        val, train = _with_every_class(items, *cut(items, ordered, round(val_share * len(ordered))))
        result.append(
            Fold(
                train=tuple(sorted(train)),
                val=tuple(sorted(val)),
                test=tuple(sorted(labelled[i] for i in test)),
            )
        )
    return result


def _with_every_class(
    items: Sequence[Item], val: Sequence[int], train: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """A patient of each class that validation lacks goes over to it, unless training has no other of that class."""
    for label in sorted({items[i].label or 0 for i in train} - {items[i].label or 0 for i in val}):
        for patient in dict.fromkeys(items[i].patient for i in train if items[i].label == label):
            moved = [i for i in train if items[i].patient == patient]
            rest = [i for i in train if items[i].patient != patient]
            if {items[i].label for i in moved} <= {items[i].label for i in rest}:
                val, train = [*val, *moved], rest
                break
    return val, train


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


def _check_patients(items: Sequence[Item], labelled: Sequence[int], folds: int, classes: Sequence[str]) -> None:
    patients: dict[int, set[str]] = defaultdict(set)
    for i in labelled:
        patients[items[i].label or 0].add(items[i].patient)
    if not labelled:
        raise DatasetError("no volume has a label: there is nothing to fine-tune or test on")
    if len(patients) < 2:
        raise DatasetError("all labelled volumes are of one class: there is nothing to tell apart")
    fewest = min(patients, key=lambda label: len(patients[label]))
    # Each fold tests, trains and validates: a class needs a patient for each.
    if len(patients[fewest]) < max(folds, 3):
        name = repr(classes[fewest]) if classes else fewest
        raise DatasetError(
            f"{folds} folds need at least {max(folds, 3)} patients a class, and class {name} has "
            f"{len(patients[fewest])}: use fewer folds, add patients, or mend the label if it is a slip"
        )
