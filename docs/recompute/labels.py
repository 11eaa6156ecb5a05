"""python labels.py RUN BASELINE: labels that the baseline needs for what a method does at the smallest fraction.

Labels spent are counted by the run and stand in results.csv; all else follows from predictions.csv.
"""

import sys

import numpy as np
import pandas as pd
from resample import auprc
from units import of_evaluation, read

run, baseline = sys.argv[1:]
cells = auprc(read(run))
own = [set(each.index) for (method, _), each in cells.items() if method == baseline]
common = sorted(set.intersection(*own))  # the folds and seeds that all fractions of the curve have
costs = of_evaluation(pd.read_csv(f"{run}/results.csv")).query("status == 'ok'").set_index(["fold", "seed"]).loc[common]
spent = costs.groupby(["method", "fraction"]).n_labels_spent.mean()


def centred(each):
    """The mean, and its resamples moved to lie around it: they lean upwards, weak scores more than strong ones."""
    mean = each.loc[common].mean()
    return pd.concat([mean[:1], mean[1:] - mean[1:].mean() + mean[0]])


curve = {fraction: centred(each) for (method, fraction), each in cells.items() if method == baseline}
curve = pd.DataFrame(curve)
labels = spent[baseline].loc[list(curve)].to_numpy()


def needed(points, target):
    """Where the curve, straight in log(labels), first reaches the target."""
    if np.isnan([*points, target]).any():
        return np.nan
    at = np.argmax(points >= target) if (points >= target).any() else len(points)
    if at in (0, len(points)):
        return labels[0] if at == 0 else np.inf
    return np.exp(np.interp(target, points[at - 1 : at + 1], np.log(labels[at - 1 : at + 1])))


rows = []
for method in sorted({name for name, fraction in cells if fraction == curve.columns[0]} - {baseline}):
    target = centred(cells[method, curve.columns[0]])
    value, *drawn = [needed(*each) for each in zip(curve.to_numpy(), target, strict=True)]
    ends = np.quantile(np.array(drawn)[~np.isnan(drawn)], [0.025, 0.975], method="nearest")
    rows.append((method, spent[method, curve.columns[0]], value, *ends))
names = ["method", "method_labels", "baseline_labels", "low", "high"]
pd.DataFrame(rows, columns=names).replace(np.inf, "more").to_csv(sys.stdout, index=False)
