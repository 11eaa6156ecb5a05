"""Simulated studies in which models are really trained: linear ones, on features that carry a known signal.

All that a replicate varies by is there: test patients with two alike volumes each, overlapping training sets, the draw
of the labels, the luck of a seed. Methods have features of their own, drawn alike, so no method is better than
another on average over cohorts, and a method that was lucky with its cohort, its draw or its seed can still look so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from voxbench.reports.reading.grid import Cell, Grid
from voxbench.reports.reading.results import Place, Units
from voxbench.reports.stats.average_precision import average_precision

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ALIKE = 0.5  # correlation of the two volumes of a patient, in label and in features
OWN, COMMON = 12, 4  # features of a method's own, and those that all methods have


@dataclass(frozen=True, kw_only=True)
class Design:
    """Of one study."""

    patients: int = 150
    prevalence: float = 0.3
    folds: int = 5
    seeds: int = 1
    fractions: tuple[float, ...] = (0.1, 0.5, 1.0)
    methods: int = 5
    yardsticks: int = 0
    signal: float = 0.35  # shift of each feature between the classes, in standard deviations
    luck: float = 0.5  # of a seed: random part of a model's weights, as a share of their length
    shared_splits: bool = False  # all seeds on one split, as in folders of before version 5
    official: bool = False  # one split of 80 : 20, and a draw of labels a seed
    one_method: bool = False  # under several names: no difference even given the training part
    better: float = 0.0  # more signal of the first method: 0 = no method is better than another


def simulate(design: Design, rng: np.random.Generator) -> Grid:
    """The grid of one study, as a report reads it from a run folder."""
    labels = _labels(design, rng)  # [P, 2]
    names = [f"m{i}" for i in range(design.methods)] + [f"y{i}" for i in range(design.yardsticks)]
    common = _features(labels, COMMON, design.signal, rng)
    own = {
        name: _features(labels, OWN, design.signal + (design.better if name == "m0" else 0.0), rng) for name in names
    }
    if design.one_method:
        own = dict.fromkeys(names, own[names[0]])
    cells: dict[Place, Cell] = {}
    splits = [_split(labels, 5 if design.official else design.folds, rng)] * design.seeds
    if not (design.shared_splits or design.official):
        splits = [_split(labels, design.folds, rng) for _ in range(design.seeds)]
    draws: dict[int, Ints] = {}
    for seed, fold_of in enumerate(splits):
        for fold in range(1 if design.official else design.folds):
            train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            if not design.shared_splits or fold not in draws:
                draws[fold] = rng.permutation(train)
            for fraction in design.fractions:
                chosen = _with_both_classes(labels, draws[fold], max(4, round(fraction * len(train))))
                for name in names:
                    x = np.concatenate([own[name], common], axis=2)  # [P, 2, F]
                    scores = _trained(x, labels, chosen, design.luck, rng)[test]
                    place = Place(name, fraction, fold, seed)
                    cells[place] = _cell(place, test, labels[test], scores)
    return _grid(design, names, cells)


def _labels(design: Design, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    liability = _alike(rng, design.patients, 1)[:, :, 0]
    positive: npt.NDArray[np.bool_] = liability > norm.ppf(1 - design.prevalence)
    return positive


def _alike(rng: np.random.Generator, patients: int, count: int) -> Floats:
    """Standard normal numbers [P, 2, count], correlated within a patient."""
    of_patient = rng.normal(size=(patients, 1, count))
    return np.sqrt(ALIKE) * of_patient + np.sqrt(1 - ALIKE) * rng.normal(size=(patients, 2, count))


def _features(labels: npt.NDArray[np.bool_], count: int, signal: float, rng: np.random.Generator) -> Floats:
    return _alike(rng, len(labels), count) + signal * labels[:, :, None]


def _split(labels: npt.NDArray[np.bool_], folds: int, rng: np.random.Generator) -> Ints:
    """[P] fold of each patient, stratified by the number of positive volumes."""
    order = np.lexsort((rng.random(len(labels)), labels.sum(axis=1)))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _with_both_classes(labels: npt.NDArray[np.bool_], order: Ints, count: int) -> Ints:
    """The first `count` of `order`, and the first patient with a positive volume."""
    first = order[labels[order].any(axis=1)][:1]
    return np.unique(np.concatenate([order[:count], first]))


def _trained(x: Floats, labels: npt.NDArray[np.bool_], train: Ints, luck: float, rng: np.random.Generator) -> Floats:
    """Scores [P, 2] of a ridge regression on the patients `train`."""
    inputs, target = x[train].reshape(-1, x.shape[2]), labels[train].ravel().astype(np.float64)
    centre = inputs.mean(axis=0)
    z = inputs - centre
    weights = np.linalg.solve(z.T @ z + 5.0 * np.eye(z.shape[1]), z.T @ (target - target.mean()))
    length = np.linalg.norm(weights) / np.sqrt(len(weights))
    return (x - centre) @ (weights + luck * length * rng.normal(size=weights.shape))


def _cell(place: Place, test: Ints, labels: npt.NDArray[np.bool_], scores: Floats) -> Cell:
    flat, ranked = labels.ravel(), scores.ravel()
    units = Units(
        volumes=tuple(f"{p}{side}" for p in test for side in "lr"),
        patients=tuple(f"{p:05d}" for p in test for _ in "lr"),
        labels=flat.astype(np.int64),
        scores=ranked[:, None],
        findings=("",) * flat.size,
        predicted=None,
    )
    auprc = float(average_precision(flat, ranked)[0])
    return Cell(place=place, state="undefined" if np.isnan(auprc) else "ok", auprc=auprc, units=units)


def _grid(design: Design, names: Sequence[str], cells: dict[Place, Cell]) -> Grid:
    roles = {name: "yardstick" if name[0] == "y" else "method" for name in names} | {
        names[-1 - design.yardsticks]: "baseline"
    }
    sizes: dict[str, Any] = {"official_split_sizes": {"n_train": 4, "n_val": 0, "n_test": 1}} if design.official else {}
    return Grid(
        name="simulated",
        classes=("normal", "anomalous"),
        dataset=sizes,
        methods=tuple(names),
        roles=roles,
        fractions=design.fractions,
        replicates=tuple(sorted({place.replicate for place in cells})),
        cells=cells,
        stages=(),
        remarks=(),
    )
