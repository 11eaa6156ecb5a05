"""The self-contained page: what stands on it, and its rendering."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import Any

import jinja2
from markupsafe import Markup

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.learning import learning
from voxbench.reports.judging.words import counted, listed
from voxbench.reports.pages.across import Across
from voxbench.reports.pages.conclusion import conclude
from voxbench.reports.pages.evaluations import SideBySide, side_by_side
from voxbench.reports.plots.calibration import calibration
from voxbench.reports.plots.cost import cost
from voxbench.reports.plots.examples import examples, real_images
from voxbench.reports.plots.forest import forest
from voxbench.reports.plots.learning_curve import learning_curve
from voxbench.reports.plots.pr_curves import pr_curves
from voxbench.reports.plots.pretraining import pretraining
from voxbench.reports.plots.representation import representation
from voxbench.reports.plots.style import Plot
from voxbench.reports.reading.grid import Grid
from voxbench.reports.reading.redact import facts, redact
from voxbench.reports.reading.results import RunFolder, describe
from voxbench.reports.tables.closer import metrics_table, recall_table, uncalled, weighted
from voxbench.reports.tables.comparison_tables import comparison_table, efficiency_table, interval_table
from voxbench.reports.tables.learning_table import learning_tables
from voxbench.reports.tables.paper_tables import main_table
from voxbench.reports.tables.table import Table
from voxbench.reports.tables.tuning import chosen_table, search_table

SECTIONS = {
    "conclusion": "Conclusion",
    "table": "Table",
    "comparisons": "Comparisons",
    "evaluations": "Evaluations",
    "curves": "Closer looks",
    "pretraining": "Pretraining",
    "cells": "Cells without a score",
    "across": "Over datasets",
    "protocol": "Protocol",
    "audit": "Leak audit",
    "environment": "Environment",
    "reproduce": "How to reproduce",
}


@dataclass(frozen=True, kw_only=True)
class Troubled:
    """A cell without a score, as the page tells it."""

    place: str
    state: str
    why: str


@dataclass(frozen=True, kw_only=True)
class View:
    """One dataset on the page."""

    name: str
    of: str  # " of NAME" where the page has several
    phantom: str
    conclusion: tuple[str, ...]
    main: Table
    intervals: Table
    tuning: list[Table]
    pairs: list[Table]
    efficiency: Table | None
    recalls: list[Table]
    uncalled: str
    weighted: str
    others: list[Table]
    curves: list[Plot]
    forest: list[Plot]
    pr: list[Plot]
    calibration: list[Plot]
    cost: list[Plot]
    pretraining: list[Plot]
    learning: list[Table]
    maps: list[Plot]
    examples: list[Plot]
    troubled: list[Troubled]
    remarks: list[str]
    n_cells: int
    evaluations: SideBySide | None

    @property
    def plots(self) -> list[Plot]:
        """All plots of the view."""
        groups = [self.curves, self.forest, self.pr, self.calibration, self.cost]
        groups += [self.pretraining, self.maps, self.examples]
        groups += [self.evaluations.plots] if self.evaluations else []
        return [plot for group in groups for plot in group]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The leak audit in words."""

    passed: bool
    verdict: str
    checks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One run that the page is made from."""

    name: str
    protocol: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    environment: list[tuple[str, str]]
    audit: Audit
    command: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the template shows."""

    title: str
    subtitle: str
    views: list[View]
    sources: list[Source]
    n_resamples: int
    made_by: str
    across: Across | None = None

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(anchor, name) of the sections that the page has."""
        lacking = {"across"} if self.across is None else set()
        lacking |= set() if any(view.evaluations for view in self.views) else {"evaluations"}
        return [(anchor, name) for anchor, name in SECTIONS.items() if anchor not in lacking]


def make_view(analyses: Sequence[Analysis], *, reference: bool, several: bool) -> View:
    """Everything that the page shows of one dataset; of its evaluations the main one comes first."""
    analysis, *further = analyses
    grid = analysis.grid
    scored = [fraction for fraction in grid.fractions if analysis.ranks[fraction]]
    recalls = [recall_table(analysis, fraction) for fraction in scored]
    cost_plot = cost(analysis)
    return View(
        name=grid.name,
        of=f" of {grid.name}" if several else "",
        phantom=_phantom(grid),
        conclusion=conclude(analysis, further),
        main=main_table(grid, analysis.tied, reference=reference),
        intervals=interval_table(analysis),
        tuning=_tuning(grid),
        pairs=[comparison_table(analysis, f) for f in scored if analysis.comparisons[f]],
        efficiency=efficiency_table(analysis),
        recalls=[one for one in recalls if one is not None],
        uncalled=uncalled(analysis),
        weighted=weighted(analysis),
        others=[metrics_table(analysis, fraction) for fraction in scored],
        curves=[learning_curve(analysis)] if scored else [],
        forest=forest(analysis),
        pr=pr_curves(analysis),
        calibration=calibration(analysis),
        cost=[] if cost_plot is None else [cost_plot],
        pretraining=pretraining(analysis),
        learning=learning_tables(learning(grid)),
        maps=representation(analysis),
        examples=examples(analysis),
        troubled=[
            Troubled(place=describe(cell.place), state=cell.state, why=redact(cell.why))
            for one in analyses
            for cell in one.grid.troubled()
        ],
        remarks=[redact(remark) for remark in (*analysis.remarks, *_failed_stages(grid))],
        n_cells=sum(len(one.grid.cells) for one in analyses),
        evaluations=side_by_side(analyses),
    )


def _tuning(grid: Grid) -> list[Table]:
    """Of each search for settings behind the methods."""
    fingerprint = str(grid.dataset.get("fingerprint", ""))
    tables = [(search_table(search, fingerprint), chosen_table(search)) for search in grid.searches]
    return [table for pair in tables for table in pair if table is not None]


def make_source(run: RunFolder, grid: Grid) -> Source:
    """What the page says about where one run comes from."""
    return Source(
        name=f"{grid.name}, seeds {listed([str(seed) for seed in grid.seeds])}",
        protocol=_protocol(run, grid),
        settings=facts(run.config),
        environment=facts(run.environment),
        audit=_audit(run.audit, len(run.rows)),
        command=_command(run, grid),
    )


def subtitle(grids: Sequence[Grid]) -> str:
    """What was run, in one line."""
    grid = grids[0]
    parts = [counted(len(grids), "dataset")] if len(grids) > 1 else []
    parts += [counted(len(grid.methods), "method"), counted(len(grid.fractions), "label fraction")]
    parts.append(f"{counted(len(grid.folds), 'fold')} × {counted(len(grid.seeds), 'seed')}")
    for key, what in (("n_labelled", "labelled volumes"), ("n_pool", "unlabelled volumes")):
        count = grid.dataset.get(key)
        if count and len(grids) == 1:
            parts.append(f"{count} {what}")
    return " · ".join(parts)


def render(page: Page) -> str:
    """The page as one HTML file that needs nothing else."""
    folder = resources.files("voxbench.reports") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["data_uri"] = _data_uri
    environment.filters["width"] = _width
    template = environment.from_string((folder / "index.html.j2").read_text(encoding="utf-8"))
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return template.render(page=page, style=style)


def _data_uri(plot: Plot) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode()


def _width(plot: Plot) -> int:
    """Width in CSS pixels, from the points that the SVG states."""
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', plot.svg)
    return round(float(found.group(1)) * 96 / 72) if found else 480


def _phantom(grid: Grid) -> str:
    if not grid.dataset.get("is_phantom"):
        return ""
    made = "real anatomy with findings made by a program" if real_images(grid.dataset) else "made by a program"
    return f"{grid.name} is a phantom: {made}; nothing about patients follows from it."


def _failed_stages(grid: Grid) -> list[str]:
    return [
        f"pretraining stage {stage.name} of {stage.method}, seed {stage.seed}: failed: {stage.error}"
        for stage in grid.stages
        if stage.status == "failed"
    ]


def _protocol(run: RunFolder, grid: Grid) -> list[tuple[str, str]]:
    shown = [
        ("Data", str(grid.dataset.get("about") or "")),
        ("Protocol", listed(sorted({row.protocol for row in run.rows}))),
        ("Encoder", listed(sorted({row.encoder for row in run.rows}))),
        ("Methods", ", ".join(grid.methods)),
        ("Label fractions", ", ".join(f"{100 * fraction:g} %" for fraction in grid.fractions)),
        ("Folds", str(len(grid.folds)) if len(grid.folds) > 1 else "1 (one split)"),
        ("Seeds", ", ".join(map(str, grid.seeds))),
        ("Classes", ", ".join(grid.classes)),
        ("Volume", _volume(grid.dataset.get("shape") or ())),
        ("Data fingerprint", str(grid.dataset.get("fingerprint", ""))[:16]),
    ]
    return [(name, text) for name, text in shown if text]


def _volume(shape: Sequence[int]) -> str:
    """[C, D, H, W] as a reader says it."""
    if len(shape) != 4:
        return ""
    channels, *sizes = shape
    return f"{' × '.join(map(str, sizes))} voxels (x, y, z), {counted(channels, 'channel')}"


def _audit(record: Any, rows: int) -> Audit:
    if not isinstance(record, Mapping):
        verdict = "This run folder has no leak audit: do not trust its scores before one was made."
        return Audit(passed=False, verdict=verdict, checks=())
    clean = record.get("outcome") == "clean"
    parts = {name: record[name] for name in ("planned", "served") if isinstance(record.get(name), Mapping)}
    checks = [line for name, part in (parts or {"": record}).items() for line in _checks(name, part)]
    checks += _reach(record)
    verdict = "Clean: no test patient, and no copy of a test volume, in anything that shaped a scored model."
    covered = record.get("n_cells")
    if not clean:
        verdict = "The audit found a leak: these scores are not honest."
    elif isinstance(covered, int) and covered < rows:
        clean = False
        verdict = f"The audit covers {covered} of {rows} cells: run the same command again, and it covers all."
    return Audit(passed=clean, verdict=verdict, checks=tuple(redact(check) for check in checks))


def _checks(name: str, part: Mapping[str, Any]) -> list[str]:
    """The checks of the audit's part `name` (what was planned, what was served), each with its count."""
    before = f"{name}: " if name else ""
    lines = [
        f"{before}{c.get('what')}, {c.get('comparisons')} comparisons of two sets" for c in part.get("checks") or ()
    ]
    for kind in ("findings", "warnings"):
        lines += [f"{before}{kind[:-1]}: {_leak(one)}" for one in part.get(kind) or ()]
    return lines


