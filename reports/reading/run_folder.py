"""Read a run folder (docs/run-folder.md) into plain values, and say clearly what is wrong where it cannot
be read.

Nothing of `private/` is read here, and nothing here knows a model or a volume.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


EVALUATIONS = {"finetune": "fine-tuning", "linear": "linear probe", "knn": "kNN"}  # in the order of a report
OWN = "own"  # of a method that brings its own predictor


class ReportError(Exception):
    """A run folder cannot be reported on; the message is one line for the user and needs no traceback."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a cell stands in the grids of one dataset, of which each evaluation has one."""

    method: str
    fraction: float
    fold: int
    seed: int
    evaluation: str = "finetune"  # or "linear", "knn"; "own" of a predictor's row

    @property
    def replicate(self) -> tuple[int, int]:
        """(fold, seed): cells of two methods with the same replicate are a pair."""
        return (self.fold, self.seed)


@dataclass(frozen=True, kw_only=True)
class Units:
    """The scored test units of one cell, n of them."""

    volumes: tuple[str, ...]  # salted
    patients: tuple[str, ...]  # salted
    labels: Ints  # [n]
    scores: Floats  # [n, 1] probability of the positive class, or [n, classes]
    findings: tuple[str, ...]  # "" where not known
    predicted: Ints | None  # [n] the class that was called; None where predictions.csv does not tell


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of results.csv: what a cell cost and whether it came to an end. Numbers not given are NaN."""

    place: Place
    role: str  # "method", "baseline" or "yardstick"; "" in a folder of before rows had one
    encoder: str
    protocol: str
    status: str  # "ok" or "failed"
    metrics: Mapping[str, float]
    n_train_labels: float
    n_val_labels: float
    n_normal_labels: float
    n_labels_spent: float
    pretrain_seconds: float
    finetune_seconds: float
    peak_memory_mb: float
    device: str
    collapsed: bool
    falling: bool  # fine-tuning ended before its loss had flattened
    error: str
    key: str
    stages: tuple[str, ...]  # keys of the pretraining stages that it builds on
    start: str = ""  # what its encoder began with, where that is not the common initialisation
    pretrain_volumes: float = math.nan  # passed through the encoder forward and backward
    pretrain_forward: float = math.nan  # passed forward only, such as through a target network


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The encoder after a stage beside the one that it began with."""

    n_labels: float
    probe: Mapping[str, float]  # AUPRC out of fold, `auprc` and `initial`; of their difference `low` and `high`
    initial: Mapping[str, float]  # `rankme`, `alignment`, `uniformity`
    trained: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One pretraining stage as `stages/<key>/stage.json` tells it."""

    key: str
    method: str
    name: str
    budget: str  # whose it was: "pretrain" or "prior"; "" in a folder that does not tell
    seed: int
    status: str
    curve: tuple[Mapping[str, Any], ...]
    collapse: float | None
    collapsed: bool
    seconds: float
    localisation: float  # mean voxel AUPRC of the stage's residual against the lesion; NaN where not known
    localisation_median: float  # the same of the difference from the median image of the stage's volumes
    localisation_chance: float
    error: str
    folder: Path
    diagnosis: Diagnosis | None = None  # None in a folder of before, and of a stage that does not train the encoder


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """All that a report needs of one run."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    dataset: Mapping[str, Any]
    audit: Any  # as written; None where there is none
    rows: tuple[Row, ...]
    units: Mapping[Place, Units]
    stages: tuple[Stage, ...]
    remarks: tuple[str, ...] = field(default=())  # what could not be read but does not stop a report

    @property
    def dataset_name(self) -> str:
        """The name that the run gives its dataset."""
        return str(self.dataset.get("name", "unnamed"))

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Those that were asked for or have a row; the first is the main one, where predictors' rows stand too."""
        asked = (self.config.get("protocol") or {}).get("evaluate") or ["finetune"]
        found = {row.place.evaluation for row in self.rows}
        return tuple(name for name in EVALUATIONS if name in asked or name in found)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return tuple(str(name) for name in self.dataset.get("classes", ()))


METRICS = ("auprc", "auroc", "balanced_accuracy", "f1", "brier", "prevalence")
PLACE = ("method", "fraction", "fold", "seed")
ROW_COLUMNS = ("dataset", "encoder", "protocol", "status", *PLACE, "error", "key")
PREDICTIONS = "predictions.csv"
PREDICTION_COLUMNS = (*PLACE, "volume", "patient", "label")


