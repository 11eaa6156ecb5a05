"""python calibration.py RUN: ten quantile bins of the scores of all folds and seeds, and the calibration error."""

import sys

import numpy as np
import pandas as pd
from units import columns, read

scores, rows = read(sys.argv[1]), []
for (method, fraction), cells in scores.groupby(["method", "fraction"]):
    pooled = pd.concat([pd.DataFrame({"p": cells[name], "y": cells.label == k}) for k, name in columns(cells)])
    edges = np.quantile(pooled.p, np.linspace(0, 1, 11)[1:-1])
    bins = pooled.groupby(np.searchsorted(edges, pooled.p)).agg(
        predicted=("p", "mean"), observed=("y", "mean"), n=("y", "size")
    )
    error = np.average(abs(bins.observed - bins.predicted), weights=bins.n)
    rows += [(method, fraction, i, *each, error) for i, each in enumerate(bins.itertuples(index=False))]
names = ["method", "fraction", "bin", "predicted", "observed", "n", "calibration_error"]
pd.DataFrame(rows, columns=names).to_csv(sys.stdout, index=False)
