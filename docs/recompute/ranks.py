"""python ranks.py RUN [RUN ...], one of each dataset: shared ranks, tie groups; average ranks over datasets."""

import sys

import numpy as np
import pandas as pd
from differences import differences
from resample import SEED, auprc
from scipy.stats import studentized_range
from units import read, yardsticks

blocks, means = [], {}
for number, run in enumerate(sys.argv[1:]):
    each = pd.Series({place: cells[0].mean() for place, cells in auprc(read(run)).items()}).unstack()  # noqa: PD010
    pairs, methods = differences(run), each.index.difference(yardsticks(run))
    for fraction in each:
        ranked = pd.DataFrame({"run": number, "fraction": fraction, "mean": each[fraction].dropna(), "rank": 1.0})
        here, best, ranked["tied"] = pairs[pairs.fraction == fraction], ranked["mean"].idxmax(), True
        for pair in here[here.separable].itertuples():
            worse, better = sorted((pair.first, pair.second), key=ranked["mean"].get)
            ranked.loc[worse, "rank"] += 1
            ranked.loc[worse, "tied"] &= better != best
        alone = ~ranked.index.isin([*here["first"], *here.second]) & (len(here) > 0)
        ranked.loc[alone, "rank"], ranked.loc[alone, "tied"] = np.nan, False  # yardsticks compared with none
        blocks.append(ranked)
    means[number] = each.loc[methods].rank(ascending=False).mean(axis="columns", skipna=False)
table = pd.concat(blocks).rename_axis("method").reset_index()
ranks = pd.DataFrame(means).T.dropna(axis="columns").rank(axis="columns")  # a row a dataset
n, k = ranks.shape
table["average_rank"] = table.method.map(ranks.mean()) if n > 1 and k > 1 else np.nan
table[["friedman_p", "critical_difference"]] = np.nan  # of fewer than five datasets
if n >= 5 and k >= 2:
    drawn = np.random.default_rng(SEED).permuted(np.tile(ranks, (9999, 1)), axis=1).reshape(9999, n, k)
    spread, observed = (drawn.sum(axis=1) ** 2).sum(axis=1), (ranks.sum() ** 2).sum()
    table["friedman_p"] = (1 + (spread >= observed - 1e-9).sum()) / 10000
    table["critical_difference"] = studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
table.to_csv(sys.stdout, index=False)
