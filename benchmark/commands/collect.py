"""What ``bench collect`` does: tables and report from what is done, and once more what a scheduler lost."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from voxbench.benchmark.commands.run import verdict
from voxbench.benchmark.running.grid import Grid, current_grid
from voxbench.benchmark.running.local import WorkerDiedError, stage_failed
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.slurm import FOLDER, Slurm
from voxbench.benchmark.running.work import fail, recorded


def execute(folder: Path, attempt: int | None, console: Console) -> int:
    """Writes the tables and the report; 0, or 1 where a cell has no result.

    `attempt` is given by the job that ends a submission to a scheduler: jobs that ended without a record are submitted
    again as often as the run's retries say, and then recorded as failed.
    """
    grid = current_grid(folder)
    run = Run.of_grid(grid, "cpu")
    if attempt is not None and grid.executor == "slurm":
        _again(run, grid, attempt, console)
    cells = run.collect()
    from voxbench.benchmark.commands.report import show_report  # brings all that plots need

    show_report(folder, console)
    missing = len(run.plan.cells.keys() - {cell["key"] for cell in cells})
    if missing:
        console.print(f"[yellow]note:[/yellow] {missing} cells have no result yet and are not in the table")
    failed = verdict([cell for cell in cells if cell["key"] in run.plan.cells], console)
    return 1 if missing else failed


def _again(run: Run, grid: Grid, attempt: int, console: Console) -> None:
    scheduler = Slurm(grid, attempt + 1)
    held = {*scheduler.poll(), *run.store.at_work()}
    setup = run.setup()
    with setup.opened() as context:
        lost = [task for task in run.tasks() if task.job.key not in held and recorded(context, task.job) is None]
        if lost and attempt < grid.retries:
            console.print(f"{len(lost)} jobs ended without a result: {scheduler.submit(lost)}", soft_wrap=True)
            return
        for task in lost:
            fail(context, task.job, _cause(run, task, attempt), setup.provenance)
    if lost:
        console.print(f"{len(lost)} jobs ended without a result: see the logs in {escape(str(FOLDER))}", soft_wrap=True)


def _cause(run: Run, task: Task, attempt: int) -> Exception:
    for key in task.after:
        if (run.store.stage(key) or {}).get("status") == "failed":
            return stage_failed(run.store, key)
    return WorkerDiedError(
        f"ended {attempt + 1} times without a result, killed or out of memory: see the logs in {FOLDER}, and give it "
        "more (--slurm mem=...)"
    )
