"""Evaluations side by side: what each makes of the same encoders."""

from __future__ import annotations

from collections.abc import Sequence

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.orders import in_all, order, said_of_pairs
from voxbench.reports.reading.results import EVALUATIONS, percent, titled
from voxbench.reports.tables.table import Entry, Table


def evaluation_table(analyses: Sequence[Analysis], fraction: float) -> Table | None:
    """Methods x evaluations at a fraction: the mean AUPRC and the place by it; None without a method in all."""
    methods = in_all(analyses, fraction)
    if not methods:
        return None
    names = [EVALUATIONS[one.grid.evaluation] for one in analyses]
    places = [order(one, methods, fraction) for one in analyses]
    rows = [
        (
            Entry(method),
            *(
                Entry(
                    f"{one.estimates[method, fraction].mean:.3f} ({place.index(method) + 1})", bold=place[0] == method
                )
                for one, place in zip(analyses, places, strict=True)
            ),
        )
        for method in methods
    ]
    first, *further = analyses
    compared = [
        f"by {name} {said_of_pairs(first, one, methods, fraction)}"
        for name, one in zip(names[1:], further, strict=True)
    ]
    return Table(
        title=f"AUPRC by evaluation at {percent(fraction)} of the labels on {first.grid.name}",
        columns=("Method", *(titled(one.grid.evaluation) for one in analyses)),
        rows=tuple(rows),
        notes=(
            f"In brackets the place by the mean, separable or not; bold: the highest. Beside the order by {names[0]}: "
            f"{'; '.join(compared)}. Compare within a column: what counts as a difference stands in the table of pairs "
            "of each evaluation.",
        ),
    )
