"""What ``bench report`` does; ``bench run`` ends with it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from voxbench.reports.report import write_report


def show_report(run: Path, console: Console) -> None:
    """Writes ``RUN/report`` and prints its table and where it lies. Raises ReportError."""
    report = write_report(run)
    console.print(report.table.rich())
    console.print(f"report: {run / 'report'}", soft_wrap=True)
