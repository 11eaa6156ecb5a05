"""Splits for a search of settings: each fold is judged on its validation part, and who is tested is in nothing."""

from __future__ import annotations

from collections.abc import Sequence

from voxbench.benchmark.planning.folds import Splits, as_trained, drawn_folds
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import derive_seed
from voxbench.datasets.base import Dataset, Item
from voxbench.datasets.splits import Fold, without_test


def searched_splits(config: Config, dataset: Dataset, items: Sequence[Item], numbers: Sequence[int]) -> Splits:
    """The splits of these folds of all seeds of `config`, as a search may see them.

    Closed are all volumes of every patient who is tested in one of them, the unlabelled ones too. Raises BenchError
    where there is no such fold, or a part is left without a class.
    """
    drawn = {seed: drawn_folds(config, dataset, items, seed) for seed in config.protocol.seeds}
    there = len(next(iter(drawn.values())))
    unknown = [number for number in numbers if not 0 <= number < there]
    if unknown:
        raise BenchError(f"--on-folds {unknown[0]}: there are {there} folds, counted from 0")
    tested = {items[i].patient for folds in drawn.values() for number in numbers for i in folds[number].test}
    if dataset.has_official_split:  # also who has no labelled volume in the test part
        tested |= {item.patient for item in items if item.split == "test"}
    closed = frozenset(i for i, item in enumerate(items) if item.patient in tested)
    searched: dict[int, dict[int, Fold]] = {}
    for seed, folds in drawn.items():
        for number in numbers:
            part = _open(folds[number], closed)
            _check(part, dataset, items, number)
            draw = derive_seed("searched", seed, number) % 2**31
            fold = without_test(items, part, config.protocol.val_share, draw)
            searched.setdefault(seed, {})[number] = as_trained(config, fold)
    return Splits(folds=searched, closed=closed)


def _open(fold: Fold, closed: frozenset[int]) -> Fold:
    train, val = (tuple(i for i in part if i not in closed) for part in (fold.train, fold.val))
    return Fold(train=train, val=val, test=())


def _check(fold: Fold, dataset: Dataset, items: Sequence[Item], number: int) -> None:
    """Raises BenchError where a part has no volume of a class: nothing could be learnt or judged."""
    for what, part in (("training", fold.train), ("validation", fold.val)):
        present = {items[i].label for i in part}
        lacking = [name for label, name in enumerate(dataset.classes) if label not in present]
        if lacking:
            raise BenchError(
                f"the {what} part of fold {number} has no volume of class {lacking[0]!r} once the tested patients of "
                "all folds that are searched on are left out: search on fewer folds or seeds, or give a larger "
                "protocol.val_share"
            )
