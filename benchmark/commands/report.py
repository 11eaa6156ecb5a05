"""What ``bench report`` and ``bench compare`` do; ``bench run`` ends with the former."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from voxbench.benchmark.records.recognise import check_pages
from voxbench.reports.pages.compare import compare
from voxbench.reports.pages.report import Report, write_report
from voxbench.reports.reading.export import export_run


def show_report(run: Path, console: Console, *, reference: bool = False, out: Path | None = None) -> None:
    """Writes the report into `out`, or RUN/report, and shows it. Raises ReportError, or BenchError for `out`."""
    if out is not None and out.resolve() != (run / "report").resolve():
        check_pages(out)
    _show(write_report(run, reference=reference, out=out), console)
    console.print(f"rows:   {escape(str(run / 'results.csv'))}", soft_wrap=True)


def show_comparison(runs: list[Path], out: Path, console: Console) -> None:
    """Writes one report on several runs and shows it. Raises ReportError where they must not be mixed."""
    check_pages(out)
    _show(compare(runs, out), console)


def export(run: Path, out: Path, console: Console) -> None:
    """Writes what others need of a run into a new folder, and says how much that is. Raises ReportError."""
    files = export_run(run, out)
    size = sum(path.stat().st_size for path in files) / 1e6
    console.print(f"{escape(str(out))}: {len(files)} files, {size:.1f} MB", soft_wrap=True)


def _show(report: Report, console: Console) -> None:
    """The table, the conclusion, and where the rest lies."""
    console.print(report.table.rich())
    for sentence in report.conclusion:
        console.print(escape(sentence))
    console.print(f"report: {escape(str(report.page))}", soft_wrap=True)
    console.print(f"tables: {escape(str(report.page.parent / 'table.md'))}", soft_wrap=True)
