"""Ranks with ties, and whether average ranks over blocks differ (Demsar, JMLR 2006)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, studentized_range

Floats = npt.NDArray[np.float64]

N_PERMUTATIONS = 9999
SEED = 20240430


def shared_ranks(names: Sequence[str], beaten_by: Mapping[str, Collection[str]]) -> dict[str, int]:
    """1 + the number of methods that are separably better: methods that cannot be separated share a rank."""
    return {name: 1 + len(beaten_by.get(name, ())) for name in names}


@dataclass(frozen=True)
class RankTest:
    """Average ranks [k] over N blocks (1 = best), Friedman's test, and Nemenyi's critical difference."""

    ranks: Floats
    n_blocks: int
    chi2: float
    p: float
    critical_difference: float


def rank_test(scores: Floats, alpha: float = 0.05) -> RankTest:
    """`scores` [N, k], higher is better, no NaN; N >= 2 independent blocks and k >= 2 methods.

    Demsar 2006, section 3.2.2: chi2_F = 12 N / (k (k + 1)) (sum R^2 - k (k + 1)^2 / 4), divided by Conover's
    correction for ties; CD = q_alpha sqrt(k (k + 1) / (6 N)), with q_alpha of the studentized range over sqrt(2).
    The p value is from random permutations of the ranks within blocks, as Friedman (J. Am. Stat. Assoc. 1937) derived
    the test: with few blocks both his chi-squared and Iman and Davenport's F reject too often.
    """
    n, k = scores.shape
    each = np.stack([rankdata(-row) for row in scores])  # [N, k]
    ranks = each.mean(axis=0)
    tied = sum(int((counts**3 - counts).sum()) for counts in (np.unique(row, return_counts=True)[1] for row in each))
    correction = 1 - tied / (n * k * (k**2 - 1))
    chi2 = 12 * n / (k * (k + 1)) * (float((ranks**2).sum()) - k * (k + 1) ** 2 / 4)
    chi2 = chi2 / correction if correction > 0 else 0.0  # all tied everywhere: nothing differs
    q = float(studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)
    return RankTest(ranks, n, chi2, _permutation_p(each), q * math.sqrt(k * (k + 1) / (6 * n)))


def _permutation_p(ranks: Floats) -> float:
    """How often ranks [N, k] permuted within blocks spread the sums of the methods as far as they do."""
    rng = np.random.default_rng(SEED)
    drawn = rng.permuted(np.tile(ranks, (N_PERMUTATIONS, 1)), axis=1).reshape(N_PERMUTATIONS, *ranks.shape)
    spread, observed = (drawn.sum(axis=1) ** 2).sum(axis=1), (ranks.sum(axis=0) ** 2).sum()
    return float((1 + (spread >= observed - 1e-9).sum()) / (N_PERMUTATIONS + 1))


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
