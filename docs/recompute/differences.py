"""python differences.py RUN: all pairs of methods, both tests, Holm's correction, and who is separable from whom."""

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from resample import auprc, bca
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests
from units import read


def test_per_train(run):
    """n_test / n_train: of the folds; of an official split its own; before dataset.json had that, by results.csv."""
    sizes = json.loads(Path(run, "dataset.json").read_text(encoding="utf-8")).get("official_split_sizes")
    if sizes:
        return sizes["n_test"] / (sizes["n_train"] + sizes["n_val"])
    scores, labels = pd.read_csv(f"{run}/predictions.csv"), pd.read_csv(f"{run}/results.csv").query("status == 'ok'")
    tested, every = scores.groupby("fold").volume.nunique().mean(), scores.volume.nunique()
    return tested / (every - tested if tested < every else (labels.n_train_labels + labels.n_val_labels).max())


def differences(run):
    """A row a pair and fraction."""
    scores, rows = read(run), []
    cells, ratio = auprc(scores), test_per_train(run)
    for fraction in np.unique(scores.fraction):
        for first, second in combinations(scores[scores.fraction == fraction].method.unique(), 2):
            apart = cells[first, fraction] - cells[second, fraction]
            mean, count = apart[0].mean(), len(apart)
            low, high, p = bca(apart)
            error = np.sqrt((1 / count + ratio) * apart[0].var(ddof=1))  # Nadeau and Bengio
            p_t = 2 * student.sf(abs(mean) / error, count - 1) if error else float(mean == 0)
            better = np.mean((apart[0] > 0) + 0.5 * (apart[0] == 0))
            rows.append((fraction, first, second, count, mean, low, high, p, p_t if count > 1 else np.nan, better))
    names = ["fraction", "first", "second", "n_pairs", "difference", "low", "high", "p_bootstrap", "p_t"]
    pairs = pd.DataFrame(rows, columns=[*names, "probability_of_improvement"])
    for name in ("p_bootstrap", "p_t"):
        known = pairs[pairs[name].notna()].groupby("fraction")[name]
        pairs[f"{name}_holm"] = known.transform(lambda p: multipletests(p, method="holm")[1])
    pairs["separable"] = (pairs.p_bootstrap_holm < 0.05) & (pairs.p_t_holm < 0.05)
    return pairs


if __name__ == "__main__":
    differences(sys.argv[1]).to_csv(sys.stdout, index=False)
