"""Did a stage learn? The loss fell, embeddings spread, and frozen features tell more than those it began with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxbench.reports.judging.words import counted, signed
from voxbench.reports.reading.grid import Grid
from voxbench.reports.reading.results import Stage

END = 5  # a fifth of a curve at either end is averaged
SURE = 2.0  # standard errors by which a loss must have fallen


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What all runs of one stage of a method tell. What is not known is NaN."""

    method: str
    stage: str
    runs: int
    first_loss: float  # smoothed, mean over runs
    last_loss: float
    fell: int  # runs in which the loss fell by more than its noise
    told: int  # runs whose curve tells
    collapsed: int
    collapse: float  # last value, mean over runs
    probe: float  # AUPRC out of fold of a linear probe on frozen features, mean over runs
    initial: float  # of the encoder that the stage began with
    low: float  # 95 % interval of their difference
    high: float
    shape: Mapping[str, float]  # rankme, alignment, uniformity; mean over runs
    initial_shape: Mapping[str, float]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against its having learnt anything."""
        found = []
        if 2 * self.fell < self.told:
            found.append("its loss did not fall" + self._in_runs(self.told - self.fell))
        if self.collapsed:
            found.append("its embeddings collapsed" + self._in_runs(self.collapsed))
        return tuple(found)

    @property
    def unseen(self) -> str:
        """What a linear probe says where it does not see that features became better; "" where it does or was not made.

        No doubt by itself: what a network learns by reconstruction lies less in lines through its features than in
        where fine-tuning starts (He et al., CVPR 2022, section 4.3).
        """
        if math.isnan(self.low) or self.low > 0:
            return ""
        worse = "worse than" if self.high < 0 else "not separably better than"
        by = f"AUPRC {signed(self.probe - self.initial)}, {signed(self.low)} to {signed(self.high)}"
        return f"its frozen features are {worse} those it began with ({by})"

    def _in_runs(self, count: int) -> str:
        return f" in {count} of {counted(self.runs, 'run')}" if self.runs > 1 else ""


def learning(grid: Grid) -> tuple[Learning, ...]:
    """Of each stage that came to an end, in the order of the methods."""
    groups: dict[tuple[str, str], list[Stage]] = {}
    for stage in grid.stages:
        if stage.method in grid.methods and stage.status == "ok":
            groups.setdefault((stage.method, stage.name), []).append(stage)
    order = {method: i for i, method in enumerate(grid.methods)}
    return tuple(_learning(groups[key]) for key in sorted(groups, key=lambda key: (order[key[0]], key[1])))


def _learning(stages: Sequence[Stage]) -> Learning:
    falls = [fall for stage in stages if (fall := fall_of(stage.curve)) is not None]
    diagnoses = [stage.diagnosis for stage in stages if stage.diagnosis is not None]
    probe = {name: _mean([one.probe[name] for one in diagnoses]) for name in ("auprc", "initial", "low", "high")}
    shapes = ("rankme", "alignment", "uniformity")
    return Learning(
        method=stages[0].method,
        stage=stages[0].name,
        runs=len(stages),
        first_loss=_mean([first for first, _, _ in falls]),
        last_loss=_mean([last for _, last, _ in falls]),
        fell=sum(first - last > SURE * error for first, last, error in falls),
        told=len(falls),
        collapsed=sum(stage.collapsed for stage in stages),
        collapse=_mean([math.nan if stage.collapse is None else stage.collapse for stage in stages]),
        probe=probe["auprc"],
        initial=probe["initial"],
        # Ends of several runs are averaged: they share patients, so their mean is hardly surer than one of them.
        low=probe["low"],
        high=probe["high"],
        shape={name: _mean([one.trained[name] for one in diagnoses]) for name in shapes},
        initial_shape={name: _mean([one.initial[name] for one in diagnoses]) for name in shapes},
    )


def fall_of(curve: Sequence[Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """(first, last, standard error of their difference) of a smoothed loss curve; None of fewer than four points.

    The noise is that of neighbouring points' differences, which a trend hardly touches (von Neumann et al., Annals of
    Mathematical Statistics 1941).
    """
    losses = np.array([float(point["loss"]) for point in curve if point.get("loss") is not None])
    losses = losses[np.isfinite(losses)]
    if len(losses) < 4:
        return None
    count = max(2, len(losses) // END)
    noise = float(np.std(np.diff(losses), ddof=1)) / math.sqrt(2)
    return float(losses[:count].mean()), float(losses[-count:].mean()), noise * math.sqrt(2 / count)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
