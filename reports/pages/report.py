"""Make everything under RUN/report/ from a run folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxbench.reports.judging.analysis import Analysis, analyse
from voxbench.reports.judging.learning import learning
from voxbench.reports.judging.words import listed
from voxbench.reports.pages.across import Across
from voxbench.reports.pages.page import Page, View, make_source, make_view, render, subtitle
from voxbench.reports.reading.grid import Grid, build_grid
from voxbench.reports.reading.results import ReportError, RunFolder
from voxbench.reports.reading.run_folder import read_run
from voxbench.reports.tables.learning_table import learning_csv
from voxbench.reports.tables.numbers import numbers
from voxbench.reports.tables.paper_tables import main_csv
from voxbench.reports.tables.table import Table

__all__ = ["Report", "ReportError", "write_report"]

WRITTEN = ".written"  # beside the plots: the names of those that a report wrote


@dataclass(frozen=True)
class Report:
    """What a command line shows of a report."""

    conclusion: tuple[str, ...]  # sentences, the answer first
    table: Table  # `table.rich()` for a terminal
    files: tuple[Path, ...]

    @property
    def page(self) -> Path:
        """The page to open."""
        return next(path for path in self.files if path.name == "index.html")


def write_report(run: Path, *, reference: bool = False, out: Path | None = None) -> Report:
    """Write the report into `out`, or RUN/report/, and return what to print.

    `reference` adds the seed paper's published numbers, marked as from another cohort. Raises ReportError.
    """
    folder = read_run(run)
    analyses = evaluated(folder)
    return write_pages([analyses], [(folder, analyses[0].grid)], out or run / "report", reference=reference)


def evaluated(run: RunFolder) -> tuple[Analysis, ...]:
    """The statistics of each of a run's evaluations, the main one first."""
    return tuple(analyse(build_grid(run, evaluation)) for evaluation in run.evaluations)


def write_pages(
    analyses: Sequence[Sequence[Analysis]],
    sources: Sequence[tuple[RunFolder, Grid]],
    out: Path,
    *,
    reference: bool = False,
    across: Across | None = None,
) -> Report:
    """Write tables, plots and the page of one or several datasets into `out`, in place of what a report left there.

    `analyses` are the evaluations of each dataset, the main one first.
    """
    views = [make_view(evaluations, reference=reference, several=len(analyses) > 1) for evaluations in analyses]
    main = [evaluations[0] for evaluations in analyses]
    grids = [analysis.grid for analysis in main]
    page = Page(
        title=listed([grid.name for grid in grids]),
        subtitle=subtitle(grids),
        views=views,
        sources=[make_source(run, grid) for run, grid in sources],
        n_resamples=len(main[0].weights),
        made_by="bench report" if len(sources) == 1 else "bench compare",
        across=across,
    )
    tables = [table for view in views for table in _tables(view)] + ([across.table] if across and across.table else [])
    texts = {
        "table.md": "\n".join(view.main.markdown() for view in views),
        "table.tex": "\n".join(view.main.latex() for view in views),
        "table.csv": main_csv(grids),
        "tables.md": "\n".join(table.markdown() for table in tables),
        "tables.tex": "\n".join(table.latex() for table in tables),
        **numbers(main),
        **_further_numbers(analyses),
        "learning.csv": learning_csv([(grid.name, one) for grid in grids for one in learning(grid)]),
        **({} if across is None else {"ranks.csv": across.csv}),
        "conclusion.md": "\n".join(_conclusion(view, several=len(views) > 1) for view in views),
        "index.html": render(page),
    }
    plots = {(f"{view.name}-" if len(views) > 1 else "") + plot.name: plot for view in views for plot in view.plots}
    plots |= {} if across is None else {plot.name: plot for plot in across.plots}
    drawn = {f"{name}.svg": plot.svg.encode() for name, plot in plots.items()}
    drawn |= {f"{name}.png": plot.png for name, plot in plots.items()}
    contents = {out / name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    contents |= {out / "plots" / name: content for name, content in sorted(drawn.items())}
    note = out / "plots" / WRITTEN
    try:
        gone = _gone(note, drawn.keys())
        _write_all({**contents, note: "".join(f"{name}\n" for name in sorted(drawn)).encode()})
        for path in gone:
            path.unlink(missing_ok=True)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ReportError(
            f"{out}: the report cannot be written ({why}), and what was there before is as it was: make room, get the "
            f"right to write there, or name another folder: {page.made_by} ... --out FOLDER"
        ) from error
    return Report(conclusion=views[0].conclusion, table=views[0].main, files=tuple(contents))


def _tables(view: View) -> list[Table]:
    efficiency = [view.efficiency] if view.efficiency is not None else []
    beside = [*view.evaluations.tables] if view.evaluations else []
    beside += [table for one in (view.evaluations.further if view.evaluations else []) for table in one.tables]
    main = [view.main, view.intervals, *view.pairs, *efficiency, *view.recalls, *view.others]
    return [*main, *beside, *view.learning, *view.tuning]


def _further_numbers(analyses: Sequence[Sequence[Analysis]]) -> dict[str, str]:
    """The numbers of the evaluations beside the main one, in files of their own: ``linear-estimates.csv``."""
    by_name: dict[str, list[Analysis]] = {}
    for further in (evaluations[1:] for evaluations in analyses):
        for analysis in further:
            by_name.setdefault(analysis.grid.evaluation, []).append(analysis)
    return {
        f"{name}-{file}": text
        for name, found in by_name.items()
        for file, text in {"table.csv": main_csv([one.grid for one in found]), **numbers(found)}.items()
    }


def _conclusion(view: View, *, several: bool) -> str:
    heading = [f"### {view.name}", ""] if several else []
    return "\n".join([*heading, view.conclusion[0], "", *(f"- {sentence}" for sentence in view.conclusion[1:]), ""])


def _gone(note: Path, drawn: Collection[str]) -> list[Path]:
    """Plots of an earlier report whose fraction or method is no more, that is, which are not `drawn` now.

    Only what the note says a report has written: the folder may be the user's own, with pictures of theirs.
    """
    earlier = note.read_text(encoding="utf-8").splitlines() if note.is_file() else []
    return [
        note.with_name(name)
        for name in earlier
        if name not in drawn and Path(name).name == name and name.endswith((".svg", ".png"))
    ]


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """All whole, or none: a page that is being looked at is never half a page, nor one of two reports."""
    written: dict[Path, Path] = {}
    try:
        for number, (path, content) in enumerate(contents.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".part-{os.getpid()}-{number}")
            written[temporary] = path
            temporary.write_bytes(content)
        for temporary, path in written.items():
            temporary.replace(path)
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)
