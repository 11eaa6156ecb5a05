"""python differences.py RUN: the pairs that are concluded from, both tests, Holm's correction, who is separable."""

import sys
from itertools import combinations

import numpy as np
import pandas as pd
from resample import Z, auprc, error
from scipy.stats import norm
from scipy.stats import t as student
from split import replicates, test_per_train
from statsmodels.stats.multitest import multipletests
from units import read, yardsticks


def family(names, cells, fraction, measures):
    """Methods with one another, and each with the best yardstick; of yardsticks alone all."""
    means = {method: cells[method, fraction][0].mean() for method in names}
    methods = [method for method in means if method not in measures]
    best = max((method for method in means if method in measures), key=means.get, default=None)
    with_best = [(method, best) for method in methods if best is not None]
    return [*combinations(methods, 2), *with_best] if methods else list(combinations(means, 2))


def differences(run):
    """A row a pair and fraction."""
    scores, rows = read(run), []
    cells, ratio, measures = auprc(scores), test_per_train(run), yardsticks(run)
    for fraction in np.unique(scores.fraction):
        for first, second in family(scores[scores.fraction == fraction].method.unique(), cells, fraction, measures):
            apart = cells[first, fraction] - cells[second, fraction]
            mean, spread = apart[0].mean(), np.maximum(error(apart), 1e-300)
            better = np.mean((apart[0] > 0) + 0.5 * (apart[0] == 0))
            each = replicates(scores, run, apart[0])
            t_error = np.maximum(1e-300, np.sqrt((1 / len(each) + ratio) * each.var(ddof=1)))  # Nadeau and Bengio
            p, p_t = 2 * norm.sf(abs(mean) / spread), 2 * student.sf(abs(each.mean()) / t_error, len(each) - 1)
            ends = mean - Z * spread, mean + Z * spread
            rows.append((fraction, first, second, len(apart), mean, *ends, p, p_t, better))
    names = ["fraction", "first", "second", "n_pairs", "difference", "low", "high", "p_bootstrap", "p_t"]
    pairs = pd.DataFrame(rows, columns=[*names, "probability_of_improvement"])
    for name in ("p_bootstrap", "p_t"):
        known = pairs[name].dropna()
        pairs[f"{name}_holm"] = pd.Series(multipletests(known, method="holm")[1] if len(known) else known, known.index)
    pairs["separable"] = (pairs.p_bootstrap_holm < 0.05) & (pairs.p_t_holm < 0.05)
    return pairs


if __name__ == "__main__":
    differences(sys.argv[1]).to_csv(sys.stdout, index=False)
