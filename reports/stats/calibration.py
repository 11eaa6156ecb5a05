"""Are predicted probabilities to be taken at their word?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Bins of about equal size: mean prediction [K], share of positives [K], units in it [K]."""

    predicted: Floats
    observed: Floats
    counts: npt.NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """ECE: mean |observed - predicted|, bins weighted by size (Naeini et al., AAAI 2015, equation 3)."""
        weights = self.counts / self.counts.sum()
        return float((weights * np.abs(self.observed - self.predicted)).sum())


def reliability(positive: npt.NDArray[np.bool_], scores: Floats, n_bins: int = 10) -> Reliability:
    """Reliability curve over quantile bins of `scores` [n] (Niculescu-Mizil and Caruana, ICML 2005).

    Equal scores stay in one bin, so ties make fewer bins, and constant scores one.
    """
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, n_bins + 1)[1:-1]))
    index = np.searchsorted(edges, scores)
    counts = np.bincount(index, minlength=len(edges) + 1)
    filled = counts > 0
    predicted = np.bincount(index, scores, len(edges) + 1)[filled] / counts[filled]
    observed = np.bincount(index, positive.astype(np.float64), len(edges) + 1)[filled] / counts[filled]
    return Reliability(predicted, observed, counts[filled].astype(np.int64))


def brier(labels: npt.NDArray[np.int64], scores: Floats) -> float:
    """Mean squared error of the probabilities (Brier, Monthly Weather Review 1950).

    `labels` [n], `scores` [n, 1] (of the positive class alone) or [n, classes] (summed over classes).
    """
    if scores.shape[1] == 1:
        return float(np.mean((scores[:, 0] - (labels == 1)) ** 2))
    return float(np.mean(((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(axis=1)))
