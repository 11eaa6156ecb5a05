"""Logistic regression on a few features a volume, as regularised as folds between patients say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STRENGTHS = tuple(np.logspace(-4, 1, 8))  # scikit-learn's C: the less, the more regularised
FALLBACK = 1e-2  # where a class has one patient, and no fold can be made
FOLDS = 5


def logistic(features: Floats, labels: Ints, patients: Ints, seed: int) -> Pipeline:
    """A fitted pipeline: features [N, F] are standardised; classes count the same, as in fine-tuning.

    C is the one of `STRENGTHS` that ranks best out of fold, which is what the tables score; of equals the strongest.
    """
    folds = list(_folds(labels, patients, seed))
    ranking = dict.fromkeys(STRENGTHS if folds else (FALLBACK,), 0.0)
    for train, held_out in folds:
        for strength in STRENGTHS:
            model = _pipeline(strength).fit(features[train], labels[train])
            ranking[strength] += _ranking(model, features[held_out], labels[held_out])
    best = max(ranking, key=lambda strength: ranking[strength])
    return _pipeline(best).fit(features, labels)


def _pipeline(strength: float) -> Pipeline:
    # A feature that never varies has a scale of 1 by scikit-learn's rule, and is 0 for all.
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-3)
    )


def _folds(labels: Ints, patients: Ints, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """(rows to fit on, rows held out); no patient on both sides, every class to fit on, and two to tell apart."""
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
