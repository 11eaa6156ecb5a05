"""Tables of what is compared: intervals and ranks, pairs of methods, label efficiency."""

from __future__ import annotations

import math

from voxbench.reports.judging.analysis import Analysis, Comparison, Efficiency
from voxbench.reports.judging.remarks import unevenness
from voxbench.reports.judging.words import counted, interval, p_value, signed
from voxbench.reports.reading.results import EVALUATIONS, percent
from voxbench.reports.tables.naming import legend, named
from voxbench.reports.tables.table import Entry, Table


def interval_table(analysis: Analysis) -> Table:
    """Methods x fractions: the shared rank, the mean and its 95 % interval."""
    grid = analysis.grid
    rows = []
    for method in grid.methods:
        entries = [named(grid, method)]
        for fraction in grid.fractions:
            estimate = analysis.estimates[method, fraction]
            rank = analysis.ranks[fraction].get(method)
            told = interval(estimate.mean, estimate.low, estimate.high)
            if rank is not None:
                entries.append(Entry(f"{rank}. {told}"))
            elif math.isnan(estimate.mean):
                entries.append(
                    Entry("left out" if method in grid.shared(fraction).left_out else "no score", faint=True)
                )
            else:
                entries.append(Entry(told))
        rows.append(tuple(entries))
    return Table(
        title=f"Rank, AUPRC and its 95 % interval on {grid.title}",
        columns=("Method", *map(percent, grid.fractions)),
        rows=tuple(rows),
        notes=(
            "Methods that cannot be separated share a rank: it is 1 + the number of methods that are "
            "separably better. "
            f"Interval: from {len(analysis.weights)} resamples of {len(analysis.patients)} patients; it speaks of "
            "other patients and test parts of this size, not of another training. No skill: "
            f"{interval(grid.no_skill, *analysis.chance)}.",
            *(["Of the yardsticks only the best of a fraction is compared, and ranked."] if grid.yardsticks else []),
            *unevenness(grid, grid.fractions),
            *legend(grid),
        ),
    )


def comparison_table(analysis: Analysis, fraction: float) -> Table:
    """All pairs at a fraction, the clearest first."""
    pairs = sorted(
        (one if one.difference >= 0 else analysis.between(one.second, one.first, fraction) or one
         for one in analysis.comparisons[fraction]),
        key=lambda one: (not one.separable, -one.difference),
    )  # fmt: skip
    return Table(
        title=f"Pairs of methods at {percent(fraction)} of the labels{_by_evaluation(analysis)}",
        columns=("Pair", "Difference", "p bootstrap", "p t-test", "P(better)", "Separable"),
        rows=tuple(_pair(one) for one in pairs),
        notes=(
            "p: paired patient bootstrap, and corrected resampled t-test of Nadeau and Bengio"
            f"{_averaged(analysis)}; both Holm-corrected over {_family(analysis)}. Separable: both below 0.05. "
            "P(better): share of folds and seeds in which the first is ahead.",
            *unevenness(analysis.grid, [fraction]),
        ),
    )


def _by_evaluation(analysis: Analysis) -> str:
    evaluation = analysis.grid.evaluation
    return "" if evaluation == "finetune" else f", {EVALUATIONS[evaluation]}"


def _family(analysis: Analysis) -> str:
    count = counted(sum(map(len, analysis.comparisons.values())), "pair")
    which = " (methods, and each with the best yardstick)" if analysis.grid.yardsticks else ""
    return f"the {count} of all fractions{which}"


def _averaged(analysis: Analysis) -> str:
    return " over folds, seeds averaged" if analysis.grid.seeds_share_splits else ""


def _pair(one: Comparison) -> tuple[Entry, ...]:
    return (
        Entry(f"{one.first} − {one.second}"),
        Entry(f"{signed(one.difference)} ({signed(one.low)} to {signed(one.high)})"),
        Entry(p_value(one.p_bootstrap_holm)),
        Entry(p_value(one.p_t_holm)),
        Entry(f"{one.improvement:.2f}"),
        Entry("yes" if one.separable else "no", bold=one.separable, faint=not one.separable),
    )


def efficiency_table(analysis: Analysis) -> Table | None:
    """Labels that the baseline needs; None where there is no baseline or one fraction only."""
    if not analysis.efficiency or analysis.grid.baseline is None:
        return None
    smallest = percent(analysis.grid.fractions[0])
    return Table(
        title=f"Labels that {analysis.grid.baseline} needs to match a method at {smallest}",
        columns=("Method", f"Labels at {smallest}", f"{analysis.grid.baseline} needs", "95 % interval"),
        rows=tuple(
            (
                named(analysis.grid, one.method),
                Entry(f"{one.method_labels:.0f}"),
                Entry(labels_needed(one, one.labels)),
                Entry(f"{labels_needed(one, one.low)} to {labels_needed(one, one.high)}"),
            )
            for one in analysis.efficiency
        ),
        notes=(
            "Read off the baseline's learning curve, straight between its points in the logarithm of "
            "labels spent; the "
            "interval is the percentile interval of the same patient bootstrap. Over the folds and seeds that all "
            "fractions of the curve share.",
            *legend(analysis.grid),
        ),
    )


def labels_needed(one: Efficiency, labels: float) -> str:
    """A number of labels in words."""
    if math.isnan(labels):
        return "–"
    if math.isinf(labels):
        return f"more than {one.most:.0f}"
    if labels <= one.least:
        return f"at most {one.least:.0f}"
    return f"{labels:.0f}"
