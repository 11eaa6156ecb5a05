"""How many voxels are how bright, and a random forest: a method that brings its own predictor.

Run it with `bench run --methods supervised,docs/examples/histogram.py:Histogram`.
"""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from voxbench.methods.base import Labelled, Predictor, Volumes


class Histogram(Predictor):
    """It is fitted on what the harness hands over, and gives each volume a probability a class."""

    name: ClassVar[str] = "histogram"
    about: ClassVar[str] = "histogram of 32 grey values, random forest (Breiman, Machine Learning 2001)"

    def fit(self, data: Labelled) -> None:
        """All randomness comes from `data.seed`."""
        self.forest = RandomForestClassifier(200, random_state=data.seed)
        self.forest.fit(data.volumes.features(histograms), data.labels)

    def scores(self, volumes: Volumes) -> npt.NDArray[np.float64]:
        """[N, classes]"""
        return self.forest.predict_proba(volumes.features(histograms))


def histograms(volumes: Tensor) -> Tensor:
    """[B, C, D, H, W] -> [B, 32], the share of voxels in each bin."""
    return torch.stack([torch.histc(one, 32, 0, 1) / one.numel() for one in volumes])
