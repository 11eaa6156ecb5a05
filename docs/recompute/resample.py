"""What the other scripts share: AUPRC of every cell under every resample of patients, and intervals from its spread."""

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm
from units import PLACE, columns

SEED, DRAWS, Z = 20240430, 2000, norm.ppf(0.975)


def weights(scores):
    """How often each patient counts [1 + 2000, patients]: as is, and drawn with replacement."""
    count = scores.patient.nunique()
    drawn = np.random.default_rng(SEED).integers(0, count, (DRAWS, count))
    return np.vstack([np.ones(count), [np.bincount(row, minlength=count) for row in drawn]])


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


def error(cells):
    """Standard error over patients of the mean over `cells`."""
    return cells.mean()[1:].std(ddof=1)


def interval(cells):
    """Of an AUPRC: symmetric in its logit."""
    value, reach = cells[0].mean(), Z * error(cells)
    if reach == 0 or value >= 1:
        return value, value
    return tuple(expit(logit(value) + side * reach / (value * (1 - value))) for side in (-1, 1))