def read_run(path: Path) -> RunFolder:
    """Read the run folder at `path`. Raises ReportError with the file and what to do."""
    if not path.is_dir():
        raise ReportError(f"{path}: no such folder; give the folder that `bench run --out` wrote")
    dataset = _json(path / "dataset.json", needed=True)
    remarks: list[str] = []
    _check_seals(path)
    rows = _rows(path / "results.csv", remarks)
    return RunFolder(
        path=path,
        config=_yaml(path / "config.yaml"),
        environment=_json(path / "environment.json", needed=False) or {},
        dataset=dataset,
        audit=_json(path / "audit.json", needed=False),
        rows=rows,
        units=_units(_predictions(path), len(dataset.get("classes", ())), remarks),
        stages=tuple(_stages(path / "stages", {key for row in rows for key in row.stages}, remarks)),
        remarks=tuple(remarks),
    )


def _predictions(run: Path) -> Path:
    """The scores; packed where the folder is an exported one."""
    packed = run / f"{PREDICTIONS}.gz"
    return packed if packed.is_file() and not (run / PREDICTIONS).is_file() else run / PREDICTIONS


def _check_seals(run: Path) -> None:
    """Raises ReportError for a table that is not as `bench run` wrote it; folders of before have no seals."""
    seals = _json(run / "tables.json", needed=False)
    for name, seal in (seals if isinstance(seals, dict) else {}).items():
        path = _predictions(run) if name == PREDICTIONS else run / name
        if path.is_file() and hashlib.sha256(_content(path)).hexdigest() != seal:
            raise ReportError(
                f"{path}: is not as `bench run` wrote it (tables.json has its checksum); run the same `bench run` "
                "again to write it anew"
            )


def _json(path: Path, *, needed: bool) -> Any:
    if not path.is_file():
        if needed:
            raise ReportError(f"{path}: not found; a run folder has one, `bench run --out` writes it")
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: is no JSON ({error}); run the same `bench run` again to write it anew") from error


