# ruff: noqa: T201
"""Recompute a report's numbers from predictions.csv alone: python recompute.py RUN FRACTION METHOD [OTHER]."""

import sys

import numpy as np
import pandas as pd
from scipy.stats import norm, t


def average_precision(label, score, weight):
    """AP for every row of weights [B, n], ties as one threshold: sum of precision x gain in recall."""
    order = np.argsort(-score)
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true, called = (np.cumsum(weight[:, order] * y, axis=1)[:, last] for y in (label[order], 1))
    return (np.diff(true, axis=1, prepend=0) * true / np.maximum(called, 1e-9)).sum(axis=1) / true[:, -1]


run, fraction, *methods = sys.argv[1:]
scores = pd.read_csv(f"{run}/predictions.csv").query("fraction == @fraction", local_dict={"fraction": float(fraction)})
patients = np.unique(pd.read_csv(f"{run}/predictions.csv").patient)
drawn = np.random.default_rng(20240430).integers(0, len(patients), (2000, len(patients)))
weights = np.stack([np.bincount(row, minlength=len(patients)) for row in drawn])  # how often each patient is drawn
weights = np.vstack([np.ones(len(patients)), weights, 1 - np.eye(len(patients))])  # as is, resampled, one left out
cells = {}
for (method, fold, seed), cell in scores[scores.method.isin(methods)].groupby(["method", "fold", "seed"]):
    each = weights[:, np.searchsorted(patients, cell.patient)]
    cells.setdefault(method, {})[fold, seed] = average_precision(cell.label.to_numpy(), cell.score.to_numpy(), each)
values = [np.stack([cells[m][key] for key in sorted(cells[methods[0]])]) for m in methods]  # cells x weightings
value = values[0] - values[1] if len(methods) > 1 else values[0]
mean, draws, left = value[:, 0].mean(), value[:, 1:2001].mean(0), value[:, 2001:].mean(0)
z0, d = norm.ppf(((draws < mean).mean() + (draws <= mean).mean()) / 2), left.mean() - left
z = z0 + norm.ppf([0.025, 0.975])
low, high = np.quantile(draws, norm.cdf(z0 + z / (1 - z * (d**3).sum() / (6 * (d**2).sum() ** 1.5))))
print(f"mean {mean:.12f}\nstd {value[:, 0].std(ddof=1):.12f}\nlow {low:.12f}\nhigh {high:.12f}")
j, k = len(value), scores.fold.nunique()
print(f"p_t {2 * t.sf(abs(mean) / np.sqrt((1 / j + 1 / (k - 1)) * value[:, 0].var(ddof=1)), j - 1):.12f}")
