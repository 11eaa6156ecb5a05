"""Writes run folders exactly as docs/run-folder.md describes, with simulated scores of a known effect."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from voxbench.benchmark.running.results import COLUMNS
from voxbench.benchmark.settings.keys import RESULT_VERSION

FINDINGS = ("mucosal thickening", "polyp", "cyst", "fully opacified")
SKILLS = {"residual": 1.5, "byol": 1.15, "simsiam": 1.1, "simclr": 1.2, "spark": 1.25, "supervised": 0.9}


@dataclass
class RunMaker:
    """The knobs of a simulated run. `skill` maps a method to its separation of classes in standard
    deviations."""

    methods: Mapping[str, float] = field(default_factory=lambda: dict(SKILLS))
    fractions: Sequence[float] = (0.1,)
    folds: int = 3
    seeds: Sequence[int] = (0,)
    patients: int = 100
    units_each: int = 2
    classes: Sequence[str] = ("normal", "anomalous")
    shares: Sequence[float] = (0.46, 0.54)
    dataset: str = "sinus-phantom"
    is_phantom: bool = True
    official: bool = False
    seed: int = 7
    fingerprint: str = "f00d"
    salt: str = "p"
    result_version: int = RESULT_VERSION
    shared_splits: bool = False  # seeds test the same patients, as before version 5
    protocol: str = "strict"
    extra_config: Mapping[str, Any] = field(default_factory=dict)
    method_source: str | None = None  # digest of the methods' file; None: built in
    encoder_digest: str = "e0"  # of its options and its file or package
    encoder_file: str | None = None
    predicted_column: bool = True
    fail: Callable[[str, float, int, int], str] = lambda *_: ""  # -> error of a failed cell, or ""
    skip: Callable[[str, float, int, int], bool] = lambda *_: False
    unscored: Callable[[str, float, int, int], bool] = lambda *_: False
    hard: Mapping[int, float] = field(default_factory=dict)  # fold -> how much less skill every method has there
    constant: Callable[[str, float, int, int], bool] = lambda *_: False
    decimals: int = 12
    yardsticks: Sequence[str] = ()  # which of the methods are
    told_roles: bool = True  # False: a folder of before rows had one
    probed: Mapping[str, float] | None = None  # skills by a linear probe, where the run has one beside fine-tuning

    def write(self, path: Path) -> Path:
        """Write the folder and return it."""
        path.mkdir(parents=True, exist_ok=True)
        self._cohort()
        rows: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        for method in self.methods:
            for fraction in self.fractions:
                for fold in range(1 if self.official else self.folds):
                    for seed in self.seeds:
                        if not self.skip(method, fraction, fold, seed):
                            self._cell(path, (method, fraction, fold, seed), rows, predictions)
                            if method in (self.probed or {}):
                                self._cell(path, (method, fraction, fold, seed), rows, predictions, "linear")
            if self.methods[method] != 0.9:
                self._stage(path, method)
        self._documents(path)
        of_one = [] if self.probed is not None else ["evaluation"]  # as folders of before have it
        _write_csv(path / "results.csv", [name for name in COLUMNS if name not in of_one], rows)
        scores = ["score"] if len(self.classes) == 2 else [f"score_{i}" for i in range(len(self.classes))]
        predicted = ["predicted"] if self.predicted_column else []
        columns = [
            "method",
            "fraction",
            "fold",
            "seed",
            "volume",
            "patient",
            "label",
            *scores,
            *predicted,
            "finding",
            *(["evaluation"] * (self.probed is not None)),
        ]
        _write_csv(path / "predictions.csv", columns, predictions)
        return path

    def _cohort(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.patient = np.repeat(np.arange(self.patients), self.units_each)  # [n]
        tendency = np.repeat(rng.normal(size=self.patients), self.units_each) * 0.6
        rank = np.argsort(np.argsort(tendency + rng.normal(size=self.patient.size)))
        edges = np.cumsum(self.shares) * self.patient.size
        self.label = np.searchsorted(edges, rank, side="right").clip(max=len(self.classes) - 1)
        self.hardness = rng.normal(size=self.patient.size) * 0.5  # shared by all methods, so that they are correlated
        self.finding = [FINDINGS[rng.integers(4)] if label else "normal" for label in self.label]
        once = self.shared_splits or self.official
        parts = [rng.permutation(self.patients) % self.folds for _ in range(1 if once else max(self.seeds) + 1)]
        self.fold_of = [np.repeat(part, self.units_each) for part in parts]  # a seed, or all seeds, each [n]

    def _cell(
        self,
        path: Path,
        at: tuple[str, float, int, int],
        rows: list[Any],
        predictions: list[Any],
        evaluation: str = "finetune",
    ) -> None:
        method, fraction, fold, seed = at
        if evaluation == "finetune" and self._role(method) == "yardstick":
            evaluation = "own"
        rng = np.random.default_rng([self.seed, seed, fold, int(1000 * fraction), *map(ord, method)])
        tested = np.flatnonzero(self.fold_of[min(seed, len(self.fold_of) - 1)] == fold)
        error = self.fail(*at)
        skills = (self.probed or {}) if evaluation == "linear" else self.methods
        scores = self._scores(rng, skills[method], fraction, tested, self.hard.get(fold, 0.0))
        if self.constant(*at):
            scores = np.full_like(scores, 1 / max(2, scores.shape[1]))
        n_train = round(fraction * (self.patient.size - tested.size) * 0.8)
        n_val = max(20, round(fraction * (self.patient.size - tested.size) * 0.2))
        key = f"{method}-{fraction}-{fold}-{seed}" + ("-linear" if evaluation == "linear" else "")
        threshold = 0.45 if len(self.classes) == 2 else None
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
            "dataset": self.dataset,
            "method": method,
            "role": self._role(method) if self.told_roles else "",
            "encoder": "resnet",
            "protocol": self.protocol,
            "fraction": fraction,
            "fold": fold,
            "seed": seed,
            "status": "failed" if error else "ok",
            "n_train_labels": n_train,
            "n_val_labels": n_val,
            "n_normal_labels": n_train // 2 * (method == "residual"),
            "n_labels_spent": n_train + n_val,
            "n_test": tested.size,
            "device": "cpu",
            "collapsed": "false",
            "error": error,
            "key": key,
            **({"evaluation": evaluation} if self.probed is not None else {}),
        }
        if not error:
            seconds = 0.0 if self.methods[method] == 0.9 else 90 + 60 * self.methods[method]
            row |= {
                "pretrain_seconds": seconds,
                "finetune_seconds": 12.5,
                "peak_memory_mb": 812 + 100 * len(method),
            }
        rows.append(row)
        record = {
            "result_version": 1,
            "key": key,
            "status": row["status"],
            "threshold": threshold,
            "stages": [] if self.methods[method] == 0.9 else [f"{method}-stage"],
            "source": self.method_source,
            "encoder_digest": self.encoder_digest,
            "error": error,
        }
        if error:
            record["traceback"] = f"Traceback (most recent call last):\n  ...\n{error}"
        _write_json(path / "cells" / method / f"{key}.json", record)
        if error or self.unscored(*at):
            return
        scores = np.round(scores, self.decimals)
        called = scores.argmax(axis=1) if threshold is None else (scores[:, 0] >= threshold).astype(int)
        for unit, score, decided in zip(tested, scores, called, strict=True):
            names = ["score"] if len(self.classes) == 2 else [f"score_{i}" for i in range(len(self.classes))]
            predictions.append(
                {
                    "method": method,
                    "fraction": fraction,
                    "fold": fold,
                    "seed": seed,
                    "volume": f"v{self.salt}{unit:04d}",
                    "patient": f"{self.salt}{self.patient[unit]:04d}",
                    "label": self.label[unit],
                    "finding": self.finding[unit] if len(self.classes) == 2 else "",
                    "predicted": decided,
                    **({"evaluation": evaluation} if self.probed is not None else {}),
                }
                | dict(zip(names, score, strict=True))
            )

    def _role(self, method: str) -> str:
        return "yardstick" if method in self.yardsticks else "baseline" if method == "supervised" else "method"

    def _scores(self, rng: np.random.Generator, of_method: float, fraction: float, tested: Any, less: float) -> Any:
        skill = -less + of_method + 0.6 * np.log10(fraction) * (1 if of_method > 0.9 else 1.3) + 0.3
        skill += 0.1 * rng.normal()
        labels = self.label[tested]
        if len(self.classes) == 2:
            logit = skill * (labels - 0.5) * 1.3 + self.hardness[tested] * 2 + rng.normal(size=tested.size) * 0.9
            return (1 / (1 + np.exp(-logit)))[:, None]
        logits = rng.normal(size=(tested.size, len(self.classes)))
        logits[np.arange(tested.size), labels] += skill
        exp = np.exp(logits)
        return exp / exp.sum(axis=1, keepdims=True)

    def _stage(self, path: Path, method: str) -> None:
        rng = np.random.default_rng([self.seed, *map(ord, method)])
        steps = np.arange(0, 400, 10)
        watched = method in ("byol", "simsiam", "simclr")
        curve = [
            {
                "step": int(s),
                "loss": float(np.exp(-s / 90) + 0.2 + 0.02 * rng.normal()),
                "lr": 1e-3,
                "collapse": float(0.3 * np.exp(-s / 60) + 0.08) if watched else None,
            }
            for s in steps
        ]
        folder = path / "stages" / f"{method}-stage"
        _write_json(
            folder / "stage.json",
            {
                "result_version": 1,
                "key": f"{method}-stage",
                "status": "ok",
                "method": method,
                "stage": "pretrain",
                "budget": "pretrain",
                "seed": 0,
                "steps": 400,
                "volumes_per_step": 16,
                "curve": curve,
                "collapse": curve[-1]["collapse"],
                "collapsed": False,
                "n_volumes": 300,
                "n_normal_labels": 0,
                "seconds": 120.0,
                "volumes_per_second": 53.0,
                "peak_memory_mb": 900.0,
                "device": "cpu",
                "upstream": [],
                "seen": [],
                "error": None,
                "traceback": None,
                **(
                    {"localisation": 0.31, "localisation_median": 0.27, "localisation_chance": 0.04}
                    if method == "residual"
                    else {}
                ),
            },
        )
        if method in ("residual", "spark"):
            _examples(folder / "examples.npz", rng)

    def _official_sizes(self) -> dict[str, int] | None:
        if not self.official:
            return None
        n_test = int((self.fold_of[0] == 0).sum())
        n_train = round((self.patient.size - n_test) * 0.8)
        return {"n_train": n_train, "n_val": self.patient.size - n_test - n_train, "n_test": n_test}

    def _documents(self, path: Path) -> None:
        config = {
            "dataset": {"name": self.dataset, "source": None},
            "encoder": {"name": "resnet", "source": self.encoder_file, "depth": 10},
            "methods": {name: {} for name in self.methods},
            "protocol": {
                "name": self.protocol,
                "folds": self.folds,
                "seeds": list(self.seeds),
                "fractions": list(self.fractions),
                "val_share": 0.2,
                **({} if self.probed is None else {"evaluate": ["finetune", "linear"]}),
            },
            "pretrain": {"optimizer": "adamw", "lr": 0.001, "batch": 16, "volumes": 6400},
            "finetune": {"optimizer": "adamw", "lr": 0.001, "batch": 16, "epochs": 20},
        }
        (path / "config.yaml").write_text(yaml.safe_dump(config | dict(self.extra_config), sort_keys=False))
        _write_json(
            path / "dataset.json",
            {
                "name": self.dataset,
                "classes": list(self.classes),
                "shape": [1, 32, 32, 32],
                "about": "a simulated cohort",
                "n_labelled": int(self.patient.size),
                "n_pool": 300,
                "fingerprint": self.fingerprint,
                "is_phantom": self.is_phantom,
                "real_images": not self.is_phantom,
                "official_split": self.official,
                "official_split_sizes": self._official_sizes(),
            },
        )
        _write_json(
            path / "environment.json",
            {
                "result_version": self.result_version,
                "python": "3.11.7",
                "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
                "git_commit": "0123abc",
                "device": "cpu",
                "platform": "Linux x86_64",
                "host": "ward7-pc",
                "command": "bench run --out /home/ann/x",
            },
        )
        _write_json(
            path / "audit.json",
            {
                "outcome": "clean",
                "checks": [
                    {"what": "no test patient in training, selection or pretraining", "comparisons": 54},
                    {"what": "no copy of a test volume", "comparisons": 54},
                ],
                "findings": [],
                "warnings": [],
            },
        )


def _examples(path: Path, rng: np.random.Generator) -> None:
    grid = np.linspace(-1, 1, 32)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    cavity = np.exp(-((x**2 + y**2) * 3))
    masks = np.stack([((x - 0.2 * i) ** 2 + (y + 0.3) ** 2) < 0.06 for i in range(4)])
    volume = np.clip(1 - cavity + 0.5 * masks + 0.05 * rng.normal(size=masks.shape), 0, 1)
    shown = np.clip(0.6 * masks + 0.15 * np.abs(rng.normal(size=masks.shape)), 0, 1)
    np.savez(path, volume=volume, residual=shown, mask=masks, names=np.array(FINDINGS))


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
