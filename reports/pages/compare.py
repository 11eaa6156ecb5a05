"""Several runs in one report: other seeds, datasets or machines, never another protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from voxbench.reports.pages.across import across_datasets
from voxbench.reports.pages.report import Report, evaluated, write_pages
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.results import Place, ReportError, Row, RunFolder, Stage, Units, describe
from voxbench.reports.reading.run_folder import read_run
from voxbench.reports.reading.searches import searches

# What may differ between runs of one report: where data and files lie (what is in files is compared by digest), which
# part of the grid a run filled, what its audit refused: that decides whether a run comes to an end, not what it finds;
# and how its settings were chosen: they are compared themselves.
_FREE = (
    *("dataset", "sources", "encoder.source", "encoders", "audit", "tuned"),
    *("protocol.fractions", "protocol.seeds", "protocol.evaluate"),
)

_BUILT_IN, _NOT_TOLD = "built in", "not told"  # in place of a digest


def compare(runs: list[Path], out: Path) -> Report:
    """Merge `runs` into one report under `out` and return what to print.

    Runs of one dataset become one grid; several datasets stand side by side, with ranks over all of them. Raises
    ReportError where protocols differ (naming the key), where two runs have another result for the same cell, or where
    patients of one dataset are coded with different salts and so cannot be paired.
    """
    if len(runs) < 2:
        raise ReportError("give two run folders or more to compare; `bench report RUN` is for one")
    if len({path.resolve() for path in runs}) < len(runs):
        raise ReportError(f"{', '.join(map(str, runs))}: one folder stands twice; give different runs")
    folders = [read_run(path) for path in runs]
    for first, other in combinations(folders, 2):  # two runs may share a method that a third does not have
        _check_protocol(first, other)
    by_dataset: dict[str, list[RunFolder]] = {}
    for folder in folders:
        by_dataset.setdefault(folder.dataset_name, []).append(folder)
    merged = [_merge(same) for same in by_dataset.values()]
    analyses = [evaluated(run) for run in merged]
    main = [evaluations[0] for evaluations in analyses]
    sources = [(run, build_grid(run)) for run in folders]
    return write_pages(analyses, sources, out, across=across_datasets(main) if len(main) > 1 else None)


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested settings, without the keys that may differ."""
    if name in _FREE:
        return
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _settings(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _check_protocol(first: RunFolder, other: RunFolder) -> None:
    """Methods may differ between runs, but not the options of a method that both have.

    The recipe of a kind of stage divides runs only where both have a method with such a stage.
    """
    ours, theirs = dict(_settings(first.config)), dict(_settings(other.config))
    if first.dataset.get("official_split") and other.dataset.get("official_split"):
        for settings in (ours, theirs):
            settings.pop("protocol.folds", None)  # planned, but never made
    shared = set(first.config.get("methods") or ()) & set(other.config.get("methods") or ())
    used = _budgets(first) & _budgets(other)
    for key in sorted(ours.keys() | theirs.keys()):
        section, _, rest = key.partition(".")
        if section in ("methods", "recipes") and rest.split(".")[0] not in shared:
            continue
        if section in ("prior", "pretrain") and section not in used:
            continue
        if ours.get(key) != theirs.get(key):
            raise ReportError(
                f"{other.path}: incompatible with {first.path}: {key} is {_said(theirs, key)} there and "
                f"{_said(ours, key)} here; compare runs of one protocol"
            )
    _check_files(first, other)
    versions = [run.environment.get("result_version") for run in (first, other)]
    if versions[0] != versions[1]:
        raise ReportError(
            f"{other.path}: incompatible with {first.path}: result_version is {versions[1]} there and {versions[0]} "
            "here; run the older one again"
        )


def _budgets(run: RunFolder) -> set[str]:
    """Whose recipes the stages behind the run's cells had; both where the folder does not tell."""
    told = {stage.key: stage.budget for stage in run.stages}
    behind = {told.get(key, "") for row in run.rows for key in row.stages}
    return {"prior", "pretrain"} if "" in behind else behind


def _check_files(first: RunFolder, other: RunFolder) -> None:
    """The same name must stand for the same file or package in both runs."""
    ours, theirs = _digests(first), _digests(other)
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name] or _NOT_TOLD in ours[name]:
            here, there = (", ".join(sorted(digests[name])) for digests in (ours, theirs))
            raise ReportError(
                f"{other.path}: incompatible with {first.path}: the source of {name} is {there} there and {here} here; "
                "run one of them again"
            )


