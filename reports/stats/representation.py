"""What can be told of a representation without labels: its rank, its alignment and its uniformity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist
from scipy.special import logsumexp

Floats = npt.NDArray[np.float64]

EPSILON = 1e-7  # Garrido et al., section 3.1


def rankme(features: Floats) -> float:
    """The effective rank of features [N, F]: exp of the entropy of their singular values, from 1 to min(N, F).

    RankMe: Garrido, Balestriero, Najman and LeCun, ICML 2023, equations 1 and 2. At most N: compare it where N is the
    same.
    """
    values = np.linalg.svd(features, compute_uv=False)
    if not values.any():
        return 1.0  # all features are 0
    shares = values / values.sum() + EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(first: Floats, second: Floats) -> float:
    """How far two views of one volume lie apart, from 0 (together) to 4: the mean squared distance of the L2-normalised
    features [N, F] of both (Wang and Isola, ICML 2020, section 4.1.2, alpha = 2)."""
    apart = _normalised(first) - _normalised(second)
    return float((apart**2).sum(axis=1).mean())


def uniformity(features: Floats) -> float:
    """How evenly L2-normalised features [N, F] cover the sphere: 0 where all are one, the lower the more evenly.

    The logarithm of the mean of exp(-2 d^2) over all pairs (Wang and Isola, ICML 2020, section 4.1.2, t = 2).
    """
    squared = pdist(_normalised(features), "sqeuclidean")
    return float(logsumexp(-2 * squared) - np.log(len(squared)))


def _normalised(features: Floats) -> Floats:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    result: Floats = features / np.where(norms > 0, norms, 1.0)
    return result
