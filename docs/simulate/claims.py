"""python claims.py [REPETITIONS [WORD ...]]: false claims where no method is better, by studies in which models are
trained. With words only the designs whose names hold one of them.

Printed for each design: how often one pair is rejected at 5 % by the bootstrap (of the models as trained, so more
often: each training has its luck), by the t-test, and by both; how often anything in the whole table, all pairs and
fractions, yardsticks among them, is called separable; how often a row without skill is called better than no skill;
and how often the table makes any false claim (promised: at most 5 %).
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from study import Design, simulate

from voxbench.reports.judging.analysis import ALPHA, analyse

DESIGNS = {
    "3 folds, 1 seed": Design(folds=3),
    "5 folds, 1 seed": Design(folds=5),
    "3 folds, 3 seeds": Design(folds=3, seeds=3),
    "5 folds, 3 seeds": Design(folds=5, seeds=3),
    "5 folds, 3 seeds, with 3 yardsticks": Design(folds=5, seeds=3, yardsticks=3),
    "5 folds, 3 seeds on one split (older folders)": Design(folds=5, seeds=3, shared_splits=True),
    "3 folds, 3 seeds on one split (older folders), with 3 yardsticks": Design(
        folds=3, seeds=3, shared_splits=True, yardsticks=3
    ),
    "official split, 3 seeds": Design(official=True, seeds=3),
    "official split, 5 seeds": Design(official=True, seeds=5),
    "official split, 5 seeds, with 3 yardsticks": Design(official=True, seeds=5, yardsticks=3),
    "official split, 5 seeds, with 3 yardsticks, no difference given its training part": Design(
        official=True, seeds=5, yardsticks=3, one_method=True
    ),
    "no skill, 3 folds, 1 seed, with 3 yardsticks": Design(folds=3, yardsticks=3, signal=0.0),
    "no skill, 5 folds, 3 seeds, with 3 yardsticks": Design(folds=5, seeds=3, yardsticks=3, signal=0.0),
    "no skill, official split, 5 seeds, with 3 yardsticks": Design(official=True, seeds=5, yardsticks=3, signal=0.0),
}


class Rates(NamedTuple):
    """Of one design: the first three of one pair, the others of a whole table."""

    bootstrap: float
    t_test: float
    both: float
    separable: float
    skill: float
    table: float


def rates(design: Design, repetitions: int, n_resamples: int = 200, seed: int = 0) -> Rates:
    """By simulation of `repetitions` studies."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(repetitions):
        analysis = analyse(simulate(design, rng), n_resamples, number)
        pairs = [one for each in analysis.comparisons.values() for one in each]
        bootstrap, t_test = (np.array([getattr(one, p) for one in pairs]) < ALPHA for p in ("p_bootstrap", "p_t"))
        separable = any(one.separable for one in pairs)
        skill = not design.signal and any(analysis.beats_chance(*row) for row in analysis.estimates)
        both = (bootstrap & t_test).mean()
        found.append((bootstrap.mean(), t_test.mean(), both, separable, skill, separable or skill))
    return Rates(*np.mean(found, axis=0))


if __name__ == "__main__":
    count, words = int(sys.argv[1]) if len(sys.argv) > 1 else 300, sys.argv[2:]
    print("design | one pair: bootstrap t-test both | whole table: separable, better than no skill, either")
    for name, design in DESIGNS.items():
        if words and not any(word in name for word in words):
            continue
        found = rates(design, count)
        print(
            f"{name} | {found.bootstrap:.3f} {found.t_test:.3f} {found.both:.3f}",
            f"| {found.separable:.3f} {found.skill:.3f} {found.table:.3f}",
            flush=True,
        )
