"""What a plan can show: the smallest difference in AUPRC that its report could call separable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from voxbench.benchmark.planning.plan import Plan
from voxbench.datasets.base import Item
from voxbench.reports.stats.power import POWER, SEPARATION, TRAINING, Planned, planned_difference


def foreseen(plan: Plan, items: Sequence[Item], n_classes: int) -> str | None:
    """A line for `bench run --dry-run`; None where no two methods are compared."""
    pairs = _n_pairs(plan)
    if not pairs:
        return None
    test_parts = {(cell.fold, cell.seed): cell.test for cell in plan.cells.values()}
    if len(test_parts) < 2:
        return "one fold and one seed: nothing can be called separable; use more folds (--folds) or seeds (--seeds)"
    planned = _planned(items, list(test_parts.values()), n_classes, _ratio(plan, items), pairs)
    least = planned_difference(planned)
    figure = f"about {least:.2f}" if least < 1 else "more than there is"
    return (
        f"a difference in AUPRC between two methods is called separable with {POWER:.0%} power from {figure} on "
        f"({len(test_parts)} test parts, {pairs} pairs; supposing that methods separate the classes by {SEPARATION:g} "
        f"standard deviations, and that another training moves a fold by {TRAINING:g})"
    )


def _n_pairs(plan: Plan) -> int:
    """As the report's family has them: methods with one another, and each with the best yardstick."""
    roles = {cell.method: cell.role for cell in plan.cells.values()}
    methods = sum(role != "yardstick" for role in roles.values())
    measured = methods if "yardstick" in roles.values() else 0
    each = math.comb(methods, 2) + measured if methods else math.comb(len(roles), 2)
    return each * len({cell.fraction for cell in plan.cells.values()})


def _ratio(plan: Plan, items: Sequence[Item]) -> float:
    """n_test / n_train, of an official split in volumes."""
    folds, cell = len({cell.fold for cell in plan.cells.values()}), next(iter(plan.cells.values()))
    others = sum(item.label is not None and item.split in ("train", "val") for item in items)
    return 1 / (folds - 1) if folds > 1 else len(cell.test) / max(1, others)


def _planned(
    items: Sequence[Item], parts: Sequence[tuple[int, ...]], n_classes: int, ratio: float, pairs: int
) -> Planned:
    """Of scored units: crops of one count once."""
    first = {items[i].scored_unit: items[i] for part in parts for i in part}
    place = {unit: number for number, unit in enumerate(first)}
    _, patients = np.unique([item.patient for item in first.values()], return_inverse=True)
    return Planned(
        labels=np.array([item.label for item in first.values()], dtype=np.int64),
        patients=patients.astype(np.int64),
        n_classes=n_classes,
        parts=[np.unique([place[items[i].scored_unit] for i in part]) for part in parts],
        test_per_train=ratio,
        n_pairs=pairs,
    )
