"""A predictor on features: what most yardsticks are."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from voxbench.methods.base import Labelled, Predictor, Role, Volumes
from voxbench.methods.parts.logistic import logistic
from voxbench.methods.parts.prior import at_own_shares


class Probe(Predictor):
    """Some numbers of each volume, and logistic regression on them."""

    role: ClassVar[Role] = "yardstick"
    classifier: Any  # with scikit-learn's `predict_proba` and classes of one weight; there from `fit` on
    counts: npt.NDArray[np.int64]  # [K] labels of each class that it was fitted on

    def prepare(self, data: Labelled) -> None:
        """What `features` needs to know of the volumes; nothing, unless a yardstick says otherwise."""
        del data

    @abstractmethod
    def features(self, volumes: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, F]."""

    def fit(self, data: Labelled) -> None:
        """Features first, then the classifier on them."""
        self.prepare(data)
        self.counts = np.bincount(data.labels, minlength=data.classes)
        self.classifier = self.learnt(data.volumes.features(self.features), data)

    def learnt(self, features: npt.NDArray[np.float64], data: Labelled) -> Any:
        """A classifier fitted on `features` [N, F] of the labelled volumes, classes weighted to count the same."""
        return logistic(features, data.labels, data.patients, data.seed)

    def scores(self, volumes: Volumes) -> npt.NDArray[np.float64]:
        """A probability a class, at the shares that the classes had in the fit."""
        return at_own_shares(self.classifier.predict_proba(volumes.features(self.features)), self.counts)
