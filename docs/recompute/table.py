"""python table.py RUN: mean, spread and interval of each method at each fraction, and the other metrics."""

import sys

import numpy as np
import pandas as pd
from resample import auprc, bca
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from units import PLACE, columns, read


def metrics(cell):
    """Of one cell; several classes: macro means over those that are there, one-vs-rest."""
    classes = [(cell.label == k, cell[name]) for k, name in columns(cell) if (cell.label == k).any()]
    means = [np.mean([of(*each) for each in classes]) for of in (average_precision_score, roc_auc_score)]
    brier = sum(np.mean((cell[name] - (cell.label == k)) ** 2) for k, name in columns(cell))
    no_skill, balanced, f1 = np.mean([label.mean() for label, _ in classes]), np.nan, np.nan
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
    table.loc[place, ["low", "high"]] = bca(each)[:2]
table.to_csv(sys.stdout)
