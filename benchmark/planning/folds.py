"""Who is trained and tested on: the folds of each seed of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.keys import derive_seed
from voxbench.datasets.base import Dataset, DatasetError, Item
from voxbench.datasets.splits import Fold, cross_validation, official_fold


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Who is trained and tested on. Positions are in the dataset's items."""

    folds: Mapping[int, Mapping[int, Fold]]  # seed -> number of the fold -> fold
    closed: frozenset[int] = frozenset()  # volumes that are in nothing, not even in the unlabelled pool


def all_splits(config: Config, dataset: Dataset, items: Sequence[Item]) -> Splits:
    """Those of a run: of each of its seeds."""
    drawn = {seed: drawn_folds(config, dataset, items, seed) for seed in config.protocol.seeds}
    return Splits(
        folds={seed: {n: as_trained(config, fold) for n, fold in enumerate(folds)} for seed, folds in drawn.items()}
    )


def drawn_folds(config: Config, dataset: Dataset, items: Sequence[Item], seed: int) -> list[Fold]:
    """The splits of one seed of a run; an official split is one, the same for all seeds.

    Each seed has a split of its own: folds x seeds is repeated cross-validation (Bouckaert and Frank, PAKDD 2004), and
    its spread holds the luck of who was tested. Methods and fractions share the splits of a seed.
    """
    if dataset.has_official_split:
        return [official_fold(items, dataset.classes)]
    protocol, draw = config.protocol, derive_seed("splits", *but_zero(seed)) % 2**31
    return cross_validation(items, protocol.folds, protocol.val_share, draw, dataset.classes)


def as_trained(config: Config, fold: Fold) -> Fold:
    """Where nothing is chosen by them, validation labels are worth more in training."""
    if config.finetune.selection != "none":
        return fold
    return replace(fold, train=tuple(sorted(fold.train + fold.val)), val=())


def but_zero(seed: int) -> tuple[int, ...]:
    """What a seed adds to the key of a split or a draw.

    Seed 0 has those that all seeds once shared, so a run of one seed tests whom it always tested.
    """
    return (seed,) if seed else ()


def check_units(items: Sequence[Item]) -> None:
    """One score stands for one patient and one label. Raises DatasetError where it would not."""
    first: dict[str, Item] = {}
    problems: dict[str, str] = {}
    for item in (item for item in items if item.label is not None):
        other = first.setdefault(item.scored_unit, item)
        for what, one, two in (("patients", other.patient, item.patient), ("labels", other.label, item.label)):
            if one != two:
                problems[item.scored_unit] = (
                    f"unit {item.scored_unit}: {other.volume} and {item.volume} are of two {what}, {one} and {two}: "
                    "their scores would be averaged; give each its own unit"
                )
    if problems:
        raise DatasetError("volumes that share a unit differ:", list(problems.values()))
