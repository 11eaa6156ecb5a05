"""What the page says where encoders were evaluated in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxbench.reports.judging.against import against
from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.orders import in_all, order, said_of_pairs
from voxbench.reports.judging.words import counted, listed
from voxbench.reports.plots.evaluations import evaluations
from voxbench.reports.plots.style import Plot
from voxbench.reports.reading.results import EVALUATIONS, percent, titled
from voxbench.reports.tables.comparison_tables import comparison_table, interval_table
from voxbench.reports.tables.evaluation_table import evaluation_table
from voxbench.reports.tables.paper_tables import main_table
from voxbench.reports.tables.table import Table


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluation beside the main one, with statistics of its own."""

    title: str
    sentences: tuple[str, ...]
    main: Table
    intervals: Table
    pairs: list[Table]

    @property
    def tables(self) -> list[Table]:
        """All of them."""
        return [self.main, self.intervals, *self.pairs]


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """All evaluations of a run that has several."""

    tables: list[Table]
    plots: list[Plot]
    further: list[Evaluated]


def side_by_side(analyses: Sequence[Analysis]) -> SideBySide | None:
    """The main evaluation first; None where there is no other."""
    if len(analyses) < 2:
        return None
    found = [evaluation_table(analyses, fraction) for fraction in analyses[0].grid.fractions]
    return SideBySide(
        tables=[one for one in found if one is not None],
        plots=evaluations(analyses),
        further=[_evaluated(one) for one in analyses[1:]],
    )


def said_of_orders(analyses: Sequence[Analysis]) -> tuple[str, ...]:
    """For the conclusion: in what order each evaluation puts the methods at the smallest fraction that has them."""
    first, *further = analyses
    fraction = next((f for f in first.grid.fractions if len(in_all(analyses, f)) > 1), None)
    if not further or fraction is None:
        return ()
    methods = in_all(analyses, fraction)
    orders = [f"by {EVALUATIONS[one.grid.evaluation]} {listed(order(one, methods, fraction))}" for one in analyses]
    changes = [f"{EVALUATIONS[one.grid.evaluation]}: {said_of_pairs(first, one, methods, fraction)}" for one in further]
    main = EVALUATIONS[first.grid.evaluation]
    return (
        f"By the mean at {percent(fraction)}, best first: {'; '.join(orders)}. Beside {main}, {'; '.join(changes)}.",
    )


def said_of_probes(analyses: Sequence[Analysis]) -> tuple[str, ...]:
    """For the conclusion: which frozen features are better than those of the encoder as initialised, at the smallest
    fraction that tells."""
    frozen = [one for one in analyses if one.grid.evaluation != "finetune"]
    return tuple(sentence for one in frozen for sentence in _against_initial(one)[:1])


def _evaluated(analysis: Analysis) -> Evaluated:
    grid = analysis.grid
    scored = [fraction for fraction in grid.fractions if analysis.ranks[fraction]]
    troubled = len(grid.troubled())
    missing = (f"{counted(troubled, 'cell')} without a score.",) if troubled else ()
    return Evaluated(
        title=titled(grid.evaluation),
        sentences=(*_against_initial(analysis), *missing),
        main=main_table(grid, analysis.tied),
        intervals=interval_table(analysis),
        pairs=[comparison_table(analysis, f) for f in scored if analysis.comparisons[f]],
    )


def _against_initial(analysis: Analysis) -> tuple[str, ...]:
    """The baseline's encoder is the one that all start from: on frozen features it is the random encoder."""
    baseline = analysis.grid.baseline
    if baseline is None:
        return ()
    said = {f: against(analysis, baseline, f, ends=True) for f in analysis.grid.fractions}
    name = titled(analysis.grid.evaluation)
    return tuple(
        f"{name} at {percent(f)}, against the encoder as initialised ({baseline}): {text}."
        for f, text in said.items()
        if text
    )
