"""Carrying out one cell in which no network is trained: fit a predictor on the labels, score the test part once.

It is a method's own, or one on frozen features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.planning.volumes import BankVolumes
from voxbench.benchmark.records.costs import Meter, device_name
from voxbench.benchmark.settings.assemble import build_method, placed
from voxbench.benchmark.settings.config import OWN
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION, derive_seed
from voxbench.benchmark.training.context import Context, Progress
from voxbench.benchmark.training.evaluate import Scored, by_unit, metrics
from voxbench.benchmark.training.frozen import Fit, frozen
from voxbench.methods.base import Labelled, MethodError, Predictor

SUMS_TO_ONE = 1e-3  # as near as float32 comes


def run_predictor(context: Context, plan: CellPlan, progress: Progress) -> dict[str, Any]:
    """Fits and tests one cell; its record, as `finetune.run_cell` gives it.

    No threshold is chosen: that would take labels that the fit did not see. Raises BenchError where a class has no
    label to learn from, MethodError for scores that are no probabilities, UndefinedMetricError.
    """
    if plan.hopeless is not None:
        raise BenchError(plan.hopeless)
    # NumPy's libraries add up in another order with more threads: with one, cells are equal on any number of cores.
    with Meter(context.device) as meter, threadpool_limits(1):
        fit = _own(context, plan) if plan.evaluation == OWN else frozen(context, plan)
        spent, pool, tested = (fit.volumes(part) for part in (plan.train + plan.val, plan.pool, plan.test))
        progress(0, 2)
        labelled = _labelled(context, plan, spent, pool)
        fit.predictor.fit(labelled)
        progress(1, 2)
        test = _scored(context, plan, fit.predictor, tested)
        counts = np.bincount(labelled.labels, minlength=labelled.classes)
        shares = [float(share) for share in counts / counts.sum()]
        values = metrics(test, shares)
        progress(2, 2)
    seen = spent.seen | tested.seen | pool.seen
    return {
        "result_version": RESULT_VERSION,
        "key": plan.key,
        "status": "ok",
        "metrics": values,
        "threshold": None,
        "shares": shares,
        "test": test,
        "curve": [],
        "best_step": None,
        "falling": False,
        "finetune_seconds": meter.seconds + fit.seconds_before,
        "peak_memory_mb": meter.peak_memory_mb,
        "volumes_per_second": len(seen) / meter.seconds,
        "device": device_name(context.device),
        "seen": {
            "train": sorted(context.bank.hashes[i] for i in spent.seen & {*plan.train}),
            "val": sorted(context.bank.hashes[i] for i in spent.seen & {*plan.val}),
            "pool": pool.seen_hashes,
            "test": tested.seen_hashes,
        },
    }


def _own(context: Context, plan: CellPlan) -> Fit:
    """The method as its stages left it, if it has any."""
    method = build_method(context.config, plan.method, context.dataset.shape, plan.seed, plan.replicate)
    assert isinstance(method, Predictor)  # or the plan would not have sent it here
    for stage, key in zip(method.stages(), plan.stages, strict=True):
        stage.module.load_state_dict(context.store.load_weights(key, "module"), strict=True)
    return Fit(
        predictor=placed(method, context.device).eval(),
        volumes=lambda members: BankVolumes(context.bank, members, context.device),
    )


def _labelled(context: Context, plan: CellPlan, spent: BankVolumes, pool: BankVolumes) -> Labelled:
    items = [context.bank.items[i] for i in spent.members]
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(item.patient for item in items))}
    return Labelled(
        volumes=spent,
        labels=np.array([item.label for item in items], dtype=np.int64),
        patients=np.array([numbers[item.patient] for item in items], dtype=np.int64),
        classes=len(context.dataset.classes),
        pool=pool,
        seed=derive_seed(plan.seed, plan.fold, plan.fraction, "fit") % 2**31,
    )


def _scored(context: Context, plan: CellPlan, method: Predictor, tested: BankVolumes) -> Scored:
    scores = np.asarray(method.scores(tested), dtype=np.float64)
    flaw = _flaw(scores, len(tested), len(context.dataset.classes))
    if flaw is not None:
        raise MethodError(f"the scores of {plan.method} {flaw}: give a probability a class, [N, classes]")
    return by_unit([context.bank.items[i] for i in plan.test], scores)


def _flaw(scores: npt.NDArray[np.float64], volumes: int, classes: int) -> str | None:
    if scores.shape != (volumes, classes):
        return f"have shape {list(scores.shape)} for {volumes} volumes and {classes} classes"
    if not np.isfinite(scores).all():
        return "are not finite"
    if scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > SUMS_TO_ONE:
        return f"lie from {scores.min():g} to {scores.max():g}, or do not sum to 1 for each volume"
    return None
