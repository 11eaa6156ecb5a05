"""Patients dealt to folds by construction: the way out where no random draw gives every fold every class.

First each fold gets a patient of each class, the class with the fewest to spare first; one patient may carry several
classes. Then the others go where their classes have the fewest patients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

STEPS = 20_000  # of the search; only cohorts in which many patients carry several classes need more than a few


def dealt(patients: Mapping[str, Counter[int]], folds: int, seed: int) -> dict[str, int] | None:
    """The fold of each patient, every class in every fold; None where that cannot be, or was not found.

    `patients` maps each to the labels of his volumes. Depends on their names, not on their order, and on `seed`.
    """
    names = sorted(patients)
    order = [names[i] for i in np.random.default_rng(seed % 2**63).permutation(len(names))]
    placed = _Cover({name: frozenset(patients[name]) for name in order}, folds).search()
    return None if placed is None else _filled(placed, patients, order, folds)


class _Cover:
    """A depth-first search for a few patients who together bring every class to every fold."""

    def __init__(self, carried: Mapping[str, frozenset[int]], folds: int) -> None:
        self.carried = carried  # patient -> classes, in the order in which they are tried
        self.carriers: dict[int, list[str]] = {label: [] for label in sorted(set().union(*carried.values()))}
        for name, labels in carried.items():
            for label in labels:
                self.carriers[label].append(name)
        self.free = {label: len(names) for label, names in self.carriers.items()}
        self.lacking = {label: set(range(folds)) for label in self.carriers}
        self.fold_of: dict[str, int] = {}

    def search(self) -> dict[str, int] | None:
        """Patient -> fold of those who were needed."""
        path: list[tuple[Iterator[str], int]] = []  # who may fill a gap, and its fold
        trail: list[tuple[str, frozenset[int]]] = []  # who does, and the classes that this brought to the fold
        step_on = True
        for _ in range(STEPS):
            if step_on:
                if not any(self.lacking.values()):
                    return self.fold_of
                label = min(self.carriers, key=lambda c: (not self.lacking[c], self._spare(c), c))
                fold = min(self.lacking[label])
                path.append((self._candidates(label, fold), fold))
            candidates, fold = path[-1]
            name = next(candidates, None)
            if name is not None:
                trail.append((name, self._place(name, fold)))
                step_on = all(self._spare(c) >= 0 for c in self.carried[name])
            else:
                path.pop()
                if not path:
                    return None
                step_on = False
            if not step_on:
                self._take_back(*trail.pop())
        return None

    def _spare(self, label: int) -> int:
        return self.free[label] - len(self.lacking[label])

    def _candidates(self, label: int, fold: int) -> Iterator[str]:
        """One of each kind of patient; those that bring the most and waste the least first."""
        kinds: dict[frozenset[int], str] = {}
        for name in self.carriers[label]:
            if name not in self.fold_of:
                kinds.setdefault(self.carried[name], name)

        def merit(labels: frozenset[int]) -> tuple[int, int, list[int]]:
            brings = sum(fold in self.lacking[c] for c in labels)
            return -brings, len(labels) - brings, sorted(labels)

        return iter([kinds[labels] for labels in sorted(kinds, key=merit)])

    def _place(self, name: str, fold: int) -> frozenset[int]:
        brought = frozenset(label for label in self.carried[name] if fold in self.lacking[label])
        self.fold_of[name] = fold
        for label in self.carried[name]:
            self.free[label] -= 1
            self.lacking[label].discard(fold)
        return brought

    def _take_back(self, name: str, brought: frozenset[int]) -> None:
        fold = self.fold_of.pop(name)
        for label in self.carried[name]:
            self.free[label] += 1
        for label in brought:
            self.lacking[label].add(fold)


def _filled(
    placed: Mapping[str, int], patients: Mapping[str, Counter[int]], order: Sequence[str], folds: int
) -> dict[str, int]:
    """All patients' folds: who is not placed yet goes, large ones first, where the fewest of his classes are."""
    fold_of = dict(placed)
    patients_in = [Counter[int]() for _ in range(folds)]  # a class, and of all classes under -1
    volumes_in = [0] * folds

    def add(name: str, fold: int) -> None:
        fold_of[name] = fold
        patients_in[fold].update({-1, *patients[name]})
        volumes_in[fold] += patients[name].total()

    def load(name: str, fold: int) -> tuple[int, int, int, int]:
        alike = sum(patients_in[fold][label] for label in patients[name])
        return alike, patients_in[fold][-1], volumes_in[fold], fold

    for name, fold in placed.items():
        add(name, fold)
    rest = [name for name in order if name not in placed]
    for name in sorted(rest, key=lambda name: -patients[name].total()):
        add(name, min(range(folds), key=lambda fold: load(name, fold)))
    return fold_of
