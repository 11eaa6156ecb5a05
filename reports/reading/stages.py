"""The records of pretraining stages in a run folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from voxbench.reports.reading.documents import read_json
from voxbench.reports.reading.results import Diagnosis, Stage


def read_stages(folder: Path, standing: Set[str], remarks: list[str]) -> Iterator[Stage]:
    """The `standing` stages: a folder also keeps those of settings and versions that were replaced since."""
    for path in sorted(folder.glob("*/stage.json")):
        if path.parent.name not in standing:
            continue
        try:
            record = read_json(path, needed=True)
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
