"""Ranks with ties, and whether average ranks over blocks differ (Demsar, JMLR 2006)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import f as fisher
from scipy.stats import rankdata, studentized_range

Floats = npt.NDArray[np.float64]


def shared_ranks(names: Sequence[str], beaten_by: Mapping[str, Collection[str]]) -> dict[str, int]:
    """1 + the number of methods that are separably better: methods that cannot be separated share a rank."""
    return {name: 1 + len(beaten_by.get(name, ())) for name in names}


@dataclass(frozen=True)
class RankTest:
    """Average ranks [k] over N blocks (1 = best), Friedman's test, and Nemenyi's critical difference."""

    ranks: Floats
    n_blocks: int
    chi2: float
    f: float  # Iman and Davenport's, less conservative
    p: float  # of f
    critical_difference: float


def rank_test(scores: Floats, alpha: float = 0.05) -> RankTest:
    """`scores` [N, k], higher is better, no NaN; N >= 2 blocks and k >= 2 methods.

    Demsar 2006, section 3.2.2: chi2_F = 12 N / (k (k + 1)) (sum R^2 - k (k + 1)^2 / 4), divided by Conover's
    correction for ties; F_F = (N - 1) chi2 / (N (k - 1) - chi2); CD = q_alpha sqrt(k (k + 1) / (6 N)), with
    q_alpha of the studentized range over sqrt(2).
    """
    n, k = scores.shape
    each = np.stack([rankdata(-row) for row in scores])  # [N, k]
    ranks = each.mean(axis=0)
    tied = sum(int((counts**3 - counts).sum()) for counts in (np.unique(row, return_counts=True)[1] for row in each))
    correction = 1 - tied / (n * k * (k**2 - 1))
    chi2 = 12 * n / (k * (k + 1)) * (float((ranks**2).sum()) - k * (k + 1) ** 2 / 4)
    chi2 = chi2 / correction if correction > 0 else 0.0  # all tied everywhere: nothing differs
    room = n * (k - 1) - chi2
    f = (n - 1) * chi2 / room if room > 1e-9 else math.inf
    p = float(fisher.sf(f, k - 1, (k - 1) * (n - 1)))
    q = float(studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)
    return RankTest(ranks, n, chi2, f, p, q * math.sqrt(k * (k + 1) / (6 * n)))


def indistinct_groups(ranks: Floats, critical_difference: float) -> list[tuple[int, ...]]:
    """Largest groups of neighbours in rank whose ranks differ by at most the critical difference: a
    diagram's bars."""
    order = np.argsort(ranks, kind="stable")
    groups: list[tuple[int, ...]] = []
    for start in range(len(order)):
        members = [int(i) for i in order[start:] if ranks[i] - ranks[order[start]] <= critical_difference]
        if len(members) > 1 and not any(set(members) <= set(group) for group in groups):
            groups.append(tuple(members))
    return groups
