"""What ``bench cell`` does: the named jobs of a run's grid, here and now, unless they are done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.running import slurm
from voxbench.benchmark.running.grid import Grid, current_grid
from voxbench.benchmark.running.local import Event, Local, stage_failed
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import Setup, resolve_device
from voxbench.benchmark.running.stop import Stop
from voxbench.benchmark.running.work import fail
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training.context import Context

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # the last: SLURM warns of a preemption, or we of the limit


class TimeLimitError(RuntimeError):
    """A job needs longer than the scheduler lets it run."""


def execute(folder: Path, keys: Sequence[str], console: Console, *, only: bool, warning: float) -> int:
    """Carries out the jobs, and (unless `only`) what they build on; 0, or 1 where one has no result.

    Asked to stop, it leaves a checkpoint. Raises KeyboardInterrupt then, but for SLURM's warning: that puts it back
    into SLURM's queue.
    """
    grid = current_grid(folder, keys)
    _check_gpu(grid)
    wanted = set(keys) if only else {*keys, *(stage for key in keys for stage in grid.jobs[key].after)}
    run = Run.of_grid(grid, resolve_device(grid.device), wanted)
    setup = run.setup(workers=1)
    tasks = run.tasks(wanted)
    with setup.opened() as context:
        ready, unmet = _sorted(context, setup, tasks)
    for task in unmet:
        console.print(f"not started: {escape(grid.jobs[task.job.key].name)}: its pretraining has no result yet")
    log = _Log(grid, console)
    stop = Stop()
    with _alarm(warning), stop.listening(SIGNALS, lambda: console.print("stopping at the next step")):
        console.print(Local(setup, retries=grid.retries, listen=log, stop=stop).submit(ready))
    if not stop.asked:
        return 1 if log.failed or unmet or len(ready) < len(tasks) else 0
    if stop.signal != signal.SIGUSR2:
        raise KeyboardInterrupt
    job = next((task.job for task in ready if task.job.key == log.at_work), None)
    if isinstance(job, CellPlan) and not job.trained and not log.ended and _at_limit(warning):
        # No later attempt would come further: a predictor's fit has no checkpoint to go on from.
        error = TimeLimitError("takes longer than the time limit of its job: raise it (--slurm time=...)")
        with setup.opened() as context:
            fail(context, job, error, setup.provenance)
    slurm.requeue()
    return 1


def _sorted(context: Context, setup: Setup, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """Tasks that may start, and those whose stages have no result yet; those whose stages failed fail as well."""
    here = {task.job.key for task in tasks}
    ready, unmet = [], []
    for task in tasks:
        hopeless = isinstance(task.job, CellPlan) and task.job.hopeless is not None
        others = () if hopeless else [key for key in task.after if key not in here]
        records = {key: context.store.stage(key) for key in others}
        failed = [key for key, record in records.items() if record is not None and record["status"] == "failed"]
        if failed:
            fail(context, task.job, stage_failed(context.store, failed[0]), setup.provenance)
        elif None in records.values():
            unmet.append(task)
        else:
            ready.append(task)
    return ready, unmet


@contextmanager
def _alarm(warning: float) -> Iterator[None]:
    """SLURM's own warning, in time: SLURM sends it up to a minute early, perhaps while modules load, or not at all."""
    left = slurm.seconds_left()
    if left is None:
        yield
        return
    alarm = threading.Timer(max(left - warning, left / 2), os.kill, (os.getpid(), signal.SIGUSR2))
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def _at_limit(warning: float) -> bool:
    """Whether the time limit is near: the signal may have come for a preemption."""
    left = slurm.seconds_left()
    return left is not None and left <= warning + 5


def _check_gpu(grid: Grid) -> None:
    given = os.environ.get("SLURM_JOB_GPUS")
    if grid.device == "auto" and given and not torch.cuda.is_available():
        raise BenchError(
            f"SLURM gave this job GPU {given} of {os.environ.get('SLURMD_NODENAME')}, and PyTorch sees none: leave "
            "that node out (--slurm exclude=...), or run with --device cpu"
        )


class _Log:
    """A line for each job that starts or ends, for SLURM's log."""

    def __init__(self, grid: Grid, console: Console) -> None:
        self.grid = grid
        self.console = console
        self.at_work: str | None = None
        self.ended = 0
        self.failed = 0

    def __call__(self, event: Event) -> None:
        """Takes one event of `Local`."""
        kind, key, value = event
        if kind == "progress":
            return
        self.at_work = key if kind == "start" else None
        if kind == "end":
            self.ended += value in ("ok", "failed")
            self.failed += value == "failed"
        said = "started" if kind == "start" else value
        self.console.print(f"{said}: {escape(self.grid.jobs[key].name)} ({key})", soft_wrap=True, highlight=False)
