"""Folds between patients inside the labels that are given, and the model that ranks best out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Folds = Sequence[tuple[Ints, Ints]]

FOLDS = 5


def inner_folds(labels: Ints, patients: Ints, seed: int) -> list[tuple[Ints, Ints]]:
    """(rows to fit on, rows held out); no patient on both sides, every class to fit on, and two to tell apart.

    None where a class has one patient.
    """
    return list(_folds(labels, patients, seed))


def best_of(
    make: Callable[[float], Pipeline], settings: Sequence[float], features: Floats, labels: Ints, folds: Folds
) -> float:
    """The setting whose models rank best out of fold, which is what the tables score; of equals the first."""
    ranking = dict.fromkeys(settings, 0.0)
    for train, held_out in folds:
        for setting in settings:
            model = make(setting).fit(features[train], labels[train])
            ranking[setting] += _ranking(model, features[held_out], labels[held_out])
    return max(ranking, key=lambda setting: ranking[setting])


def _folds(labels: Ints, patients: Ints, seed: int) -> Iterator[tuple[Ints, Ints]]:
    classes = np.unique(labels)
    fewest = min(len(np.unique(patients[labels == label])) for label in classes)
    count = min(FOLDS, fewest, *(int((labels == label).sum()) for label in classes))
    if count < 2:
        return
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    for train, held_out in splitter.split(labels, labels, patients):
        if len(np.unique(labels[held_out])) > 1 and len(np.unique(labels[train])) == len(classes):
            yield train, held_out


def _ranking(model: Pipeline, features: Floats, labels: Ints) -> float:
    """AUROC, one class against the rest, mean over the classes that can be told from others here."""
    probabilities = model.predict_proba(features)
    there = [k for k, label in enumerate(model.classes_) if 0 < (labels == label).sum() < len(labels)]
    return float(np.mean([roc_auc_score(labels == model.classes_[k], probabilities[:, k]) for k in there]))
