"""python differences.py RUN: all pairs of methods, both tests, Holm's correction, and who is separable from whom."""

import sys
from itertools import combinations

import numpy as np
import pandas as pd
from resample import auprc, bca
from scipy.stats import t as student
from split import test_per_train
from statsmodels.stats.multitest import multipletests
from units import read


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
