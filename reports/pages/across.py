"""Ranks of methods over datasets and fractions."""

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
from voxbench.reports.reading.run_folder import percent
from voxbench.reports.stats.ranks import RankTest, indistinct_groups, rank_test
from voxbench.reports.tables.paper_tables import TIED
from voxbench.reports.tables.table import Entry, Table, csv_text

Floats = npt.NDArray[np.float64]

MIN_BLOCKS = 5  # fewer can hardly be significant, whatever the ranks (Demsar, JMLR 2006, section 3.2.2)


@dataclass(frozen=True, kw_only=True)
class Across:
    """What a page says over all datasets."""

    sentences: tuple[str, ...]
    table: Table | None  # None where fewer than two methods or blocks can be ranked
    plots: tuple[Plot, ...]
    csv: str


def across_datasets(analyses: Sequence[Analysis]) -> Across:
    """Sentences, the table of ranks, and the critical-difference diagram where there are enough blocks.

    A block is a dataset at a fraction; methods that are not compared in a block are left out of the average.
    """
    blocks = [(a, fraction) for a in analyses for fraction in a.grid.fractions if a.ranks[fraction]]
    methods = list(dict.fromkeys(method for a in analyses for method in a.grid.methods))
    everywhere = [m for m in methods if all(m in a.ranks[fraction] for a, fraction in blocks)] if blocks else []
    scores = np.array([[a.estimates[m, f].mean for m in everywhere] for a, f in blocks])
    test = rank_test(scores) if len(blocks) > 1 and len(everywhere) > 1 else None
    means = dict(zip(everywhere, test.ranks.tolist(), strict=True)) if test is not None else {}
    ranked = [(a, f, rank) for (a, f), rank in zip(blocks, _block_ranks(scores), strict=True)]
    table = _table(ranked, means) if means else None
    if test is None or len(blocks) < MIN_BLOCKS:
        why = (
            f"{counted(len(blocks), 'block')} (dataset × fraction) with {counted(len(everywhere), 'method')} in all "
            f"of them are too few for a critical-difference diagram, which needs {MIN_BLOCKS} blocks and 2 methods."
        )
        return Across(sentences=(why,), table=table, plots=(), csv=_csv(means, None))
    diagram = critical_difference(everywhere, test)
    return Across(sentences=_said(everywhere, test), table=table, plots=(diagram,), csv=_csv(means, test))


def _block_ranks(scores: Floats) -> list[Floats]:
    """Ranks of the means [methods] in each block, 1 = best, equal means sharing the mean of their ranks."""
    return [np.asarray(rankdata(-row), dtype=np.float64) for row in scores]


def _table(blocks: Sequence[tuple[Analysis, float, Floats]], means: Mapping[str, float]) -> Table:
    """Blocks x methods, the best method first."""
    names = list(means)
    order = sorted(names, key=lambda method: means[method])
    rows = []
    for analysis, fraction, ranks in blocks:
        tied = analysis.tied[fraction]
        marks = [TIED if method in tied and len(tied) > 1 else "" for method in order]
        entries = [Entry(f"{ranks[names.index(m)]:g}", note=mark) for m, mark in zip(order, marks, strict=True)]
        rows.append((Entry(f"{analysis.grid.name}, {percent(fraction)}"), *entries))
    return Table(
        title="Ranks over datasets and fractions",
        columns=("Dataset, labels", *order),
        rows=tuple(rows),
        footers=((Entry("Average rank"), *(Entry(f"{means[method]:.2f}") for method in order)),),
        notes=(
            "Rank of the mean AUPRC in each block (dataset × fraction), 1 = highest; only methods that are compared "
            "in every block are ranked.",
            f"{TIED} not separable from the best of its block.",
        ),
    )


def _said(methods: Sequence[str], test: RankTest) -> tuple[str, ...]:
    groups = [listed([methods[i] for i in group]) for group in indistinct_groups(test.ranks, test.critical_difference)]
    verdict = "differ" if test.p < ALPHA else "are not separable"
    sentences = [
        f"Over {counted(test.n_blocks, 'block')} (dataset × fraction) the methods {verdict} in average rank "
        f"(Friedman test after Iman and Davenport, p {'' if test.p < 0.001 else '= '}{p_value(test.p)}).",
        "Blocks of one dataset share patients, so they count as less than as many independent datasets.",
    ]
    if groups and test.p < ALPHA:
        sentences.insert(1, f"Within the critical difference of {test.critical_difference:.2f}: {'; '.join(groups)}.")
    return tuple(sentences)


def _csv(means: Mapping[str, float], test: RankTest | None) -> str:
    """Average ranks with all digits; p value and critical difference (the same in every row) where they are shown."""
    tested = [test.p, test.critical_difference] if test is not None else [None, None]
    columns = ("method", "average_rank", "friedman_p", "critical_difference")
    return csv_text(columns, [[method, mean, *tested] for method, mean in means.items()])
