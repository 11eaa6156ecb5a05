"""python ranks.py RUN [RUN ...], one of each dataset: shared ranks, tie groups; average ranks over all blocks."""

import sys

import numpy as np
import pandas as pd
from differences import differences
from resample import auprc
from scipy.stats import f, friedmanchisquare, studentized_range
from units import read

blocks = []
for number, run in enumerate(sys.argv[1:]):
    means = pd.Series({place: cells[0].mean() for place, cells in auprc(read(run)).items()})
    pairs = differences(run)
    for fraction, mean in means.groupby(level=1):
        ranked = pd.DataFrame({"run": number, "fraction": fraction, "mean": mean.droplevel(1), "rank": 1, "tied": True})
        best = ranked["mean"].idxmax()
        for pair in pairs[(pairs.fraction == fraction) & pairs.separable].itertuples():
            worse, better = sorted((pair.first, pair.second), key=ranked["mean"].get)
            ranked.loc[worse, "rank"] += 1
            ranked.loc[worse, "tied"] &= better != best
        blocks.append(ranked)
table = pd.concat(blocks).rename_axis("method").reset_index()
each = table.pivot_table(index=["run", "fraction"], columns="method", values="mean").dropna(axis="columns")
ranks, (n, k) = each.rank(axis="columns", ascending=False), each.shape
table["average_rank"] = table.method.map(ranks.mean())
if n >= 5 and k >= 2:
    if k > 2:
        chi2 = friedmanchisquare(*each.T.to_numpy()).statistic
    else:  # which SciPy leaves to the sign test: the same statistic
        chi2 = np.diff(ranks.sum()).item() ** 2 / max((ranks != ranks.mean(axis=None)).any(axis="columns").sum(), 1)
    room = n * (k - 1) - chi2  # none where all blocks agree
    table["friedman_p"] = f.sf(
        (n - 1) * chi2 / room if room > 1e-9 else np.inf, k - 1, (k - 1) * (n - 1)
    )  # Iman, Davenport
    table["critical_difference"] = studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
table.to_csv(sys.stdout, index=False)
