"""Nearest neighbours on a few features a volume, as many as folds between patients say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from voxbench.methods.parts.inner import best_of, inner_folds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COUNTS = (100.0, 50.0, 20.0, 10.0, 5.0, 3.0, 1.0)  # of equals the largest number
FALLBACK = 5.0  # where a class has one patient, and no fold can be made


def neighbours(features: Floats, labels: Ints, patients: Ints, seed: int) -> Pipeline:
    """A fitted pipeline: features [N, F] are standardised; near neighbours weigh more, by their inverse distance.

    Its probabilities are shares of the neighbours' weights, so at the classes' own shares.
    """
    folds = inner_folds(labels, patients, seed)
    most = min([len(labels), *(len(train) for train, _ in folds)])
    counts = [count for count in COUNTS if count <= most] if folds else [min(FALLBACK, most)]
    return _pipeline(best_of(_pipeline, counts, features, labels, folds)).fit(features, labels)


def _pipeline(count: float) -> Pipeline:
    return make_pipeline(StandardScaler(), KNeighborsClassifier(int(count), weights="distance"))
