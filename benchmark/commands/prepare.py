"""Carrying out ``bench prepare``: its progress bars, and what it says at the end."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from voxbench.datasets.prepare.command import PrepareOptions, PrepareResult, prepare

NAMES = {"check": "reading the scans", "heads": "locating the sinuses"}


def execute(options: PrepareOptions, console: Console) -> None:
    """Prepare and tell what came of it; raises DatasetError with every problem of the inputs."""
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    shown: dict[str, TaskID] = {}

    def tell(phase: str, done: int, total: int) -> None:
        if phase not in shown:
            shown[phase] = bars.add_task(NAMES[phase], total=total)
        bars.update(shown[phase], completed=done, total=total)

    with bars:
        result = prepare(options, tell)
    summarise(result, console)


def summarise(result: PrepareResult, console: Console) -> None:
    """What was done, what was refused, and what to do next."""
    kept = result.heads - result.done_now
    console.print(
        f"{result.heads} heads ({result.done_now} worked on now, {max(kept, 0)} kept): {result.crops} crops, "
        f"{result.labelled} sinuses with a label, {len(result.excluded)} sinuses refused",
        highlight=False,
        soft_wrap=True,
    )
    for note in result.notes:
        console.print(escape(f"  note: {note}"), highlight=False, soft_wrap=True)
    for row in result.excluded[:10]:
        line = f"  refused {row['patient_id']} {row['side']}: {row['reason']}"
        console.print(escape(line), highlight=False, soft_wrap=True)
    if len(result.excluded) > 10:
        console.print(f"  ... and {len(result.excluded) - 10} more", highlight=False, soft_wrap=True)
    if result.excluded:
        who = result.out / "private" / "sources.csv"
        console.print(f"  all of them in excluded.csv; who they are: {who}", soft_wrap=True, highlight=False)
    console.print(f"look at {result.out / 'index.html'} first", soft_wrap=True, highlight=False)
    console.print(f"then: bench run --dataset {result.out}", soft_wrap=True, highlight=False)