def _digests(run: RunFolder) -> Mapping[str, frozenset[str]]:
    """Digests of the sources of methods and encoder, as the records of the standing cells tell them.

    Of what comes from a file it must be told; what else an older folder does not tell is not compared.
    """
    encoder = run.config.get("encoder") or {}
    found: dict[str, set[str]] = {f"method {name}": {_NOT_TOLD} for name in run.config.get("sources") or ()}
    if encoder.get("source"):
        found[f"encoder {encoder.get('name')}"] = {_NOT_TOLD}
    for row in run.rows:
        try:
            record = json.loads((run.path / "cells" / row.place.method / f"{row.key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a folder without its records still has its tables
        for name, key in (
            (f"method {row.place.method}", "source"),
            (f"encoder {row.encoder}", "encoder_digest"),
        ):
            if key in record:
                found[name] = found.get(name, set()) - {_NOT_TOLD} | {record[key] or _BUILT_IN}
    return {name: frozenset(digests) for name, digests in found.items()}


def _said(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"


def _merge(runs: Sequence[RunFolder]) -> RunFolder:
    """Runs of one dataset as if they were one."""
    first = runs[0]
    rows: dict[Place, Row] = {}
    units: dict[Place, Units] = {}
    stages: dict[str, Stage] = {}
    for run in runs:
        if run.dataset.get("fingerprint") != first.dataset.get("fingerprint"):
            raise ReportError(
                f"{run.path}: incompatible with {first.path}: dataset fingerprint of {run.dataset_name} is "
                f"{run.dataset.get('fingerprint')!r} there and {first.dataset.get('fingerprint')!r} here; the "
                f"data differ"
            )
        _check_patients(first, run)
        for row in run.rows:
            known = rows.get(row.place)
            if known is not None and "ok" == known.status == row.status and known.key != row.key:
                raise ReportError(
                    f"{run.path}: {describe(row.place)} has another result in an earlier run (key {known.key!r} and "
                    f"{row.key!r}); give only one of the two"
                )
            if known is None or (known.status == "failed" and row.status == "ok"):
                rows[row.place] = row
                units.pop(row.place, None)
                if row.place in run.units:
                    units[row.place] = run.units[row.place]
        for stage in run.stages:
            if stage.key not in stages or stages[stage.key].status != "ok":
                stages[stage.key] = stage
    protocols = [run.config.get("protocol") or {} for run in runs]
    joined = {
        name: sorted({value for protocol in protocols for value in protocol.get(name) or ()})
        for name in ("fractions", "seeds")
    }
    joined["evaluate"] = list(dict.fromkeys(name for run in runs for name in run.evaluations))
    options, recipes = (
        {name: own for run in runs for name, own in (run.config.get(key) or {}).items()}
        for key in ("methods", "recipes")
    )
    tuned = [search for run in runs for search in searches(run.config)]
    found = [search for number, search in enumerate(tuned) if search not in tuned[:number]]
    return replace(
        first,
        config={
            **first.config,
            "methods": options,
            "recipes": recipes,
            "searches": found,
            "protocol": {**protocols[0], **joined},
        },
        rows=tuple(rows.values()),
        units=units,
        stages=tuple(stages.values()),
        remarks=tuple(dict.fromkeys(remark for run in runs for remark in run.remarks)),
    )


def _check_patients(first: RunFolder, other: RunFolder) -> None:
    ours, theirs = (
        {patient for units in run.units.values() for patient in np.unique(units.patients)} for run in (first, other)
    )
    if ours and theirs and not ours & theirs:
        raise ReportError(
            f"{other.path}: codes the patients of {other.dataset_name} with another salt than {first.path}, so they "
            "cannot be paired; run both with the same VOXBENCH_SALT (each keeps its own in RUN/private/salt)"
        )