def _yaml(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ReportError(f"{path}: not found; a run folder has one, `bench run --out` writes it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise ReportError(f"{path}: is no YAML ({line}); run the same `bench run` again to write it anew") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path}: holds no settings; run the same `bench run` again to write it anew")
    return content


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(io.BytesIO(_content(path)), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: is no CSV ({error}); run the same `bench run` again to write it anew") from error
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise ReportError(f"{path}: has no column {', '.join(lacking)}; see docs/run-folder.md")
    return table.fillna("")  # a line cut short


def _content(path: Path) -> bytes:
    """The bytes of a table. Raises ReportError for a packed one that cannot be unpacked."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ReportError(f"{path}: cannot be unpacked ({error}); export the run again") from error


def _number(text: object, path: Path, line: int, column: str) -> float:
    written = str(text).strip()
    if not written:
        return math.nan
    try:
        return float(written)
    except ValueError:
        raise ReportError(f"{path}: line {line}: {column} is {written!r}, not a number") from None


def _place(row: Mapping[str, Any], path: Path, line: int) -> Place:
    fraction, fold, seed = (_number(row[name], path, line, name) for name in ("fraction", "fold", "seed"))
    if not all(map(math.isfinite, (fraction, fold, seed))) or not row["method"]:
        raise ReportError(f"{path}: line {line}: method, fraction, fold and seed must all be there; is the file whole?")
    evaluation = str(row.get("evaluation") or "finetune")  # a folder of before has no such column
    return Place(str(row["method"]), fraction, int(fold), int(seed), evaluation)


def _rows(path: Path, remarks: list[str]) -> tuple[Row, ...]:
    if not path.is_file():
        raise ReportError(f"{path}: not found, no cell is done yet; run `bench run --out {path.parent}` first")
    table = _table(path, ROW_COLUMNS)
    rows = [
        _row({str(name): value for name, value in record.items()}, path, line)
        for line, record in enumerate(table.to_dict("records"), start=2)
    ]
    if not rows:
        raise ReportError(f"{path}: has no rows, no cell is done yet; run `bench run --out {path.parent}` first")
    seen: set[Place] = set()
    for line, row in enumerate(rows, start=2):
        if row.place in seen:
            raise ReportError(f"{path}: line {line}: {row.place} is there twice; one run has one result a cell")
        seen.add(row.place)
    stages = [_built_on(path.parent / "cells" / row.place.method / f"{row.key}.json") for row in rows]
    if None in stages:
        remarks.append(
            f"cells/: {stages.count(None)} of {len(rows)} results have no readable record there, so pretraining that "
            "only they build on is not shown"
        )
    return tuple(replace(row, stages=keys or ()) for row, keys in zip(rows, stages, strict=True))


def _built_on(record: Path) -> tuple[str, ...] | None:
    """The stages that a cell's record names; None where it cannot be read."""
    try:
        return tuple(map(str, json.loads(record.read_text(encoding="utf-8"))["stages"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _row(record: Mapping[str, Any], path: Path, line: int) -> Row:
    def number(name: str) -> float:
        return _number(record.get(name, ""), path, line, name)

    if record["status"] not in ("ok", "failed"):
        raise ReportError(f"{path}: line {line}: status is {record['status']!r}; it must be ok or failed")
    return Row(
        place=_place(record, path, line),
        role=str(record.get("role", "")),
        encoder=str(record["encoder"]),
        protocol=str(record["protocol"]),
        status=str(record["status"]),
        metrics={name: number(name) for name in METRICS},
        n_train_labels=number("n_train_labels"),
        n_val_labels=number("n_val_labels"),
        n_normal_labels=number("n_normal_labels"),
        n_labels_spent=number("n_labels_spent"),
        pretrain_seconds=number("pretrain_seconds"),
        finetune_seconds=number("finetune_seconds"),
        peak_memory_mb=number("peak_memory_mb"),
        device=str(record.get("device", "")),
        collapsed=str(record.get("collapsed", "")).lower() == "true",
        falling=str(record.get("falling", "")).lower() == "true",
        error=str(record["error"]),
        key=str(record["key"]),
        stages=(),
        start=str(record.get("start", "")),
        pretrain_volumes=number("pretrain_volumes"),
        pretrain_forward=number("pretrain_forward"),
    )


def _units(path: Path, n_classes: int, remarks: list[str]) -> dict[Place, Units]:
    """Scored units by place. A cell whose scores are not finite is left out, and a remark says so."""
    if not path.is_file():
        return {}
    table = _table(path, PREDICTION_COLUMNS)
    columns = ["score"] if "score" in table.columns else [f"score_{index}" for index in range(n_classes)]
    lacking = [name for name in columns if name not in table.columns]
    if lacking:
        raise ReportError(f"{path}: has no column {', '.join(lacking)}; see docs/run-folder.md")
    for name in ("label", "predicted", *columns):
        if name in table:
            table[name] = _column(table[name], path)
    found: dict[Place, Units] = {}
    places = [*PLACE, *(["evaluation"] if "evaluation" in table else [])]
    for _, group in table.groupby(places, sort=False):
        line = int(group.index[0]) + 2
        place = _place({str(k): v for k, v in group.iloc[0].to_dict().items()}, path, line)
        units = _cell_units(group, columns, path, line)
        if len(set(units.volumes)) < len(units.volumes):
            raise ReportError(f"{path}: line {line}: {place} scores a unit twice; run the same `bench run` again")
        for what, classes in (("label", units.labels), ("predicted class", units.predicted)):
            if n_classes and classes is not None and not set(classes) <= set(range(n_classes)):
                raise ReportError(
                    f"{path}: line {line}: a {what} is not one of the {n_classes} classes of dataset.json"
                )
        if not np.isfinite(units.scores).all():
            remarks.append(f"{describe(place)}: scores are not finite, so the cell is left out")
            continue
        found[place] = units
    return found


def _column(texts: pd.Series[str], path: Path) -> pd.Series[float]:
    """A column as numbers; empty and "nan" are NaN. Raises ReportError at the first text that is no number."""
    texts = texts.str.strip()
    values = pd.to_numeric(texts, errors="coerce")
    wrong = values.isna() & ~texts.str.lower().isin(["", "nan"])
    if wrong.any():
        line = int(np.flatnonzero(wrong.to_numpy())[0])
        raise ReportError(
            f"{path}: line {line + 2}: {texts.name} is {texts.iloc[line]!r}, not a number; is the file whole?"
        )
    return values


def _cell_units(group: pd.DataFrame, columns: Sequence[str], path: Path, line: int) -> Units:
    def numbers(name: str) -> Floats:
        return group[name].to_numpy(dtype=np.float64)

    labels = numbers("label")
    if not np.isfinite(labels).all():
        raise ReportError(f"{path}: from line {line}: a scored unit has no label; is the file whole?")
    scores = np.stack([numbers(name) for name in columns], axis=1)
    return Units(
        volumes=tuple(group["volume"]),
        patients=tuple(group["patient"]),
        labels=labels.astype(np.int64),
        scores=scores,
        findings=tuple(group["finding"]) if "finding" in group else ("",) * len(group),
        predicted=_predicted(group, scores),
    )


def _predicted(group: pd.DataFrame, scores: Floats) -> Ints | None:
    """The class called of each unit; of several classes the most probable one, which an older folder leaves to us."""
    if "predicted" in group and np.isfinite(group["predicted"].to_numpy(dtype=np.float64)).all():
        return group["predicted"].to_numpy(dtype=np.int64)
    return None if scores.shape[1] == 1 else scores.argmax(axis=1)


def _stages(folder: Path, standing: Set[str], remarks: list[str]) -> Iterator[Stage]:
    """The `standing` stages: a folder also keeps those of settings and versions that were replaced since."""
    for path in sorted(folder.glob("*/stage.json")):
        if path.parent.name not in standing:
            continue
        try:
            record = _json(path, needed=True)
        except PermissionError:
            remarks.append(f"stages/{path.parent.name}/stage.json: left out, there is no right to read it")
            continue
        if error := record.get("showcase_error"):
            remarks.append(f"stage {record.get('stage')} of {record.get('method')} shows no slices: {error}")
        if error := record.get("diagnosis_error"):
            remarks.append(
                f"stage {record.get('stage')} of {record.get('method')}: whether it learnt is not known: {error}"
            )
        collapse = record.get("collapse")
        try:
            yield Stage(
                key=str(record["key"]),
                method=str(record["method"]),
                name=str(record["stage"]),
                budget=str(record.get("budget") or ""),
                seed=int(record["seed"]),
                status=str(record["status"]),
                curve=tuple(record.get("curve") or ()),
                collapse=None if collapse is None else float(collapse),
                collapsed=bool(record.get("collapsed")),
                seconds=_or_nan(record.get("seconds")),
                localisation=_or_nan(record.get("localisation")),
                localisation_median=_or_nan(record.get("localisation_median")),
                localisation_chance=_or_nan(record.get("localisation_chance")),
                error=str(record.get("error") or ""),
                folder=path.parent,
                diagnosis=_diagnosis(record.get("diagnosis")),
            )
        except (KeyError, TypeError, ValueError) as error:
            remarks.append(f"stages/{path.parent.name}/stage.json: left out, {error!r} is missing or malformed")


def _diagnosis(record: Any) -> Diagnosis | None:
    if not isinstance(record, Mapping):
        return None
    shapes = record["representation"]
    initial, trained = (
        {name: _or_nan(shapes[which].get(name)) for name in ("rankme", "alignment", "uniformity")}
        for which in ("initial", "trained")
    )
    probe = record.get("probe") or {}
    return Diagnosis(
        n_labels=_or_nan(record.get("n_labels")),
        probe={name: _or_nan(probe.get(name)) for name in ("auprc", "initial", "low", "high")},
        initial=initial,
        trained=trained,
    )


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def describe(place: Place) -> str:
    """A cell in words."""
    by = f", {EVALUATIONS[place.evaluation]}" if place.evaluation in EVALUATIONS.keys() - {"finetune"} else ""
    return f"{place.method}{by} at {percent(place.fraction)}, fold {place.fold}, seed {place.seed}"


def titled(evaluation: str) -> str:
    """An evaluation at the beginning of a line: `Linear probe`, `kNN`."""
    name = EVALUATIONS[evaluation]
    return name if name[1].isupper() else f"{name[0].upper()}{name[1:]}"


def percent(fraction: float) -> str:
    """A label fraction as a reader says it: `10 %`, `2.5 %`."""
    return f"{100 * fraction:.4g} %"
