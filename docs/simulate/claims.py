"""python claims.py [REPETITIONS]: false claims where no method is better, by studies in which models are trained.

Printed for each design: how often one pair is rejected at 5 % by the bootstrap (of the models as trained, so more
often: each training has its luck), by the t-test, and by both; and how often anything in the whole table, all pairs
and fractions, is called separable (promised: at most 5 %).
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from study import Design, simulate

from voxbench.reports.judging.analysis import resampled
from voxbench.reports.judging.comparison import ALPHA, compare_methods, split_ratio

DESIGNS = {
    "3 folds, 1 seed": Design(folds=3),
    "5 folds, 1 seed": Design(folds=5),
    "3 folds, 3 seeds": Design(folds=3, seeds=3),
    "5 folds, 3 seeds": Design(folds=5, seeds=3),
    "5 folds, 3 seeds, with 3 yardsticks": Design(folds=5, seeds=3, yardsticks=3),
    "5 folds, 3 seeds on one split (older folders)": Design(folds=5, seeds=3, shared_splits=True),
    "official split, 5 seeds": Design(official=True, seeds=5),
}


class Rates(NamedTuple):
    """Of one design."""

    bootstrap: float
    t_test: float
    both: float
    table: float


def rates(design: Design, repetitions: int, n_resamples: int = 200, seed: int = 0) -> Rates:
    """By simulation of `repetitions` studies."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(repetitions):
        grid = simulate(design, rng)
        draws = resampled(grid, n_resamples, number)
        pairs = [one for each in compare_methods(grid, draws, split_ratio(grid)).values() for one in each]
        bootstrap, t_test = (np.array([getattr(one, p) for one in pairs]) < ALPHA for p in ("p_bootstrap", "p_t"))
        found.append((bootstrap.mean(), t_test.mean(), (bootstrap & t_test).mean(), any(p.separable for p in pairs)))
    return Rates(*np.mean(found, axis=0))


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print("design | one pair: bootstrap t-test both | whole table")
    for name, design in DESIGNS.items():
        found = rates(design, count)
        print(f"{name} | {found.bootstrap:.3f} {found.t_test:.3f} {found.both:.3f} | {found.table:.3f}", flush=True)
