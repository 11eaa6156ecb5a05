"""Which job of a run is next: after what it builds on, again later where another process has it, and not for ever."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass

from voxbench.benchmark.running.work import Job, Outcome

BUSY_RETRY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job and the keys of the jobs that must have ended before it."""

    job: Job
    after: tuple[str, ...]
    effort: float = 1.0  # expected, in volumes that pass through a network


class Queue:
    """Jobs in their order, each once those before it have ended; one step costs the same in a grid of any size."""

    def __init__(self, tasks: Sequence[Task], retries: int) -> None:
        """A job whose cause of failure may pass, or whose worker died, is tried `retries` times more."""
        self.tasks = {task.job.key: task for task in tasks}
        self.retries = retries
        self.outcomes: dict[str, Outcome] = {}
        self.tries: dict[str, int] = {}
        self.died: set[str] = set()
        self._order = {key: place for place, key in enumerate(self.tasks)}
        self._open = {key: {other for other in task.after if other in self.tasks} for key, task in self.tasks.items()}
        self._dependants: dict[str, list[str]] = {}
        for key, others in self._open.items():
            for other in others:
                self._dependants.setdefault(other, []).append(key)
        self._ready = [(place, key) for key, place in self._order.items() if not self._open[key]]  # sorted: a heap
        self._later: list[tuple[float, int, str]] = []
        self._left = len(self.tasks)

    @property
    def left(self) -> int:
        """Jobs that have yet to start."""
        return self._left

    @property
    def suspects(self) -> bool:
        """Whether a job whose worker died has not ended yet."""
        return any(key not in self.outcomes for key in self.died)

    def next(self) -> Task | None:
        """A task that may start now, taken from the queue."""
        while self._later and self._later[0][0] <= time.monotonic():
            _, place, key = heapq.heappop(self._later)
            heapq.heappush(self._ready, (place, key))
        if not self._ready:
            return None
        self._left -= 1
        return self.tasks[heapq.heappop(self._ready)[1]]

    def broken_dependency(self, task: Task) -> str | None:
        """A dependency that failed."""
        return next((other for other in task.after if self.outcomes.get(other) == "failed"), None)

    def end(self, key: str, outcome: Outcome) -> Outcome:
        """Notes how a job ended, and says what follows: "busy" and "again" are asked for again later."""
        if outcome == "again" and not self._count(key):
            outcome = "failed"
        if outcome in ("busy", "again"):
            wait = BUSY_RETRY_S if outcome == "busy" else 0.0
            place = self._order[key] + (len(self._order) if outcome == "again" else 0)  # after all others
            heapq.heappush(self._later, (time.monotonic() + wait, place, key))
            self._left += 1
        else:
            self.outcomes[key] = outcome
            for other in self._dependants.get(key, ()):
                self._open[other].discard(key)
                if not self._open[other]:
                    heapq.heappush(self._ready, (self._order[other], other))
        return outcome

    def again(self, key: str) -> bool:
        """Puts a job whose worker died before all others; False when that has happened too often."""
        if not self._count(key):
            return False
        self.died.add(key)
        heapq.heappush(self._ready, (-1, key))
        self._left += 1
        return True

    def _count(self, key: str) -> bool:
        self.tries[key] = self.tries.get(key, 0) + 1
        return self.tries[key] <= self.retries
