"""python table.py RUN: mean, spread and interval of each method at each fraction, and the other metrics."""

import sys

import numpy as np
import pandas as pd
from resample import DRAWS, SEED, auprc, interval
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from units import PLACE, columns, read


def metrics(cell):
    """Of one cell; several classes: macro means over those that are there, one-vs-rest."""
    classes = [(cell.label == k, cell[name]) for k, name in columns(cell) if (cell.label == k).any()]
    means = [np.mean([of(*each) for each in classes]) for of in (average_precision_score, roc_auc_score)]
    brier = sum(np.mean((cell[name] - (cell.label == k)) ** 2) for k, name in columns(cell))
    n, balanced, f1 = len(cell), np.nan, np.nan
    share = np.array([(label.sum() - 1) / (n - 1) for label, _ in classes])
    no_skill = np.mean(share + (1 - share) * (1 / np.arange(1, n + 1)).sum() / n)  # of a random ranking
    if "predicted" in cell:
        balanced = balanced_accuracy_score(cell.label, cell.predicted)
        some = (
            {"average": "binary"} if len(columns(cell)) == 1 else {"average": "macro", "labels": np.unique(cell.label)}
        )
        f1 = f1_score(cell.label, cell.predicted, zero_division=0, **some)
    names = ("auprc_mean", "auroc", "balanced_accuracy", "f1", "brier", "no_skill")
    return pd.Series(dict(zip(names, (*means, balanced, f1, brier, no_skill), strict=True)))


scores = read(sys.argv[1])
cells = scores.groupby(PLACE)[list(scores)].apply(metrics)
table = cells.groupby(["method", "fraction"]).mean()
table["auprc_std"] = cells.groupby(["method", "fraction"]).auprc_mean.std(ddof=1)
table["n_cells"] = cells.groupby(["method", "fraction"]).size()
table["no_skill"] = cells.no_skill.groupby(["fold", "seed"]).first().mean()  # all methods share their test units
for place, each in auprc(scores).items():
    table.loc[place, ["low", "high"]] = interval(each)
rng, drawn = np.random.default_rng(SEED), []
for _, cell in scores.drop_duplicates(["fold", "seed", "volume"]).groupby(["fold", "seed"]):
    labels, each = np.sort(cell.label), []
    for k in (k for k, _ in columns(cell) if (labels == k).any()):
        positive = rng.permuted(np.tile(labels == k, (DRAWS, 1)), axis=1)
        precision = positive.cumsum(axis=1) / np.arange(1, len(labels) + 1)
        each.append((precision * positive).sum(axis=1) / positive[0].sum())
    drawn.append(np.mean(each, axis=0))
table[["no_skill_low", "no_skill_high"]] = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
table.to_csv(sys.stdout)
