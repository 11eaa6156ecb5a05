"""python calibration.py RUN: quantile bins of all scores, the calibration error, and what it would be if perfect."""

import sys

import numpy as np
import pandas as pd
from resample import SEED
from units import columns, read


def binned(p, labels, classes):
    """Quantile bins of the scores [n, 1 or classes] with the share of positives in each, and the expected error."""
    edges = np.unique(np.quantile(p, np.linspace(0, 1, 11)[1:-1]))
    positive = (np.asarray(labels)[:, None] == classes).ravel()
    found = pd.DataFrame({"predicted": p.ravel(), "observed": positive}).groupby(np.searchsorted(edges, p.ravel()))
    means, n = found.mean(), found.size().rename("n")
    return means.join(n), np.average(abs(means.observed - means.predicted), weights=n)


scores, rows = read(sys.argv[1]), []
for (method, fraction), cells in scores.groupby(["method", "fraction"]):
    classes, names = zip(*columns(cells), strict=True)
    p, (_, unit) = cells[list(names)].to_numpy(), np.unique(cells.volume, return_inverse=True)
    above = np.cumsum(np.hstack([1 - p, p]) if len(classes) == 1 else p, axis=1)[:, :-1]
    rng, perfect = np.random.default_rng(SEED), []
    for _ in range(200):  # labels drawn by the probabilities, one a unit
        drawn = (rng.random(unit.max() + 1)[unit][:, None] >= above).sum(axis=1)
        perfect.append(binned(p, drawn, classes)[1])
    found, error = binned(p, cells.label, classes)
    for i, each in enumerate(found.itertuples(index=False)):
        rows.append((method, fraction, i, *each, error, np.mean(perfect)))
names = ["method", "fraction", "bin", "predicted", "observed", "n", "calibration_error", "calibration_error_if_perfect"]
pd.DataFrame(rows, columns=names).to_csv(sys.stdout, index=False)
