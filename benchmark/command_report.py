"""What ``bench report`` does; ``bench run`` ends with it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from voxbench.reports.report import write_report


def show_report(run: Path, console: Console, *, reference: bool = False) -> None:
    """Writes ``RUN/report``, prints its table, its conclusion and where it lies. Raises ReportError."""
    report = write_report(run, reference=reference)
    console.print(report.table.rich())
    for sentence in report.conclusion:
        console.print(escape(sentence))
    console.print(f"report: {escape(str(report.page))}", soft_wrap=True)
    console.print(f"tables: {escape(str(run / 'report' / 'table.md'))}, {escape(str(run / 'results.csv'))}", soft_wrap=True)
