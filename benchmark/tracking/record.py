"""From the records in a run folder to what W&B shall show of them. Pure: reads files, knows nothing of W&B."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from sklearn.metrics import precision_recall_curve

from voxbench.benchmark.records.store import read_json
from voxbench.benchmark.settings.config import OWN
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import digest
from voxbench.benchmark.tracking.outgoing import Redactor, error_name, outgoing_report, public_settings, without_paths

Kind = Literal["stage", "cell", "summary"]
PROVENANCE = ("result_version", "packages", "git_commit", "python", "platform", "device", "cuda")
DATA = ("name", "classes", "shape", "is_phantom", "official_split", "n_labelled", "n_labelled_patients", "n_pool")
COUNTS = (
    "n_volumes",
    "n_normal_labels",
    "volumes_per_step",
    "steps",
    "localisation",
    "localisation_median",
    "localisation_chance",
)
CURVE_POINTS = 400  # of a precision-recall curve, at most
NOT_SHOWN = ("error", "key")  # columns of results.csv


@dataclass(frozen=True, kw_only=True)
class TableData:
    """Columns and rows."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One W&B run: everything that is sent of one stage, one cell, or the whole."""

    kind: Kind
    id: str  # the same on every machine, whenever it is made
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)  # each with its "step"
    summary: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    tables: dict[str, TableData] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # path in the artifact -> SHA-256

    @property
    def digest(self) -> str:
        """Changes whenever anything that is sent changes."""
        return digest(asdict(self))


class Records:
    """A run folder, read for W&B."""

    def __init__(self, run: Path) -> None:
        self.run = run
        config = run / "config.yaml"
        self.config: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else {}
        data = read_json(run / "dataset.json") or {}
        self.data = without_paths({key: data[key] for key in DATA if key in data})
        shared = _without_grid(self.config)
        mark = digest([shared, data.get("fingerprint")], 8)
        self.experiment = f"{self.data.get('name', 'dataset')}-{mark}"
        """Equal for runs whose results may stand in one table, wherever they were made."""
        self.shared = shared

    def paths(self) -> list[Path]:
        """Records of finished jobs, stages first; not those that a newer result has replaced in ``results.csv``."""
        stages = sorted((self.run / "stages").glob("*/stage.json"))
        cells = sorted((self.run / "cells").glob("*/*.json"))
        return [*stages, *cells]

    def entry(self, path: Path) -> Entry | None:
        """What W&B shows of one record; None for one that is gone or replaced. Raises BenchError for a damaged one."""
        record = read_json(path)
        if record is None:
            return None
        if path.name == "stage.json":
            return None if self._left_behind(path, record) else self._stage(record)
        return None if self._replaced(path, record) else self._cell(record)

    def summary(self) -> Entry | None:
        """The tables and the report; None before there are results. Copies the report to ``RUN/wandb/report``."""
        rows = self.rows
        if not rows:
            return None
        redactor = Redactor(self.run)
        files = outgoing_report(self.run, redactor)
        root = self.run / "wandb" / "report"
        columns = [name for name in rows[0] if name not in NOT_SHOWN]
        results = TableData(columns=columns, rows=[[_value(row[name]) for name in columns] for row in rows])
        tables = {"results": results, "label_fraction": label_fraction(rows)}
        for path in files:
            if path.suffix == ".csv":
                tables[f"report_{path.stem}"] = _read_table(path)
        done = [row for row in rows if row["status"] == "ok"]
        environment = _provenance(read_json(self.run / "environment.json") or {})
        return Entry(
            kind="summary",
            id=f"summary-{digest([self.experiment, 'summary'])}",
            name=f"{self.experiment} summary",
            group=self.experiment,
            job_type="summary",
            tags=("summary",),
            config={
                "kind": "summary",
                "experiment": self.experiment,
                "data": self.data,
                "settings": public_settings(self.config),
                "environment": environment,
            },
            summary={
                "cells": len(rows),
                "cells_failed": len(rows) - len(done),
                "audit": (read_json(self.run / "audit.json") or {}).get("outcome"),
            },
            failed=not done,
            tables=tables,
            files={str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        )

    def _stage(self, record: Mapping[str, Any]) -> Entry:
        method, stage = record.get("method"), record.get("stage")
        names = {"method": method, "stage": stage, "seed": record.get("seed"), "fold": record.get("fold")}
        if method is None:  # the record of a failed stage has no more than its key and its error
            names = {"method": "failed", "stage": str(record["key"])}
        values = {
            **_outcome(record),
            "collapse": record.get("collapse"),
            "cost/seconds": record.get("seconds"),
            **{key: record.get(key) for key in COUNTS},
        }
        return self._entry("stage", record, names, f"stage {names['stage']}", "pretrain", values)

    def _cell(self, record: Mapping[str, Any]) -> Entry:
        names = dict(record["cell"])
        share = f"{names['fraction']:.4g}"
        values = {
            **_outcome(record),
            **(record.get("metrics") or {}),
            "threshold": record.get("threshold"),
            "best_step": record.get("best_step"),
            **{f"labels/{key[2:]}": value for key, value in (record.get("labels") or {}).items()},
            **{f"cost/{key}": value for key, value in (record.get("costs") or {}).items()},
        }
        by = names.get("evaluation", "finetune")
        job_type = f"fraction {share}" if by in ("finetune", OWN) else f"fraction {share} {by}"
        entry = self._entry("cell", record, names, job_type, "finetune", values)
        if record.get("scores"):
            entry.tables["pr_curve"] = pr_curve(record["scores"], self.data.get("classes") or [])
        return entry

    def _entry(
        self,
        kind: Kind,
        record: Mapping[str, Any],
        names: Mapping[str, Any],
        job_type: str,
        prefix: str,
        values: Mapping[str, Any],
    ) -> Entry:
        method = str(names["method"])
        place = [job_type.removeprefix("fraction ")]
        place += [f"{key} {names[key]}" for key in ("fold", "seed") if names.get(key) is not None]
        config = {
            "kind": kind,
            "experiment": self.experiment,
            **names,
            "key": record["key"],
            "builds_on": record.get("stages", record.get("upstream", [])),
            "data": self.data,
            "settings": {
                **self.shared,
                "method": _mapping(self.config.get("methods")).get(method, {}),
                "recipes": _mapping(self.config.get("recipes")).get(method, {}),
            },
            "environment": _provenance({"device": record.get("device"), **(record.get("provenance") or {})}),
        }
        collapsed = bool(record.get("collapsed"))
        return Entry(
            kind=kind,
            id=f"{kind}-{digest([self.experiment, record['key']])}",
            name=" ".join([method, *place]),
            group=f"{self.experiment} {method}",
            job_type=job_type,
            tags=(kind, *(["collapsed"] if collapsed else [])),
            config=without_paths(config),
            history=[_point(row, prefix) for row in record.get("curve") or []],
            summary={key: value for key, value in values.items() if value is not None},
            failed=record["status"] != "ok",
        )

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """``results.csv``."""
        path = self.run / "results.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @cached_property
    def collected(self) -> int:
        """When ``results.csv`` was written, in ns; 0 before. What is newer is of a run that goes on."""
        table = self.run / "results.csv"
        return table.stat().st_mtime_ns if table.exists() else 0

    def _left_behind(self, path: Path, record: Mapping[str, Any]) -> bool:
        """Whether no result in ``results.csv`` builds on the stage: of settings or a version since replaced."""
        return path.stat().st_mtime_ns <= self.collected and record["key"] not in self._built_on

    @cached_property
    def _built_on(self) -> set[str]:
        keys: set[str] = set()
        for row in self.rows:
            try:
                record = read_json(self.run / "cells" / row["method"] / f"{row['key']}.json") or {}
            except BenchError:  # damaged: the pass over the records says so
                continue
            keys |= set(record.get("stages") or ())
        return keys

    def _replaced(self, path: Path, record: Mapping[str, Any]) -> bool:
        if "cell" not in record:
            return True
        if path.stat().st_mtime_ns > self.collected:
            return False
        return bool(self._standing.get(_slot(record["cell"]), record["key"]) != record["key"])

    @cached_property
    def _standing(self) -> dict[tuple[str, float, int, int, str], str]:
        return {_slot(row): row["key"] for row in self.rows}


def pr_curve(scores: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> TableData:
    """Precision and recall at each threshold, one curve a class (the positive one of two): class, recall, precision."""
    labels = np.array([row["label"] for row in scores])
    values = np.array([row["scores"] for row in scores], dtype=np.float64)  # [N, K]
    watched = [1] if values.shape[1] == 2 else list(range(values.shape[1]))
    rows: list[list[Any]] = []
    for k in watched:
        precision, recall, _ = precision_recall_curve(labels == k, values[:, k])
        kept = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), CURVE_POINTS)).round().astype(int))
        name = classes[k] if k < len(classes) else f"class {k}"
        rows += [[name, float(recall[i]), float(precision[i])] for i in kept]
    return TableData(columns=["class", "recall", "precision"], rows=rows)


