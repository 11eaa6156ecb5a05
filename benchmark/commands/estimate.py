"""What a dry run said that a grid would take, kept in the cache until the grid is done, and then held against it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from voxbench.benchmark.commands.terminal import duration
from voxbench.benchmark.records.store import write_json
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.settings.config import Runtime


def keep(runtime: Runtime, tasks: Sequence[Task], seconds: float) -> None:
    """Notes that `tasks` would take `seconds` of wall-clock time as `runtime` says, for `how_far_off`."""
    with suppress(OSError):  # a cache that cannot be written costs a later line, and nothing now
        write_json(_place(runtime, tasks), {"seconds": seconds})


def how_far_off(runtime: Runtime, tasks: Sequence[Task], seconds: float) -> str | None:
    """In words, how far the estimate for `tasks` lay off the `seconds` that they took; None where none is known."""
    try:
        said = float(json.loads(_place(runtime, tasks).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if said <= 0 or seconds <= 0:
        return None
    off = seconds / said - 1
    how = "as estimated" if abs(off) < 0.05 else f"{abs(off):.0%} {'longer' if off > 0 else 'shorter'} than estimated"
    return f"the grid took {duration(seconds)}: {how} by the dry run ({duration(said)})"


def _place(runtime: Runtime, tasks: Sequence[Task]) -> Path:
    """Where the estimate of these jobs, worked at in this way, is kept."""
    way = [runtime.device, runtime.precision, runtime.workers, runtime.threads, runtime.gpus_per_stage]
    digest = hashlib.sha256(json.dumps([way, sorted(task.job.key for task in tasks)]).encode()).hexdigest()
    return runtime.cache / "estimates" / f"{digest[:16]}.json"
