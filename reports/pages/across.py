"""Ranks of methods over datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from voxbench.reports.judging.analysis import ALPHA, Analysis
from voxbench.reports.judging.words import counted, listed, p_value
from voxbench.reports.plots.critical_difference import critical_difference
from voxbench.reports.plots.style import Plot
from voxbench.reports.stats.ranks import RankTest, indistinct_groups, rank_test
from voxbench.reports.tables.table import Entry, Table, csv_text

Floats = npt.NDArray[np.float64]

MIN_DATASETS = 5  # fewer can hardly be significant, whatever the ranks (Demsar, JMLR 2006, section 3.2.2)


@dataclass(frozen=True, kw_only=True)
class Across:
    """What a page says over all datasets."""

    sentences: tuple[str, ...]
    table: Table | None  # None where fewer than two methods or datasets can be ranked
    plots: tuple[Plot, ...]
    csv: str


def across_datasets(analyses: Sequence[Analysis]) -> Across:
    """Sentences, the table of ranks, and the critical-difference diagram where there are enough datasets.

    A dataset is one block, whatever the number of its label fractions: those share patients and models, and counted
    one by one they would claim a difference that is not there (docs/statistics.md has the rates). Methods that are not
    compared everywhere are left out, and so are yardsticks.
    """
    compared = {a.grid.name: a for a in analyses if any(a.ranks.values())}
    methods = list(dict.fromkeys(m for a in compared.values() for m in a.grid.methods if m not in a.grid.yardsticks))
    everywhere = [m for m in methods if all(m in r for a in compared.values() for r in a.ranks.values() if r)]
    blocks = [_mean_ranks(a, everywhere) for a in compared.values()]  # [datasets, methods]
    test = rank_test(-np.array(blocks)) if len(blocks) > 1 and len(everywhere) > 1 else None
    means = dict(zip(everywhere, test.ranks.tolist(), strict=True)) if test is not None else {}
    table = _table(dict(zip(compared, blocks, strict=True)), means) if means else None
    if test is None or len(blocks) < MIN_DATASETS:
        why = (
            f"{counted(len(blocks), 'dataset')} with {counted(len(everywhere), 'method')} in all of them: too few to "
            f"test whether average ranks differ, which needs {MIN_DATASETS} datasets and 2 methods. Label fractions of "
            "one dataset share patients and do not count one by one."
        )
        return Across(sentences=(why,), table=table, plots=(), csv=_csv(means, None))
    diagram = critical_difference(everywhere, test)
    return Across(sentences=_said(everywhere, test), table=table, plots=(diagram,), csv=_csv(means, test))


def _mean_ranks(analysis: Analysis, methods: Sequence[str]) -> Floats:
    """[methods] mean over fractions of the rank of the mean AUPRC, 1 = best, equal ones sharing the mean."""
    scored = [fraction for fraction in analysis.grid.fractions if analysis.ranks[fraction]]
    means = np.array([[analysis.estimates[m, fraction].mean for m in methods] for fraction in scored])
    return np.asarray(rankdata(-means, axis=1).mean(axis=0), dtype=np.float64)


def _table(blocks: Mapping[str, Floats], means: Mapping[str, float]) -> Table:
    """Datasets x methods, the best method first."""
    names = list(means)
    order = sorted(names, key=lambda method: means[method])
    rows = []
    for dataset, mean_ranks in blocks.items():
        ranks = rankdata(mean_ranks)
        rows.append((Entry(dataset), *(Entry(f"{ranks[names.index(m)]:g}") for m in order)))
    return Table(
        title="Ranks over datasets",
        columns=("Dataset", *order),
        rows=tuple(rows),
        footers=((Entry("Average rank"), *(Entry(f"{means[method]:.2f}") for method in order)),),
        notes=(
            "Rank within a dataset, 1 = highest, by the mean over label fractions of the rank of the mean AUPRC; only "
            "methods that are compared everywhere are ranked.",
        ),
    )


def _said(methods: Sequence[str], test: RankTest) -> tuple[str, ...]:
    groups = [listed([methods[i] for i in group]) for group in indistinct_groups(test.ranks, test.critical_difference)]
    verdict = "differ" if test.p < ALPHA else "are not separable"
    sentences = [
        f"Over {counted(test.n_blocks, 'dataset')} the methods {verdict} in average rank "
        f"(Friedman test by permutation, p {'' if test.p < 0.001 else '= '}{p_value(test.p)}).",
    ]
    if groups and test.p < ALPHA:
        sentences.append(f"Within the critical difference of {test.critical_difference:.2f}: {'; '.join(groups)}.")
    return tuple(sentences)


def _csv(means: Mapping[str, float], test: RankTest | None) -> str:
    """Average ranks with all digits; p value and critical difference (the same in every row) where they are shown."""
    tested = [test.p, test.critical_difference] if test is not None else [None, None]
    columns = ("method", "average_rank", "friedman_p", "critical_difference")
    return csv_text(columns, [[method, mean, *tested] for method, mean in means.items()])