def label_fraction(rows: Sequence[Mapping[str, str]]) -> TableData:
    """Mean and standard deviation (n - 1) of AUPRC over folds and seeds, for each method and fraction, fine-tuned or of
    its own predictor."""
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if row["status"] == "ok" and row.get("evaluation", "") in ("", "finetune", OWN):
            groups.setdefault((row["method"], float(row["fraction"])), []).append(float(row["auprc"]))
    table = [
        [method, share, float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else None, len(v)]
        for (method, share), v in sorted(groups.items())
    ]
    return TableData(columns=["method", "fraction", "auprc", "std", "n"], rows=table)


def _point(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    values = {f"{prefix}/{key}": value for key, value in row.items() if key != "step" and value is not None}
    return {"step": int(row["step"]), **values}


def _outcome(record: Mapping[str, Any]) -> dict[str, Any]:
    failed = record["status"] != "ok"
    return {
        "status": record["status"],
        "error_kind": error_name(record) if failed else None,
        "collapsed": record.get("collapsed"),
        "cost/volumes_per_second": record.get("volumes_per_second"),
        "cost/peak_memory_mb": record.get("peak_memory_mb"),
    }


def _without_grid(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that all results of one table share."""
    shared = {key: value for key, value in config.items() if key not in ("methods", "sources", "recipes", "tuned")}
    if isinstance(shared.get("protocol"), Mapping):
        grid = ("fractions", "seeds", "evaluate")
        shared["protocol"] = {key: value for key, value in shared["protocol"].items() if key not in grid}
    return public_settings(shared)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in PROVENANCE if record.get(key) is not None}


def _slot(names: Mapping[str, Any]) -> tuple[str, float, int, int, str]:
    by = str(names.get("evaluation") or "finetune")  # a record of before does not tell, and its row does
    place = (str(names["method"]), float(names["fraction"]), int(names["fold"]), int(names["seed"]))
    return (*place, "finetune" if by == OWN else by)


def _read_table(path: Path) -> TableData:
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    columns = lines[0] if lines else []
    rows = [[_value(cell) for cell in line] for line in lines[1:] if len(line) == len(columns)]
    return TableData(columns=columns, rows=rows)


def _value(text: str) -> Any:
    """A field of a CSV file: a number, a text, or None where it is empty."""
    if text == "":
        return None
    try:
        return float(text)
    except ValueError:
        return text