def _reach(record: Mapping[str, Any]) -> list[str]:
    """Which copies the audit can find, and what nobody can prove of the data."""
    near = record.get("near_duplicates")
    if not isinstance(near, Mapping):
        lines = [
            "when this run was made, copies that were moved, turned, rescaled or flipped up-down were not looked for"
        ]
    elif looked_for := near.get("looked_for"):
        lines = [f"copies of one volume under two patients were looked for: {'; '.join(map(str, looked_for))}"]
    else:
        lines = ["copies that are not equal were not looked for (audit.near_duplicates=off)"]
    return lines + ([f"not provable: {record['caveat']}"] if record.get("caveat") else [])


def _leak(found: Mapping[str, Any]) -> str:
    """Of a finding only where and how many: the volumes' codes stay in audit.json."""
    return f"{found.get('where')}: {found.get('what')}, {counted(int(found.get('n', 0)), 'pair')}"


def _command(run: RunFolder, grid: Grid) -> str:
    """config.yaml is a preset that holds all but the methods; where data lie is nobody else's business."""
    commit = run.environment.get("git_commit")
    checkout = f"git checkout {commit}\n" if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,40}", commit) else ""
    specs = run.config.get("sources") or {}
    names = dict.fromkeys(row.partition("@")[0] for row in grid.methods)  # config.yaml has the further encoders
    methods = [_beside(specs[name], name) if name in specs else name for name in names]
    words = ["bench", "run", "--preset", "RUN/config.yaml", "--methods", ",".join(methods), "--out", "AGAIN"]
    return f"{checkout}{shlex.join(words)}"


def _beside(spec: str, row: str) -> str:
    """A method's file without the folder in which it lies; of a sweep's row with the option that it sets."""
    file, _, name = str(spec).rpartition(":")
    _, mark, option = row.partition("~")
    return f"{PurePath(file).name}:{name}{mark}{option}"
