"""From the records in a run folder to ``results.csv`` and ``predictions.csv``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from voxbench.benchmark.planning.plan import Plan
from voxbench.benchmark.records.store import Store
from voxbench.benchmark.settings.config import OWN, Config
from voxbench.benchmark.settings.keys import RESULT_VERSION, digest
from voxbench.benchmark.training.evaluate import called

COLUMNS = [
    "dataset",
    "method",
    "encoder",
    "protocol",
    "fraction",
    "fold",
    "seed",
    "status",
    "auprc",
    "auroc",
    "balanced_accuracy",
    "f1",
    "brier",
    "prevalence",
    "n_train_labels",
    "n_val_labels",
    "n_normal_labels",
    "n_labels_spent",
    "n_test",
    "pretrain_seconds",
    "finetune_seconds",
    "peak_memory_mb",
    "device",
    "collapsed",
    "falling",
    "error",
    "key",
    "role",
    "start",
    "pretrain_volumes",
    "pretrain_forward",
    "evaluation",
    "recomputed",
]


def current_cells(store: Store, plan: Plan, config: Config) -> list[dict[str, Any]]:
    """The records that stand in the tables.

    Where the plan fills a slot (see `slot_of`), its own key counts; slots of earlier plans in the same folder are kept,
    unless the method, the encoder or voxbench itself has changed since.
    """
    planned = {(c.method, c.fraction, c.fold, c.seed, c.evaluation): key for key, c in plan.cells.items()}
    sources = {cell.method: cell.source for cell in plan.cells.values()}
    encoders = {row: digest(config.encoder_of(row).identity("encoders")) for row in config.rows}
    first = digest(config.encoder.identity("encoders"))
    found = [cell for cell in store.cells() if "cell" in cell and cell["result_version"] == RESULT_VERSION]
    fitted = {cell.method for cell in plan.cells.values() if cell.evaluation == OWN}
    found = [_told(cell, fitted) for cell in found]
    found = [cell for cell in found if cell.get("encoder_digest") == encoders.get(cell["cell"]["method"], first)]
    found = [cell for cell in found if planned.get(slot_of(cell), cell["key"]) == cell["key"]]
    found = [cell for cell in found if sources.get(cell["cell"]["method"], cell["source"]) == cell["source"]]
    return sorted(found, key=slot_of)


def _told(cell: dict[str, Any], fitted: Set[str]) -> dict[str, Any]:
    """With its evaluation, which a record of before there were several does not tell; `fitted` are methods."""
    evaluation = OWN if cell["cell"]["method"] in fitted else "finetune"
    return {**cell, "cell": {"evaluation": evaluation, **cell["cell"]}}


def slot_of(cell: Mapping[str, Any]) -> tuple[str, float, int, int, str]:
    """(method, fraction, fold, seed, evaluation)."""
    names = cell["cell"]
    return (names["method"], names["fraction"], names["fold"], names["seed"], names["evaluation"])


def write_tables(store: Store, cells: Sequence[Mapping[str, Any]]) -> None:
    """Writes both tables, sorted, so that equal results are equal files."""
    store.write_table("results.csv", COLUMNS, (_row(cell) for cell in cells))
    done = [cell for cell in cells if cell["status"] == "ok"]
    classes = max((len(cell["scores"][0]["scores"]) for cell in done), default=2)
    scores = ["score"] if classes == 2 else [f"score_{k}" for k in range(classes)]
    columns = ["method", "fraction", "fold", "seed", "volume", "patient", "label", *scores]
    columns += ["predicted", "finding", "evaluation"]
    store.write_table("predictions.csv", columns, _prediction_rows(done, scores))
    store.seal_tables("results.csv", "predictions.csv")


def _row(cell: Mapping[str, Any]) -> dict[str, Any]:
    labels, costs = cell["labels"], cell.get("costs", {})
    row = {
        **cell["cell"],
        "status": cell["status"],
        **cell.get("metrics", {}),
        "n_train_labels": labels["n_train"],
        "n_val_labels": labels["n_val"],
        "n_normal_labels": labels["n_normal"],
        "n_labels_spent": labels["n_spent"],
        "n_test": len(cell["scores"]) if "scores" in cell else None,
        "pretrain_seconds": _rounded(costs.get("pretrain_seconds")),
        "finetune_seconds": _rounded(costs.get("finetune_seconds")),
        "peak_memory_mb": _rounded(costs.get("peak_memory_mb")),
        "device": cell.get("device"),
        "collapsed": str(cell["collapsed"]).lower() if "collapsed" in cell else None,
        "falling": str(cell["falling"]).lower() if "falling" in cell else None,
        "recomputed": str(cell["recomputed"]).lower() if "recomputed" in cell else None,
        "error": cell.get("error"),
        "key": cell["key"],
        "start": cell.get("start"),
        "pretrain_volumes": _rounded(costs.get("pretrain_volumes")),
        "pretrain_forward": _rounded(costs.get("pretrain_forward")),
    }
    return {column: row.get(column) for column in COLUMNS}


def _prediction_rows(cells: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterable[dict[str, Any]]:
    for cell in cells:
        method, fraction, fold, seed, evaluation = slot_of(cell)
        units = sorted(cell["scores"], key=lambda row: str(row["volume"]))
        predicted = called(np.array([s["scores"] for s in units], dtype=np.float64), cell["shares"], cell["threshold"])
        for scored, decided in zip(units, predicted.tolist(), strict=True):
            values = scored["scores"][1:] if columns == ["score"] else scored["scores"]
            yield {
                "method": method,
                "fraction": fraction,
                "fold": fold,
                "seed": seed,
                "volume": scored["volume"],
                "patient": scored["patient"],
                "label": scored["label"],
                **dict(zip(columns, values, strict=True)),
                "predicted": decided,
                "finding": scored["finding"],
                "evaluation": evaluation,
            }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
