"""The numbers of a page with all their digits, a CSV a kind: what docs/recompute/ gives from predictions.csv."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.tables.closer import METRICS, method_reliability, other_metrics, recalls
from voxbench.reports.tables.table import csv_text

Rows = Iterator[Sequence[object]]

_ESTIMATE = ("auprc_mean", "auprc_std", "n_cells", "low", "high", "rank", "tied", "no_skill_low", "no_skill_high")
_PAIR = ("n_pairs", "difference", "low", "high", "p_bootstrap", "p_bootstrap_holm", "p_t", "p_t_holm")


def numbers(analyses: Sequence[Analysis]) -> Mapping[str, str]:
    """File name -> CSV."""
    kinds: Mapping[str, tuple[tuple[str, ...], Callable[[Analysis], Rows]]] = {
        "estimates.csv": (("method", "fraction", *_ESTIMATE), _estimates),
        "comparisons.csv": (
            ("fraction", "first", "second", *_PAIR, "probability_of_improvement", "separable"),
            _comparisons,
        ),
        "metrics.csv": (
            ("method", "fraction", *METRICS, "calibration_error", "calibration_error_if_perfect"),
            _metrics,
        ),
        "calibration.csv": (("method", "fraction", "bin", "predicted", "observed", "n"), _calibration),
        "findings.csv": (("method", "fraction", "finding", "recall", "low", "high", "n_patients"), _findings),
        "label_efficiency.csv": (("method", "method_labels", "baseline_labels", "low", "high"), _efficiency),
    }
    return {
        name: csv_text(("dataset", *columns), [[a.grid.name, *row] for a in analyses for row in rows(a)])
        for name, (columns, rows) in kinds.items()
    }


def _estimates(a: Analysis) -> Rows:
    for (method, fraction), e in a.estimates.items():
        values = [e.summary.mean, e.summary.std, e.summary.n, e.low, e.high]
        yield [method, fraction, *values, a.ranks[fraction].get(method), method in a.tied[fraction], *a.chance]


def _comparisons(a: Analysis) -> Rows:
    for fraction, pairs in a.comparisons.items():
        for c in pairs:
            tested = [c.p_bootstrap, c.p_bootstrap_holm, c.p_t, c.p_t_holm, c.improvement, c.separable]
            yield [fraction, c.first, c.second, c.n_pairs, c.difference, c.low, c.high, *tested]


def _metrics(a: Analysis) -> Rows:
    for method, fraction in a.estimates:
        curve = method_reliability(a, method, fraction)
        errors = (math.nan, math.nan) if curve is None else (curve.expected_error, curve.if_perfect)
        yield [method, fraction, *other_metrics(a, method, fraction).values(), *errors]


def _calibration(a: Analysis) -> Rows:
    for method, fraction in a.estimates:
        curve = method_reliability(a, method, fraction)
        if curve is not None:
            for index, point in enumerate(zip(curve.predicted, curve.observed, curve.counts, strict=True)):
                yield [method, fraction, index, *(value.item() for value in point)]


def _findings(a: Analysis) -> Rows:
    for method, fraction in a.estimates:
        for finding, share in recalls(a, method, fraction).items():
            yield [method, fraction, finding, share.value, share.low, share.high, share.n_patients]


def _efficiency(a: Analysis) -> Rows:
    """`more` stands for more labels than the baseline was given at any fraction."""
    for one in a.efficiency:
        yield [one.method, one.method_labels, *(_labels(n) for n in (one.labels, one.low, one.high))]


def _labels(number: float) -> float | str:
    return "more" if math.isinf(number) else number
