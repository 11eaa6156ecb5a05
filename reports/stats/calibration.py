"""Are predicted probabilities to be taken at their word?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


N_DRAWS = 200
SEED = 20240430


@dataclass(frozen=True)
class Reliability:
    """Bins of about equal size: mean prediction [K], share of positives [K], units in it [K].

    `if_perfect` is the expected error that perfectly calibrated probabilities would show here: never 0, since the share
    of positives in a bin of few units strays from any prediction.
    """

    predicted: Floats
    observed: Floats
    counts: npt.NDArray[np.int64]
    if_perfect: float

    @property
    def expected_error(self) -> float:
        """ECE: mean |observed - predicted|, bins weighted by size (Naeini et al., AAAI 2015, equation 3)."""
        return _expected_error(self.observed, self.predicted, self.counts)


def reliability(
    labels: npt.NDArray[np.int64], scores: Floats, units: npt.NDArray[np.int64], n_bins: int = 10
) -> Reliability:
    """Reliability curve over quantile bins of all scores (Niculescu-Mizil and Caruana, ICML 2005).

    `labels` [n], `scores` [n, 1] (of class 1) or [n, classes] (one-vs-rest, all pooled), `units` [n] the number of the
    unit that each row scores: one that was tested by several seeds has one label. Equal scores stay in one bin, so
    ties make fewer bins, and constant scores one.
    """
    flat = scores.ravel()
    edges = np.unique(np.quantile(flat, np.linspace(0, 1, n_bins + 1)[1:-1]))
    _, index, counts = np.unique(np.searchsorted(edges, flat), return_inverse=True, return_counts=True)
    predicted = np.bincount(index, flat) / counts
    observed = np.bincount(index, _positive(labels, scores).ravel()) / counts
    rng, above, perfect = np.random.default_rng(SEED), np.cumsum(_all_classes(scores), axis=1), []
    for _ in range(N_DRAWS):  # labels that the scores are right about (Broecker and Smith, Weather Forecast. 2007)
        drawn = (rng.random(units.max() + 1)[units][:, None] >= above[:, :-1]).sum(axis=1)  # [n]
        shares = np.bincount(index, _positive(drawn, scores).ravel()) / counts
        perfect.append(_expected_error(shares, predicted, counts))
    return Reliability(predicted, observed, counts, float(np.mean(perfect)))


def _expected_error(observed: Floats, predicted: Floats, counts: npt.NDArray[np.int64]) -> float:
    return float((counts / counts.sum() * np.abs(observed - predicted)).sum())


def _positive(labels: npt.NDArray[np.int64], scores: Floats) -> Floats:
    """[n, 1] or [n, classes], as the scores: 1 where that class is the label."""
    classes = np.array([1]) if scores.shape[1] == 1 else np.arange(scores.shape[1])
    positive: Floats = (labels[:, None] == classes).astype(np.float64)
    return positive


def _all_classes(scores: Floats) -> Floats:
    """[n, classes], the one column of two completed."""
    return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores


def brier(labels: npt.NDArray[np.int64], scores: Floats) -> float:
    """Mean squared error of the probabilities (Brier, Monthly Weather Review 1950).

    `labels` [n], `scores` [n, 1] (of the positive class alone) or [n, classes] (summed over classes).
    """
    if scores.shape[1] == 1:
        return float(np.mean((scores[:, 0] - (labels == 1)) ** 2))
    return float(np.mean(((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(axis=1)))
