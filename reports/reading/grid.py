"""The grid of one dataset: which cells there should be, and what became of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from voxbench.reports.reading.results import EVALUATIONS, OWN, Ints, Place, Row, RunFolder, Stage, Units
from voxbench.reports.reading.searches import searches, standing
from voxbench.reports.stats.average_precision import macro_average_precision, no_skill, prevalence

State = Literal["ok", "failed", "missing", "half-done", "undefined"]
"""ok; failed with an error; never run; called ok but without usable scores; or its test part lacks a
class."""

PROBABILITIES_FROM = 5  # the result version that takes class weights out of the scores
_TOLERANCE = 1e-6  # between results.csv, which may be rounded, and what predictions.csv gives


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell, done or not. `auprc` is finite exactly where `state` is "ok"."""

    place: Place
    state: State
    auprc: float = math.nan
    units: Units | None = None
    row: Row | None = None
    why: str = ""  # one line, where the cell is not ok


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What is compared at a fraction: methods, and the replicates in which every one of them has a score."""

    methods: tuple[str, ...]  # in the run's order
    replicates: tuple[tuple[int, int], ...]  # (fold, seed)
    left_out: Mapping[str, int]  # method -> its scores, too few of them in the replicates of the others


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All cells of one dataset by one evaluation, with what was run on.

    Methods stand in the run's order, yardsticks after all others; fractions ascend.
    """

    name: str
    classes: tuple[str, ...]
    dataset: Mapping[str, Any]
    methods: tuple[str, ...]
    roles: Mapping[str, str]  # method -> "method", "baseline" or "yardstick"
    fractions: tuple[float, ...]
    replicates: tuple[tuple[int, int], ...]  # (fold, seed)
    cells: Mapping[Place, Cell]
    stages: tuple[Stage, ...]
    remarks: tuple[str, ...]
    searches: Sequence[Mapping[str, Any]] = ()  # for settings, as `bench tune` tells them
    standings: Mapping[str, str] = field(default_factory=dict)  # method -> whether its settings were tuned
    scores_weighted: bool = False  # still with the class weights of training, so no probabilities
    evaluation: str = "finetune"

    @property
    def title(self) -> str:
        """The dataset, and how the encoders were evaluated where it was not by fine-tuning."""
        return self.name if self.evaluation == "finetune" else f"{self.name}, {EVALUATIONS[self.evaluation]}"

    def at(self, method: str, fraction: float) -> tuple[Cell, ...]:
        """The cells of a method at a fraction, a cell a replicate, in the order of `replicates`."""
        return tuple(self.cells[self._place(method, fraction, *replicate)] for replicate in self.replicates)

    def shared(self, fraction: float) -> Shared:
        """What is compared at a fraction.

        Over the same replicates means, ranks and tests cannot contradict one another; over whatever each method has, a
        method that failed where it is hard would look good. Methods join in the order of their number of scores (equal
        ones by name), and one that would leave less than half of the first one's replicates is left out, so that one
        broken method does not take the results of all others along.
        """
        own = {m: {c.place.replicate for c in self.at(m, fraction) if c.state == "ok"} for m in self.methods}
        order = sorted((m for m in own if own[m]), key=lambda m: (-len(own[m]), m))
        common = own[order[0]] if order else set()
        joined = []
        for method in order:
            if 2 * len(common & own[method]) >= len(own[order[0]]):
                common = common & own[method]
                joined.append(method)
        return Shared(
            methods=tuple(m for m in self.methods if m in joined),
            replicates=tuple(replicate for replicate in self.replicates if replicate in common),
            left_out={m: len(own[m]) for m in self.methods if own[m] and m not in joined},
        )

    def ok(self, method: str, fraction: float) -> tuple[Cell, ...]:
        """The cells that a method's numbers are from: those of `at` in the shared replicates."""
        shared = self.shared(fraction)
        if method not in shared.methods:
            return ()
        return tuple(self.cells[self._place(method, fraction, *replicate)] for replicate in shared.replicates)

    def _place(self, method: str, fraction: float, fold: int, seed: int) -> Place:
        return Place(method, fraction, fold, seed, self.evaluation)

    def troubled(self) -> tuple[Cell, ...]:
        """Cells that are not ok, in order."""
        return tuple(cell for _, cell in sorted(self.cells.items()) if cell.state != "ok")

    @property
    def folds(self) -> tuple[int, ...]:
        """Fold numbers, ascending."""
        return tuple(sorted({fold for fold, _ in self.replicates}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds, ascending."""
        return tuple(sorted({seed for _, seed in self.replicates}))

    @property
    def seeds_share_splits(self) -> bool:
        """Whether all seeds of a cross-validation test the same units in a fold, as folders of before version 5 do."""
        parts: dict[int, dict[int, frozenset[str]]] = {}
        for cell in self.scored:
            assert cell.units is not None
            parts.setdefault(cell.place.fold, {}).setdefault(cell.place.seed, frozenset(cell.units.volumes))
        several = [list(tested.values()) for tested in parts.values() if len(tested) > 1]
        return len(self.folds) > 1 and bool(several) and all(len(set(tested)) == 1 for tested in several)

    @property
    def baseline(self) -> str | None:
        """The method without pretraining that the others are measured against. None where it has no score."""
        scored = {cell.place.method for cell in self.scored}
        return next((m for m in self.methods if self.roles[m] == "baseline" and m in scored), None)

    @property
    def yardsticks(self) -> tuple[str, ...]:
        """The methods that are formulas or the like, which a network should be better than."""
        return tuple(method for method in self.methods if self.roles[method] == "yardstick")

    @property
    def scored(self) -> tuple[Cell, ...]:
        """All cells with a score, in order."""
        return tuple(cell for _, cell in sorted(self.cells.items()) if cell.state == "ok")

    @property
    def compared(self) -> tuple[Cell, ...]:
        """The cells that all numbers are from, in order: see `shared`."""
        return tuple(sorted((c for m in self.methods for f in self.fractions for c in self.ok(m, f)), key=_by_place))

    @property
    def prevalence(self) -> float:
        """The share of positives, mean over the replicates that are compared; of several classes of their shares."""
        return self._over_parts(prevalence)

    @property
    def no_skill(self) -> float:
        """The AUPRC that a random ranking of the test parts has on average, which is more than the prevalence."""
        return self._over_parts(no_skill)

    def _over_parts(self, of: Callable[[Ints, int], float]) -> float:
        # Methods and fractions share their test units.
        parts = {c.place.replicate: (c.units.labels, c.units.scores.shape[1]) for c in self.compared if c.units}
        return float(np.mean([of(*part) for part in parts.values()])) if parts else math.nan


def _by_place(cell: Cell) -> Place:
    return cell.place


def build_grid(run: RunFolder, evaluation: str | None = None) -> Grid:
    """The grid of a run by one of its evaluations, None: the main one, where predictors' rows stand as well.

    What config.yaml plans and results.csv has, each cell with its state.
    """
    evaluation = evaluation or run.evaluations[0]
    whole, run = run, _by(run, evaluation)
    rows = {row.place: row for row in run.rows}
    methods = _ordered(_planned_methods(run.config), (row.place.method for row in run.rows))
    roles = _roles(methods, whole.rows)
    methods = tuple(sorted(methods, key=lambda method: roles[method] == "yardstick"))
    fractions = tuple(sorted({*_planned(run.config, "fractions"), *(p.fraction for p in rows)}))
    replicates = _replicates(run, rows)
    remarks = list(run.remarks)
    cells: dict[Place, Cell] = {}
    for method in methods:
        for fraction in fractions:
            for fold, seed in replicates:
                place = Place(method, fraction, fold, seed, evaluation)
                cells[place] = _cell(place, rows.get(place), run.units.get(place))
    remarks += _orphans(run)
    remarks += _disagreements(cells.values())
    return Grid(
        name=run.dataset_name,
        classes=run.classes,
        dataset=run.dataset,
        methods=methods,
        roles=roles,
        fractions=fractions,
        replicates=replicates,
        cells=cells,
        stages=run.stages,
        remarks=tuple(remarks),
        searches=searches(run.config),
        standings={method: standing(run.config, method) for method in methods},
        scores_weighted=int(run.environment.get("result_version") or 0) < PROBABILITIES_FROM,
        evaluation=evaluation,
    )


def _by(run: RunFolder, evaluation: str) -> RunFolder:
    """What of a run belongs to an evaluation. Predictors have one of their own: it stands in the main grid alone."""
    main = evaluation == run.evaluations[0]
    wanted = {evaluation, OWN} if main else {evaluation}
    fitted = {row.place.method for row in run.rows if row.place.evaluation == OWN}
    planned = {name: own for name, own in (run.config.get("methods") or {}).items() if main or name not in fitted}
    return replace(
        run,
        config={**run.config, "methods": planned},
        rows=tuple(
            replace(row, place=replace(row.place, evaluation=evaluation))
            for row in run.rows
            if row.place.evaluation in wanted
        ),
        units={
            replace(place, evaluation=evaluation): units
            for place, units in run.units.items()
            if place.evaluation in wanted
        },
    )


def _cell(place: Place, row: Row | None, units: Units | None) -> Cell:
    cell = Cell(place=place, state="missing", row=row, units=units, why="not run, or not finished")
    if row is None:
        return replace(cell, units=None)
    if row.status == "failed":
        return replace(cell, state="failed", units=None, why=row.error or "failed without a message")
    if units is None:
        return replace(cell, state="half-done", why="done, but predictions.csv has no usable scores of it")
    auprc = float(macro_average_precision(units.labels, units.scores)[0])
    if math.isnan(auprc):
        return replace(cell, state="undefined", why="its test part has one class only, so no AUPRC is defined")
    return replace(cell, state="ok", auprc=auprc, why="")


def _planned_methods(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the methods that config.yaml plans: its `methods` maps them to their options."""
    return tuple(str(name) for name in config.get("methods") or ())


def _planned(config: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """Numbers of config.yaml's `protocol`: a list of them, or a count n that stands for 0 .. n - 1."""
    planned = (config.get("protocol") or {}).get(key, ())
    return tuple(map(float, range(planned) if isinstance(planned, int) else planned))


def _ordered(planned: Sequence[str], found: Iterable[str]) -> tuple[str, ...]:
    """Methods in the order of the plan, then those that only the results have."""
    return tuple(dict.fromkeys([*planned, *found]))


def _roles(methods: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """What each method stands for, as its rows say; where they do not, `supervised` is the baseline by its name."""
    said = {row.place.method: row.role for row in rows if row.role}
    return {m: said.get(m, "baseline" if m == "supervised" else "method") for m in methods}


def _replicates(run: RunFolder, rows: Mapping[Place, Row]) -> tuple[tuple[int, int], ...]:
    """(fold, seed) that the results have, and those that the plan names.

    An official split has fold 0 alone, whatever number of folds is planned. A folder that does not tell (before
    dataset.json had `official_split`) has one where there is no other fold.
    """
    found = {place.replicate for place in rows}
    folds = {fold for fold, _ in found}
    seeds = {seed for _, seed in found} | {int(seed) for seed in _planned(run.config, "seeds")}
    if not run.dataset.get("official_split", folds == {0}):
        folds |= {int(fold) for fold in _planned(run.config, "folds")}
    return tuple(sorted((fold, seed) for fold in folds for seed in seeds))


def _orphans(run: RunFolder) -> list[str]:
    places = {row.place for row in run.rows if row.status == "ok"}
    count = sum(place not in places for place in run.units)
    return [f"predictions.csv has scores of {count} cells that results.csv does not call ok: ignored"] if count else []


def _disagreements(cells: Iterable[Cell]) -> list[str]:
    worst = max(
        (
            abs(cell.auprc - cell.row.metrics["auprc"])
            for cell in cells
            if cell.state == "ok" and cell.row is not None and not math.isnan(cell.row.metrics["auprc"])
        ),
        default=0.0,
    )
    if worst <= _TOLERANCE:
        return []
    return [f"results.csv and predictions.csv differ in AUPRC by up to {worst:.2g}: predictions.csv is used here"]
