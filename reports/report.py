"""Make everything under RUN/report/ from a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voxbench.reports.grid import build_grid
from voxbench.reports.run_folder import ReportError, read_run
from voxbench.reports.table import Table
from voxbench.reports.tables import main_csv, main_table

__all__ = ["Report", "ReportError", "write_report"]


@dataclass(frozen=True)
class Report:
    """What a command line shows of a report."""

    conclusion: tuple[str, ...]  # sentences
    table: Table  # `table.rich()` for a terminal
    files: tuple[Path, ...]


def write_report(run: Path, *, reference: bool = False) -> Report:
    """Write RUN/report/ and return what to print.

    `reference` adds the seed paper's published numbers, marked as from another cohort. Raises ReportError.
    """
    del reference
    grid = build_grid(read_run(run))
    table = main_table(grid)
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    (folder / "table.md").write_text(table.markdown(), encoding="utf-8")
    (folder / "table.csv").write_text(main_csv([grid]), encoding="utf-8")
    return Report(conclusion=(), table=table, files=(folder / "table.md", folder / "table.csv"))
