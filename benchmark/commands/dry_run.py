"""``bench run --dry-run``: the plan, what of it is done, and what the rest would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.text import Text

from voxbench.benchmark.commands import estimate
from voxbench.benchmark.commands.terminal import duration
from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.planning.power import foreseen
from voxbench.benchmark.running.places import in_words
from voxbench.benchmark.running.runner import Run, effort
from voxbench.benchmark.training import speed
from voxbench.benchmark.training.context import Context
from voxbench.reports.tables.fitted import Fitted

TIMED_STEPS = 2
TIMED_BATCH = 8  # volumes a second hardly depend on the batch, and a plan should show at once


def show_plan(run: Run, console: Console) -> None:
    """Prints stages and cells a method, how many are done, hours measured on a few steps of each, and the power."""
    done = run.done()
    efforts, tasks = effort(run), run.tasks()
    with run.setup().opened() as context:
        speeds = _Speeds(context, run.runtime.threads)
    rows: list[tuple[Text, ...]] = []
    whole = 0.0
    for method in run.config.rows:
        stages = {key: stage for key, stage in run.plan.stages.items() if stage.method == method}
        cells = [key for key, cell in run.plan.cells.items() if cell.method == method]
        if not cells:
            continue
        todo = [task.job for task in tasks if task.job.method == method]
        trained = [job for job in todo if efforts[job.key] > 0]  # the others have no steps to time
        seconds = sum(efforts[job.key] / speeds.of(method, getattr(job, "index", None)) for job in trained)
        seconds += sum(speeds.seconds_for_maps(job) for job in todo if isinstance(job, StagePlan))
        whole += seconds
        counts = Counter(stage.name for stage in stages.values())
        entries = (
            method,
            ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none",
            str(len(cells)),
            f"{len(done & {*stages, *cells})}/{len(stages) + len(cells)}",
            f"{sum(efforts[job.key] for job in todo):,.0f}",
            duration(seconds),
        )
        rows.append(tuple(map(Text, entries)))
    console.print(
        Fitted(
            title=f"plan: {run.config.dataset.name}, {len(run.bank.items)} volumes",
            columns=("method", "stages", "cells", "done", "volumes to process", "estimate (one worker)"),
            rows=tuple(rows),
        )
    )
    can_show = foreseen(run.plan, run.bank.items, len(run.dataset.classes))
    if can_show is not None:
        console.print(can_show, soft_wrap=True, highlight=False)
    workers = run.runtime.workers
    estimate.keep(run.runtime, tasks, whole / workers)
    shared = ", stages timed as one GPU takes them" if run.runtime.gpus_per_stage > 1 else ""
    where = in_words(run.runtime.device)
    console.print(f"about {duration(whole / workers)} with {workers} workers on {where}{shared}; nothing was run")


class _Speeds:
    """Volumes a second of each stage and of fine-tuning, measured on a few real steps when first asked for."""

    def __init__(self, context: Context, threads: int) -> None:
        self.context = context
        self.known: dict[tuple[str, int | None], float] = {}
        self.maps: dict[tuple[str, int], float] = {}  # seconds a target map
        torch.set_num_threads(threads)

    def of(self, method: str, stage: int | None) -> float:
        """For stage number `stage` of `method`; None = fine-tuning, the same for all methods."""
        key = (method if stage is not None else "", stage)
        if key not in self.known:
            # Target maps are timed apart: here others of the right size serve as well.
            works = [speed.finetuning(self.context, TIMED_BATCH)] if stage is None else self._stages(method)
            for work in works:
                self.known[key[0], work.index] = speed.volumes_per_second(work, TIMED_STEPS)
        return self.known[key]

    def seconds_for_maps(self, plan: StagePlan) -> float:
        """For the target maps of a stage: each volume's is made once."""
        key = (plan.method, plan.index)
        if key not in self.maps:
            self.maps[key] = speed.seconds_a_map(self.context, *key)
        return self.maps[key] * min(len(plan.members), plan.volumes)

    def _stages(self, method: str) -> Iterator[speed.Workload]:
        return speed.workloads(self.context, method, TIMED_BATCH, maps=False)
