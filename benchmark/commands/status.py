"""What ``bench status`` and ``bench cancel`` do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from voxbench.benchmark.commands.terminal import duration
from voxbench.benchmark.records.store import Store
from voxbench.benchmark.running.executor import Executor, State
from voxbench.benchmark.running.grid import Entry, Grid, current_grid
from voxbench.benchmark.running.local import Local
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.running.slurm import FOLDER, Slurm
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION
from voxbench.reports.tables.fitted import Fitted

SHOWN = 5  # jobs of a kind that are named


def status(folder: Path, console: Console, *, keys: bool) -> None:
    """Prints what of a run is done, at work, waiting and failed, the time left and the cost so far; with `keys` each
    job's. Raises BenchError."""
    grid = current_grid(folder)
    store = Store(folder)
    queued: dict[str, State] = {}
    for executor in _executors(grid):
        try:
            queued |= executor.poll()
        except BenchError as error:
            if grid.executor == "slurm":
                raise
            note = f"{error}; what may wait there counts as missing"  # an earlier part of the run, from elsewhere
            console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    state, costs, errors = _states(grid, store, queued)
    _table(grid, state, console)
    for what in ("running", "failed"):
        named = [key for key, value in state.items() if value == what]
        for key in named[:SHOWN]:
            said = f": {errors[key]}" if key in errors else ""
            console.print(f"{what}: {escape(grid.jobs[key].name + said)}", soft_wrap=True, highlight=False)
        if len(named) > SHOWN:
            console.print(f"... and {len(named) - SHOWN} more")
    spent = ", ".join(f"{duration(seconds)} on {name}" for name, seconds in _by_device(costs).items())
    console.print(f"cost so far: {escape(spent) or 'none'}", soft_wrap=True, highlight=False)
    console.print(_left(grid, state, costs), soft_wrap=True, highlight=False)
    if not (folder / "results.csv").exists():
        console.print(f"no tables yet: bench collect {escape(str(folder))} makes them of what is done", soft_wrap=True)
    if keys:
        for key, value in state.items():
            console.print(f"{key}  {value}  {escape(grid.jobs[key].name)}", soft_wrap=True, highlight=False)


def cancel(folder: Path, console: Console) -> None:
    """Ends what carries out the run. Raises BenchError."""
    said = "; ".join(executor.cancel() for executor in _executors(current_grid(folder)))
    console.print(f"{said}; what is done is kept, and the same `bench run` goes on from there", soft_wrap=True)


def _executors(grid: Grid) -> list[Executor]:
    """All that may have jobs of the run: it may have been begun here and continued on a cluster, or the other way."""
    local = Local(Setup(config=grid.config, runtime=grid.runtime, bank=grid.bank, provenance={}))
    submitted = grid.executor == "slurm" or (grid.runtime.out / FOLDER).is_dir()
    return [Slurm(grid), local] if submitted else [local]


def _states(
    grid: Grid, store: Store, queued: Mapping[str, State]
) -> tuple[dict[str, str], dict[str, tuple[str, float]], dict[str, str]]:
    """By key: done, failed, running, waiting or missing; (device, seconds) of what was done; errors."""
    state, costs, errors = {}, {}, {}
    claimed = store.at_work()
    for key, entry in grid.jobs.items():
        record = _record(store, key, entry)
        if record is not None and record["status"] == "ok":
            state[key] = "done"
            costs[key] = (str(record.get("device")), _seconds(record))
        elif key in claimed:
            state[key] = "running"
        elif key in queued:
            state[key] = "waiting"
        elif record is not None:
            state[key] = "failed"
            errors[key] = str(record.get("error"))
        else:
            state[key] = "missing"
    return state, costs, errors


def _record(store: Store, key: str, entry: Entry) -> dict[str, Any] | None:
    record = store.stage(key) if entry.kind == "stage" else store.cell(entry.method, key)
    return record if record is not None and record["result_version"] == RESULT_VERSION else None


def _seconds(record: Mapping[str, Any]) -> float:
    return float(record["seconds"] if "seconds" in record else record["costs"]["finetune_seconds"])


def _by_device(costs: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for device, seconds in costs.values():
        found[device] += seconds
    return dict(found)


def _table(grid: Grid, state: Mapping[str, str], console: Console) -> None:
    kinds = ("done", "running", "waiting", "failed", "missing")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, value in state.items():
        counts[f"{grid.jobs[key].method} {grid.jobs[key].kind}s"][value] += 1
    rows = [(name, *(str(count[kind] or "") for kind in kinds)) for name, count in counts.items()]
    whole = Counter(state.values())
    rows.append(("all", *(str(whole[kind] or "") for kind in kinds)))
    console.print(Fitted(title="", columns=("", *kinds), rows=tuple(tuple(map(Text, row)) for row in rows)))


def _left(grid: Grid, state: Mapping[str, str], costs: Mapping[str, tuple[str, float]]) -> str:
    """The time left, from what jobs of the same kind and method took, or all jobs where none is done."""
    open_ = [key for key, value in state.items() if value not in ("done", "failed")]
    if not open_:
        return "nothing is left to do"
    took: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])  # seconds, effort
    for key, (_, seconds) in costs.items():
        entry = grid.jobs[key]
        for kind in ((entry.kind, entry.method), (entry.kind, ""), ("", "")):
            took[kind][0] += seconds
            took[kind][1] += entry.effort
    if not costs:
        return f"left: {len(open_)} jobs; the time is known once the first is done"
    seconds = 0.0
    for entry in (grid.jobs[key] for key in open_):
        kinds = ((entry.kind, entry.method), (entry.kind, ""), ("", ""))
        one, per = next(took[kind] for kind in kinds if took[kind][1] > 0)
        seconds += entry.effort * one / per
    running = sum(value == "running" for value in state.values())
    if not running:
        return f"left: {len(open_)} jobs, about {duration(seconds)} one after the other; none runs now"
    return f"left: {len(open_)} jobs, about {duration(seconds / running)} with {running} at a time as now"
