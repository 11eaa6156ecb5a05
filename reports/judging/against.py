"""How methods stand against one that they are measured by, in words."""

from __future__ import annotations

import math

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.comparison import Comparison
from voxbench.reports.judging.words import listed, signed


def against(analysis: Analysis, reference: str, fraction: float, *, ends: bool = False) -> str:
    """`separably better: a (+0.031); not separable from it: b`; "" where no method is compared with `reference`.

    `ends`: with the interval of each difference.
    """
    others = [m for m in analysis.grid.methods if m != reference and m not in analysis.grid.yardsticks]
    pairs = [analysis.between(m, reference, fraction) for m in others]
    known = [one for one in pairs if one is not None]
    better = [by(one, ends=ends) for one in known if one.separable and one.difference > 0]
    worse = [by(one, ends=ends) for one in known if one.separable and one.difference < 0]
    open_ = [by(one, ends=True) if ends else one.first for one in known if not one.separable]
    parts = [f"separably better: {listed(better)}"] if better else []
    parts += [f"separably worse: {listed(worse)}"] if worse else []
    parts += [f"not separable from it: {listed(open_)}"] if open_ else []
    return "; ".join(parts)


def by(one: Comparison, *, ends: bool = False) -> str:
    """`a (+0.031)`; with the interval's `ends` `a (+0.031, +0.010 to +0.052)`."""
    between = f", {signed(one.low)} to {signed(one.high)}" if ends and not math.isnan(one.low) else ""
    return f"{one.first} ({signed(one.difference)}{between})"
