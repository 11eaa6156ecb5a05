"""A run folder as docs/run-folder.md describes it, with secrets in every place that has ever held one; and a reader of
the files that W&B writes."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from wandb.proto import wandb_internal_pb2

from voxbench.benchmark.running.results import COLUMNS

PATIENT, VOLUME = "MUSTER-ERIKA-1961", "scan_0417_left"
PATIENT_CODE, VOLUME_CODE = "p0123456789ab", "vfedcba987654"
SECRET_FOLDER = "/mnt/ward7/secret study/volumes"
ERROR = f"volume {VOLUME} of {PATIENT}: cannot read {SECRET_FOLDER}/{VOLUME}.nii.gz"
SECRETS = [PATIENT, VOLUME, PATIENT_CODE, VOLUME_CODE, "ward7", "Traceback", "cannot read"]
SCORES = [(0, 0.1), (0, 0.4), (1, 0.35), (1, 0.8)]  # scikit-learn's own example: average precision 0.8333


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def cell(method: str, fraction: float, fold: int, **other: Any) -> dict[str, Any]:
    """A finished cell, with every field that the run folder's description names."""
    names = {"dataset": "manifest", "method": method, "encoder": "resnet", "protocol": "strict"}
    return {
        "result_version": 1,
        "key": f"{method}{fraction}{fold}".encode().hex(),
        "status": "ok",
        "cell": {**names, "fraction": fraction, "fold": fold, "seed": 0},
        "metrics": {"auprc": 0.8333, "auroc": 0.75, "brier": 0.158, "prevalence": 0.5},
        "threshold": 0.5,
        "labels": {"n_train": 10, "n_val": 20, "n_normal": 5, "n_spent": 30},
        "scores": [
            {"volume": VOLUME_CODE, "patient": PATIENT_CODE, "label": label, "scores": [1 - s, s], "finding": "cyst"}
            for label, s in SCORES
        ],
        "curve": [{"step": s, "train_loss": 1 / s, "val_loss": 2 / s, "val_auprc": 0.5} for s in (5, 10, 15)],
        "best_step": 10,
        "stages": ["stage1"],
        "costs": {
            "pretrain_seconds": 60.0,
            "finetune_seconds": 5.0,
            "peak_memory_mb": 800.0,
            "volumes_per_second": 9.0,
        },
        "device": "cpu",
        "collapsed": True,
        "seen": {"train": ["a" * 64], "val": [], "test": []},
        "provenance": {"packages": {"torch": "2.15"}, "git_commit": "abc", "host": "ward7-pc", "cwd": SECRET_FOLDER},
        **other,
    }


def stage() -> dict[str, Any]:
    curve = [{"step": s, "loss": 1 / s, "lr": 1e-3} for s in range(1, 21)]
    curve[0]["collapse"], curve[-1]["collapse"] = 0.2, 0.95
    return {
        "result_version": 1,
        "key": "stage1",
        "status": "ok",
        "method": "byol",
        "stage": "pretrain",
        "seed": 0,
        "fold": None,
        "steps": 20,
        "volumes_per_step": 8,
        "curve": curve,
        "collapse": 0.95,
        "collapsed": True,
        "n_volumes": 100,
        "n_normal_labels": 0,
        "seconds": 60.0,
        "volumes_per_second": 30.0,
        "peak_memory_mb": 700.0,
        "device": "cpu",
        "upstream": [],
        "seen": ["b" * 64],
    }


def row(record: dict[str, Any]) -> dict[str, Any]:
    error = {"error": record["error"]} if "error" in record else {}
    return {**record["cell"], "status": record["status"], **record.get("metrics", {}), "key": record["key"], **error}


def write_run(run: Path) -> Path:
    """Two finished cells, one failed, one stage, the tables and a report."""
    failed = {
        "status": "failed",
        "error": ERROR,
        "traceback": f'Traceback (most recent call last):\n  File "{SECRET_FOLDER}/x.py", line 1\nOSError: {ERROR}\n',
    }
    broken = cell("byol", 1.0, 0)
    broken = {key: broken[key] for key in ("result_version", "key", "cell", "labels", "stages")} | failed
    cells = [cell("byol", 0.1, 0), cell("byol", 0.1, 1), broken]
    for record in cells:
        write_json(run / "cells" / "byol" / f"{record['key']}.json", record)
    write_json(run / "stages" / "stage1" / "stage.json", stage())
    config = {
        "dataset": {"name": "manifest", "table": f"{SECRET_FOLDER}/manifest.csv"},
        "encoder": {"name": "resnet", "depth": 10},
        "methods": {"byol": {"momentum": 0.99}},
        "sources": {"byol": f"{SECRET_FOLDER}/byol.py:BYOL"},
        "protocol": {"name": "strict", "folds": 2, "fractions": [0.1, 1.0], "seeds": [0]},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    data = {"name": "manifest", "about": SECRET_FOLDER, "classes": ["normal", "anomalous"], "shape": [1, 8, 8, 8]}
    write_json(run / "dataset.json", {**data, "fingerprint": "f" * 64, "is_phantom": False, "n_labelled": 100})
    write_json(run / "environment.json", {"python": "3.11", "platform": "Linux", "host": "ward7-pc"})
    write_json(run / "audit.json", {"outcome": "clean"})
    with (run / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(row(record) for record in cells)
    (run / "private").mkdir(exist_ok=True)
    (run / "private" / "ids.csv").write_text(
        "unit_code,volume_code,patient_code,unit,volume,patient\n"
        f"{VOLUME_CODE},{VOLUME_CODE},{PATIENT_CODE},{VOLUME},{VOLUME},{PATIENT}\n"
    )
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "index.html").write_text(f"<p>AUPRC 0.83</p><p>{ERROR}</p><p>{PATIENT_CODE} {PATIENT}</p>")
    (run / "report" / "table.csv").write_text("method,10 %\nbyol,0.833\n")
    (run / "report" / "notes.docx").write_bytes(b"not a file of the report")
    return run


@dataclass
class Written:
    """What W&B wrote of one run."""

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    artifacts: list[Any] = field(default_factory=list)
    text: bytes = b""  # all records, without the places of files on this machine, which wandb keeps to itself

    def table(self, key: str) -> dict[str, Any]:
        """The table that the summary's `key` points at."""
        path = self.folder / "files" / self.summary[f"{key}.path"]
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_written(folder: Path) -> Written:
    """What one folder of an offline run holds."""
    (path,) = folder.glob("*.wandb")
    written = Written(folder)
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            written.run = record.run
            written.config = {u.key: json.loads(u.value_json) for u in record.run.config.update}
        elif kind == "history":
            written.history.append({_key(i): json.loads(i.value_json) for i in record.history.item})
        elif kind == "summary":
            written.summary |= {_key(u): json.loads(u.value_json) for u in record.summary.update}
        elif kind == "exit":
            written.exit_code = record.exit.exit_code
        elif kind == "artifact":
            for entry in record.artifact.manifest.contents:
                entry.local_path = ""
            written.artifacts.append(record.artifact)
        written.text += record.SerializeToString()
    return written


def _key(item: Any) -> str:
    return str(item.key or ".".join(item.nested_key))
