"""Average precision of many weightings of the same scored units at once.

AP = sum_n (R_n - R_{n-1}) P_n over the distinct thresholds, from the highest score down (Davis and
Goadrich, ICML 2006, and scikit-learn's `average_precision_score`, to which this is equal to 1e-12, ties
included). A unit with integer weight w counts as w copies of itself, so a bootstrap resample is a row of
weights and nothing is copied or sorted again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def average_precision(positive: Bools, scores: Floats, weights: Floats | None = None) -> Floats:
    """AP for every row of weights.

    `positive` [n], `scores` [n], `weights` [B, n] or None for one row of ones. Returns [B]; NaN where a
    row has no weight on a positive or none on a negative unit: a ranking of one class alone says nothing.
    """
    if weights is None:
        weights = np.ones((1, len(scores)))
    if not positive.any():
        return np.full(len(weights), np.nan)
    order = np.argsort(-scores, kind="stable")
    ranked = np.flatnonzero(positive[order])  # places of the positive units, of which alone recall grows
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last unit of every group of ties
    held, first = np.unique(np.searchsorted(last, ranked), return_index=True)  # the groups that hold a positive unit
    stops = last[held]
    weight = weights[:, order]  # [B, n]
    gained = np.add.reduceat(weight[:, ranked], first, axis=1)  # [B, groups]
    called = np.add.reduceat(weight[:, : stops[-1] + 1], np.append(0, stops[:-1] + 1), axis=1)
    true, total = np.cumsum(gained, axis=1), np.cumsum(called, axis=1)  # called positive so far, rightly and at all
    precision = np.divide(true, total, out=np.zeros_like(true), where=total > 0)
    area, positives = (precision * gained).sum(axis=1), true[:, -1]
    defined = (positives > 0) & (weight.sum(axis=1) > positives)
    result: Floats = np.divide(area, positives, out=np.full_like(area, np.nan), where=defined)
    return result


def macro_average_precision(labels: npt.NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
    """AP [B] as `average_precision`; with more than one column of scores the macro mean over classes,
    one-vs-rest.

    `labels` [n], `scores` [n, 1] (probability of class 1) or [n, classes]. A class that a row of weights
    does not have is left out of that row's mean; NaN where fewer than two classes are there.
    """
    if scores.shape[1] == 1:
        return average_precision(labels == 1, scores[:, 0], weights)
    each = np.stack([average_precision(labels == c, scores[:, c], weights) for c in range(scores.shape[1])])  # [C, B]
    there = ~np.isnan(each)
    count = there.sum(axis=0)
    summed = np.where(there, each, 0.0).sum(axis=0)
    result: Floats = np.divide(summed, count, out=np.full(summed.shape, np.nan), where=count > 0)
    return result


def no_skill(labels: npt.NDArray[np.int64], n_columns: int) -> float:
    """Expected AP of scores without skill on these units: what a random ranking of `labels` [n] has on average.

    With R of N units positive it is p + (1 - p) H_N / N, p = (R - 1) / (N - 1) and H_N the N-th harmonic number, so it
    lies above the prevalence, in small test parts much (Bestgen, Prague Bull. Math. Linguistics 103, 2015).
    `n_columns` as the scores have; of several classes the macro mean over those that are there.
    """
    n = len(labels)
    counts = np.bincount(labels, minlength=max(2, n_columns))
    known = counts[1:] if n_columns == 1 else counts[counts > 0]
    share = (known - 1) / max(1, n - 1)
    return float(np.mean(share + (1 - share) * np.sum(1 / np.arange(1, n + 1)) / n))


def prevalence(labels: npt.NDArray[np.int64], n_columns: int) -> float:
    """Share of positives, or the macro mean of the shares of the classes that are there: AP of constant scores."""
    if n_columns == 1:
        return float(np.mean(labels == 1))
    shares = np.bincount(labels, minlength=n_columns) / len(labels)
    return float(np.mean(shares[shares > 0]))


def shuffled(labels: npt.NDArray[np.int64], n_columns: int, n_draws: int, rng: np.random.Generator) -> Floats:
    """AP [n_draws] of random rankings of `labels` [n]; of several classes the macro mean, a ranking a class."""
    ordered = np.sort(labels)  # so that the draws do not depend on the order of the units
    classes = [1] if n_columns == 1 else [int(c) for c in np.unique(labels)]
    places = np.arange(1, len(labels) + 1)
    each = []
    for label in classes:
        positive = rng.permuted(np.tile(ordered == label, (n_draws, 1)), axis=1)  # [B, n]
        each.append((np.cumsum(positive, axis=1) / places * positive).sum(axis=1) / (ordered == label).sum())
    mean: Floats = np.mean(each, axis=0)
    return mean
