"""Doing one planned job: claim it, carry it out, and leave a complete record, also of a failure."""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from voxbench.benchmark.planning.plan import CellPlan, StagePlan
from voxbench.benchmark.records.privacy import coder_for
from voxbench.benchmark.running.followers import FollowerDiedError
from voxbench.benchmark.settings.errors import USER_ERRORS, unexpected
from voxbench.benchmark.settings.keys import RESULT_VERSION, digest
from voxbench.benchmark.training.context import Context, Progress
from voxbench.benchmark.training.evaluate import Scored, UndefinedMetricError
from voxbench.benchmark.training.finetune import run_cell
from voxbench.benchmark.training.predictor import run_predictor
from voxbench.benchmark.training.pretrain import run_stage
from voxbench.benchmark.training.train import NonFiniteLossError

Job = StagePlan | CellPlan
Outcome = Literal["ok", "failed", "busy", "again"]


class StageFailedError(RuntimeError):
    """What a job builds on has failed."""


EXPECTED = (*USER_ERRORS, UndefinedMetricError, NonFiniteLossError, StageFailedError, FollowerDiedError)
_FALTERING = frozenset(  # a machine or a network drive that may recover
    {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EAGAIN}
)


def perform(context: Context, job: Job, provenance: Mapping[str, Any], progress: Progress) -> Outcome:
    """Carries out `job` unless it is done; "busy" where another process has claimed it.

    "again" for a failure, recorded as every other, whose cause may pass.
    """
    claim = context.store.claim(job.key)
    if claim is None:
        return "busy"
    with claim:
        if (recorded(context, job) or {}).get("status") == "ok":
            return "ok"
        passing = False
        try:
            record = _within_memory(context, job, progress)
        except Exception as error:  # a failed job is a result: the rest of the grid goes on
            record = failure(job, error)
            passing = may_pass(error)
        if passing:
            _free_memory()
        record["provenance"] = dict(provenance)
        try:
            save(context, job, record)
        except ValueError as error:  # NaN is not JSON: the job's figures are worthless, and it must be said
            record = {**failure(job, error), "provenance": dict(provenance)}
            save(context, job, record)
    if record["status"] == "ok":
        return "ok"
    return "again" if passing else "failed"


def may_pass(error: Exception) -> bool:
    """Whether the same job may succeed when it is tried again: others took the memory, or a drive faltered.

    Not so for a bad setting or a bug: seeds are fixed, and the same job fails in the same way.
    """
    if isinstance(error, OSError):
        return error.errno in _FALTERING
    return isinstance(error, FollowerDiedError) or out_of_memory(error)


