"""How a grid is cut into arrays of a scheduler: one a method and kind of job, short jobs several to an element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.site import Site
from voxbench.benchmark.settings.errors import BenchError

MOST = 16  # cells an element, where nothing is said


@dataclass(frozen=True, kw_only=True)
class Array:
    """Jobs of one kind that are submitted together; a pack is one element."""

    kind: str  # "stages" or "cells"
    what: str  # for its name
    packs: tuple[tuple[Task, ...], ...]

    @property
    def tasks(self) -> Iterator[Task]:
        """All of them."""
        return (task for pack in self.packs for task in pack)


def packed(tasks: Sequence[Task], site: Site, limit: int) -> list[Array]:
    """Arrays of at most `limit` elements, in an order in which each can wait for those before it.

    Packs grow until all elements, and the job that makes the tables, are no more than the site lets a user submit.
    Raises BenchError where even one element an array is too many.
    """
    groups: dict[tuple[str, str, int], list[Task]] = {}
    for task in tasks:
        is_stage = isinstance(task.job, StagePlan)
        of = (task.job.method, "stages", len(task.after)) if is_stage else (task.job.method, "cells", 0)
        groups.setdefault(of, []).append(task)
    longest = max((task.effort for task in tasks), default=1.0)
    sizes = {of: 1 if of[1] == "stages" else _together(group, longest, site) for of, group in groups.items()}
    if site.max_jobs is not None:
        if site.max_jobs <= len(groups):
            raise BenchError(
                f"--slurm max_jobs={site.max_jobs}: this grid needs {len(groups) + 1} at least: run fewer --methods at "
                "a time"
            )
        grown = 1
        while sum(ceil(len(group) / (grown * sizes[of])) for of, group in groups.items()) >= site.max_jobs:
            grown += 1
        sizes = {of: grown * size for of, size in sizes.items()}
    return [array for of, group in groups.items() for array in _cut(of, group, sizes[of], limit)]


def _cut(of: tuple[str, str, int], group: Sequence[Task], size: int, limit: int) -> Iterator[Array]:
    method, kind, _ = of
    job = group[0].job
    what = f"{method}-{job.name if isinstance(job, StagePlan) else kind}"
    packs = [tuple(group[first : first + size]) for first in range(0, len(group), size)]
    for first in range(0, len(packs), limit):
        yield Array(kind=kind, what=what, packs=tuple(packs[first : first + limit]))


def _together(cells: Sequence[Task], longest: float, site: Site) -> int:
    """Cells an element: together about as long as the longest job of the grid."""
    if site.pack is not None:
        return site.pack
    mean = sum(task.effort for task in cells) / len(cells)
    return max(1, min(MOST, int(longest / max(mean, 1.0))))
