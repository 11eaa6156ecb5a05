"""What a person sees while a grid runs: a bar over the grid and one for each job at work; nothing off a terminal."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from voxbench.benchmark.running.local import Event


class GridProgress:
    """A listener for `Local`; `costs` (key -> expected effort) weigh the work, so that the time left is fair."""

    def __init__(self, console: Console, names: Mapping[str, str], costs: Mapping[str, float], title: str) -> None:
        self.names = names
        self.costs = costs
        self.lock = threading.Lock()
        self.shown = console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.shown,
        )
        self.whole = self.bars.add_task(title, total=sum(costs.values()) or 1.0, count=f"0/{len(names)}")
        self.bar: dict[str, TaskID] = {}
        self.credit: dict[str, float] = {}
        self.ended = 0
        self.failed = 0

    def __enter__(self) -> GridProgress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def __call__(self, event: Event) -> None:
        """Takes one event of `Local`; called from several threads."""
        kind, key, value = event
        with self.lock:
            if kind == "start":
                self._drop(key)
                self.bar[key] = self.bars.add_task(f"  {self.names[key]}", total=None, count="")
            elif kind == "progress":
                done, total = value
                self._credit(key, done / max(total, 1))
                if key in self.bar:
                    self.bars.update(self.bar[key], completed=done, total=total, count=f"{done}/{total}")
            elif value in ("busy", "again"):
                self._drop(key)
            else:
                self._drop(key)
                self._credit(key, 1.0)
                self.ended += 1
                self.failed += value == "failed"
                failed = f", {self.failed} failed" if self.failed else ""
                self.bars.update(self.whole, count=f"{self.ended}/{len(self.names)}{failed}")

    def _credit(self, key: str, share: float) -> None:
        self.credit[key] = max(self.credit.get(key, 0.0), share * self.costs[key])
        self.bars.update(self.whole, completed=sum(self.credit.values()))

    def _drop(self, key: str) -> None:
        if key in self.bar:
            self.bars.remove_task(self.bar.pop(key))


class StepProgress:
    """One bar for one long step; called with (done, total)."""

    def __init__(self, console: Console, title: str) -> None:
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bars.add_task(title, total=None)

    def __enter__(self) -> StepProgress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, done: int, total: int) -> None:
        """Moves the bar."""
        self.bars.update(self.task, completed=done, total=total)