def out_of_memory(error: Exception) -> bool:
    """Whether a device or this machine had no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def recorded(context: Context, job: Job) -> dict[str, Any] | None:
    """What the store has of `job`."""
    if isinstance(job, StagePlan):
        return context.store.stage(job.key)
    return context.store.cell(job.method, job.key)


def save(context: Context, job: Job, record: Mapping[str, Any]) -> None:
    """Writes the record of `job`."""
    if isinstance(job, StagePlan):
        context.store.write_stage(job.key, record)
    else:
        names, labels = cell_names(context, job), label_counts(context, job)
        sources = {
            "source": job.source,
            "start": job.start,
            "encoder_digest": digest(context.config.encoder_of(job.method).identity("encoders")),
        }
        record = {**record, "cell": names, "labels": labels, "stages": list(job.stages), **sources}
        context.store.write_cell(job.method, job.key, record)
    if record["status"] == "ok":
        context.store.drop_checkpoint(job.key)


def fail(context: Context, job: Job, error: BaseException, provenance: Mapping[str, Any]) -> None:
    """Records that a job failed which was not carried out, or whose process is gone."""
    save(context, job, {**failure(job, error), "provenance": dict(provenance)})


def failure(job: Job, error: BaseException) -> dict[str, Any]:
    """The record of a failed job: one line for the table and the whole traceback."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    stage = {"method": job.method, "stage": job.name, "seed": job.seed} if isinstance(job, StagePlan) else {}
    return {
        "result_version": RESULT_VERSION,
        "key": job.key,
        "status": "failed",
        **stage,
        "error": line if isinstance(error, EXPECTED) else unexpected(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def cell_names(context: Context, plan: CellPlan) -> dict[str, Any]:
    """What the cell is, for its record and its row."""
    config = context.config
    return {
        "dataset": config.dataset.name,
        "method": plan.method,
        "encoder": config.encoder_of(plan.method).name,
        "protocol": config.protocol.name,
        "fraction": plan.fraction,
        "fold": plan.fold,
        "seed": plan.seed,
        "role": plan.role,
        "evaluation": plan.evaluation,
    }


def label_counts(context: Context, plan: CellPlan) -> dict[str, int]:
    """Labels that the cell spent: crops of one unit share one label."""

    def labels(*members: int) -> int:
        return len({context.bank.items[i].scored_unit for i in members})

    return {
        "n_train": labels(*plan.train),
        "n_val": labels(*plan.val),
        "n_normal": labels(*plan.normals),
        "n_spent": labels(*plan.train, *plan.val, *plan.normals),
    }


def _within_memory(context: Context, job: Job, progress: Progress) -> dict[str, Any]:
    """The job's record; one that trains and does not fit in memory is taken up again, and then computes its maps twice.

    It goes on from its last checkpoint, or begins: a step that failed half-way has left traces in what it trains. Jobs
    of the same kind begin so from then on.
    """
    if context.recompute != "auto" or not (isinstance(job, StagePlan) or job.trained):
        return _carry_out(context, job, progress)
    kind = _kind(context, job)
    if kind not in context.large:
        try:
            return _carry_out(context, job, progress)
        except Exception as error:
            if not out_of_memory(error):
                raise
        context.large.add(kind)
        _free_memory()  # the error is gone, and with it the frames that held the step
    return _carry_out(replace(context, recompute="always"), job, progress)


def _kind(context: Context, job: Job) -> str:
    """The same for jobs whose steps take the same memory."""
    if isinstance(job, StagePlan):
        return f"{job.method}, stage {job.name}"
    batch = context.config.finetune_recipe(job.method).batch
    return f"fine-tuning of {context.config.encoder_of(job.method).name}, {batch} volumes"


def _carry_out(context: Context, job: Job, progress: Progress) -> dict[str, Any]:
    if isinstance(job, StagePlan):
        return run_stage(context, job, progress)
    record = (run_cell if job.trained else run_predictor)(context, job, progress)
    test: Scored = record.pop("test")
    stages = [context.store.stage(key) or {} for key in job.stages]
    record["scores"] = _scores(context, test)
    record["costs"] = {
        "pretrain_seconds": sum(stage["seconds"] * stage.get("processes", 1) for stage in stages),  # of devices
        "pretrain_volumes": sum(stage.get("volumes", 0.0) for stage in stages),
        "pretrain_forward": sum(stage.get("volumes_forward", 0.0) for stage in stages),
        "finetune_seconds": record.pop("finetune_seconds"),
        "peak_memory_mb": max([record.pop("peak_memory_mb"), *(stage["peak_memory_mb"] for stage in stages)]),
        "volumes_per_second": record.pop("volumes_per_second"),
    }
    record["recomputed"] = record.get("recomputed", False) or any(stage.get("recomputed") for stage in stages)
    record["collapsed"] = any(stage["collapsed"] for stage in stages)
    return record


def _scores(context: Context, test: Scored) -> list[dict[str, Any]]:
    coder = coder_for(context.dataset, context.store.root)
    return [
        {
            "volume": coder.unit(item),
            "patient": coder.patient(item),
            "label": int(label),
            "scores": [float(value) for value in row],
            "finding": item.finding,
        }
        for item, label, row in zip(test.items, test.labels, test.scores, strict=True)
    ]
