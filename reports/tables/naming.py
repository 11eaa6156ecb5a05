"""A method's name in a table, with a mark where it is a yardstick."""

from __future__ import annotations

from voxbench.reports.reading.grid import Grid
from voxbench.reports.tables.table import Entry

YARDSTICK = "¶"


def named(grid: Grid, method: str) -> Entry:
    """The first entry of a method's row."""
    return Entry(method, note=YARDSTICK if method in grid.yardsticks else "")


def legend(grid: Grid) -> tuple[str, ...]:
    """A note on the mark, where a method has it."""
    return (f"{YARDSTICK} a yardstick: no network that was trained.",) if grid.yardsticks else ()
