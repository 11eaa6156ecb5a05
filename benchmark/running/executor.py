"""The seam between a run and the place where its jobs are carried out: this machine, or a cluster's scheduler.

Another scheduler is one more file with a subclass. What a job did is told by its record in the run folder, never by
the scheduler: so a scheduler may lose, kill, repeat or forget a job, and the table is still right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from voxbench.benchmark.running.queue import Task

State = Literal["waiting", "running"]


class Executor(ABC):
    """Takes the jobs of one run folder."""

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> str:
        """Takes over `tasks`: each is to run after those that it names, with what it needs by its effort.

        Returns when all have ended, or as soon as a scheduler has them, which then needs this process no more: one
        line that says what was done.
        """

    @abstractmethod
    def poll(self) -> Mapping[str, State]:
        """The jobs (by key) that are in its hands now; what is not there has ended, or was never submitted."""

    @abstractmethod
    def cancel(self) -> str:
        """Ends what it has in hand, without loss of what is done; one line that says what was ended."""
