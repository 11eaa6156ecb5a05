"""Logistic regression on a few features a volume, as regularised as folds between patients say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from voxbench.methods.parts.inner import best_of, inner_folds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STRENGTHS = tuple(np.logspace(-4, 1, 8))  # scikit-learn's C: the less, the more regularised
FALLBACK = 1e-2  # where a class has one patient, and no fold can be made


def logistic(features: Floats, labels: Ints, patients: Ints, seed: int) -> Pipeline:
    """A fitted pipeline: features [N, F] are standardised; classes count the same, as in fine-tuning.

    C is the one of `STRENGTHS` that ranks best out of fold; of equals the strongest.
    """
    folds = inner_folds(labels, patients, seed)
    best = best_of(_pipeline, STRENGTHS if folds else (FALLBACK,), features, labels, folds)
    return _pipeline(best).fit(features, labels)


def out_of_fold(features: Floats, labels: Ints, patients: Ints, seed: int) -> Floats | None:
    """[N, K] probabilities of each row by a model that saw no row of its patient; None where no fold can be made.

    C is chosen on the same folds: a little too good for itself, by as much for any other features of these rows. A row
    that no fold holds out is NaN.
    """
    folds = inner_folds(labels, patients, seed)
    if not folds:
        return None
    best = best_of(_pipeline, STRENGTHS, features, labels, folds)
    scores = np.full((len(labels), len(np.unique(labels))), np.nan)
    for train, held_out in folds:
        scores[held_out] = _pipeline(best).fit(features[train], labels[train]).predict_proba(features[held_out])
    return scores


def _pipeline(strength: float) -> Pipeline:
    # A feature that never varies has a scale of 1 by scikit-learn's rule, and is 0 for all.
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-3)
    )
