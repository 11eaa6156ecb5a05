"""What tests ask of a run folder: its table, what of it is finished, and whether anything was left behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

COSTS = {"pretrain_seconds", "finetune_seconds", "peak_memory_mb", "recomputed"}


def table(run: Path) -> list[dict[str, str]]:
    """`results.csv` without what a clock or a memory meter decides."""
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in COSTS} for row in csv.DictReader(file)]


def tidy(run: Path) -> bool:
    """Whether no temporary file, claim or checkpoint is left."""
    return not any(
        list(run.glob(pattern)) for pattern in ("**/.part-*", "claims/*", "checkpoints/*", "stages/*/targets*")
    )


def finished(run: Path) -> dict[Path, int]:
    """Records that are ok, and when they were written."""
    found = {}
    for path in (*run.glob("cells/*/*.json"), *run.glob("stages/*/stage.json")):
        if json.loads(path.read_text())["status"] == "ok":
            found[path] = path.stat().st_mtime_ns
    return found
