"""What a run folder tells, as plain values: cells, their scored units, stages, and how they are named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    recomputed: bool = False  # whether backward passes computed maps again, for want of memory


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
