"""In which order each evaluation puts the methods: by a linear probe it is often another than by fine-tuning."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.words import counted


def in_all(analyses: Sequence[Analysis], fraction: float) -> list[str]:
    """The methods that have a mean at a fraction by every evaluation, the first one's best first."""
    first, *further = analyses
    shared = [m for m in first.scored(fraction) if all(m in one.scored(fraction) for one in further)]
    return order(first, shared, fraction)


def order(analysis: Analysis, methods: Sequence[str], fraction: float) -> list[str]:
    """`methods` by their mean, the highest first."""
    return sorted(methods, key=lambda m: -analysis.estimates[m, fraction].mean)


def changed_places(first: Analysis, other: Analysis, methods: Sequence[str], fraction: float) -> tuple[int, int]:
    """(pairs of methods that change places, those of them that both evaluations call separable)."""
    changed, surely = 0, 0
    for a, b in itertools.combinations(methods, 2):
        ours, theirs = first.between(a, b, fraction), other.between(a, b, fraction)
        means = [one.estimates[a, fraction].mean - one.estimates[b, fraction].mean for one in (first, other)]
        if means[0] * means[1] < 0:
            changed += 1
            surely += all(one is not None and one.separable for one in (ours, theirs))
    return changed, surely


def said_of_pairs(first: Analysis, other: Analysis, methods: Sequence[str], fraction: float) -> str:
    """`3 of 10 pairs change places, none of them separably so in both`."""
    changed, surely = changed_places(first, other, methods, fraction)
    pairs = len(methods) * (len(methods) - 1) // 2
    if not changed:
        return "the same order"
    both = "none" if not surely else str(surely)
    return f"{changed} of {counted(pairs, 'pair')} change places ({both} separable by both)"
