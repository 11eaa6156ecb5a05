"""The tables of a run folder, results.csv and predictions.csv: read, and held to what they must be."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxbench.reports.reading.documents import read_json
from voxbench.reports.reading.results import Floats, Ints, Place, ReportError, Row, Units, describe

METRICS = ("auprc", "auroc", "balanced_accuracy", "f1", "brier", "prevalence")
PLACE = ("method", "fraction", "fold", "seed")
ROW_COLUMNS = ("dataset", "encoder", "protocol", "status", *PLACE, "error", "key")
PREDICTIONS = "predictions.csv"
PREDICTION_COLUMNS = (*PLACE, "volume", "patient", "label")


def predictions_of(run: Path) -> Path:
    """The scores; packed where the folder is an exported one."""
    packed = run / f"{PREDICTIONS}.gz"
    return packed if packed.is_file() and not (run / PREDICTIONS).is_file() else run / PREDICTIONS


def check_seals(run: Path) -> None:
    """Raises ReportError for a table that is not as `bench run` wrote it; folders of before have no seals."""
    seals = read_json(run / "tables.json", needed=False)
    for name, seal in (seals if isinstance(seals, dict) else {}).items():
        path = predictions_of(run) if name == PREDICTIONS else run / name
        if path.is_file() and hashlib.sha256(_content(path)).hexdigest() != seal:
            raise ReportError(
                f"{path}: is not as `bench run` wrote it (tables.json has its checksum); run the same `bench run` "
                "again to write it anew"
            )


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


def read_rows(path: Path, remarks: list[str]) -> tuple[Row, ...]:
    """The cells of results.csv, with the stages that their records say they build on. Raises ReportError."""
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
        recomputed=str(record.get("recomputed", "")).lower() == "true",
        error=str(record["error"]),
        key=str(record["key"]),
        stages=(),
        start=str(record.get("start", "")),
        pretrain_volumes=number("pretrain_volumes"),
        pretrain_forward=number("pretrain_forward"),
    )


def read_units(path: Path, n_classes: int, remarks: list[str]) -> dict[Place, Units]:
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
