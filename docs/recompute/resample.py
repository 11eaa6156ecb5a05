"""What the other scripts share: AUPRC of every cell under every resample of patients, and BCa (Efron, 1987)."""

import numpy as np
import pandas as pd
from scipy.stats import norm
from units import PLACE, columns


def weights(scores):
    """How often each patient counts [1 + 2000 + patients, patients]: as is, drawn with replacement, one left out."""
    count = scores.patient.nunique()
    drawn = np.random.default_rng(20240430).integers(0, count, (2000, count))
    return np.vstack([np.ones(count), [np.bincount(row, minlength=count) for row in drawn], 1 - np.eye(count)])


def average_precision(positive, score, weight):
    """AP for every row of weights [B, n], equal scores as one threshold; NaN where a class has no weight."""
    order = np.argsort(-score)
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true, called = (np.cumsum(weight[:, order] * each, axis=1)[:, last] for each in (positive[order], 1))
    area = (np.diff(true, axis=1, prepend=0) * true / np.maximum(called, 1)).sum(axis=1)
    return np.where((true[:, -1] > 0) & (true[:, -1] < called[:, -1]), area / np.maximum(true[:, -1], 1), np.nan)


def auprc(scores):
    """{(method, fraction): frame}, a row a (fold, seed), a column a row of weights; macro mean over classes."""
    patients, weight, found = np.unique(scores.patient), weights(scores), {}
    for (method, fraction, *replicate), cell in scores.groupby(PLACE):
        own = weight[:, np.searchsorted(patients, cell.patient)]
        each = [
            average_precision((cell.label == k).to_numpy(), cell[name].to_numpy(), own) for k, name in columns(scores)
        ]
        found.setdefault((method, fraction), {})[tuple(replicate)] = pd.DataFrame(each).mean()
    return {place: pd.DataFrame(cells).T for place, cells in found.items()}


def bca(cells):
    """(low, high, p) of the mean over `cells`; p is where the interval begins to hold zero."""
    value, drawn, left = np.split(cells.mean().to_numpy(), [1, 2001])
    drawn, left = drawn[~np.isnan(drawn)], left[~np.isnan(left)]
    below, zero = (((drawn < x).mean() + (drawn <= x).mean()) / 2 for x in (value, 0))
    d = left.mean() - left
    corrected = 0 < below < 1 and d.any()  # else the percentile interval
    z0, a = (norm.ppf(below), (d**3).sum() / (6 * (d**2).sum() ** 1.5)) if corrected else (0, 0)
    z = z0 + norm.ppf([0.025, 0.975])
    low, high = np.quantile(drawn, norm.cdf(z0 + z / (1 - a * z)))
    least = 2 / (len(drawn) + 1)
    if not 0 < zero < 1:
        return low, high, least if drawn.any() else 1.0
    z = norm.ppf(zero) - z0
    tail = norm.cdf(z / (1 + a * z) - z0)
    return low, high, np.clip(2 * min(tail, 1 - tail), least, 1)
