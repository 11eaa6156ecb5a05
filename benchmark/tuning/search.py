"""A search: rounds of one trial a method, each round a small grid of stages and cells in a store of its own.

A trial pretrains on what it may see, fine-tunes at one fraction on the training part, and is scored on the validation
part (searched.py). Test volumes are closed to everything that trains or scores, and the audit proves it from what was
served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from voxbench.benchmark.planning.audit import Audit, Served, audit_plan, audit_search, near_duplicates
from voxbench.benchmark.planning.folds import Splits
from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.records.privacy import coder_for
from voxbench.benchmark.records.seal import is_whole, sealed
from voxbench.benchmark.records.store import Store, read_json, write_json
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.runner import Run, differences
from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.config import Config, Runtime
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION
from voxbench.benchmark.tuning.sampler import proposed
from voxbench.benchmark.tuning.space import Parameter, configured, space_of
from voxbench.benchmark.tuning.trials import Trial, Trials
from voxbench.datasets.base import Dataset
from voxbench.datasets.volumes.bank import VolumeBank

FILE = "search.json"
Work = Callable[[Run, Sequence[Task], str], None]
"""Carries out the tasks of a run; told what they are. Raises KeyboardInterrupt where it was stopped."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The search of one folder, `runtime.out`. `config` has one fraction, and the seeds that are searched on."""

    config: Config
    runtime: Runtime
    dataset: Dataset
    bank: VolumeBank
    splits: Splits
    seed: int  # of the sampler
    trials: Trials
    spaces: dict[str, tuple[Parameter, ...]] = field(default_factory=dict)  # method -> what is searched
    skipped: dict[str, str] = field(default_factory=dict)  # method -> why it is not searched; "": nothing of it is

    @classmethod
    def of(
        cls, config: Config, runtime: Runtime, dataset: Dataset, bank: VolumeBank, splits: Splits, seed: int
    ) -> Search:
        """A search for all methods of `config` that have something to be searched. Writes nothing.

        Raises BenchError where none has.
        """
        search = cls(
            config=config, runtime=runtime, dataset=dataset, bank=bank, splits=splits, seed=seed,
            trials=Trials(runtime.out),
        )  # fmt: skip
        search.skipped.update(search._planned(config).plan.skipped)
        for method in config.methods:
            if method not in search.skipped:
                space = space_of(config, method, dataset.shape)
                if space:
                    search.spaces[method] = space
                else:
                    search.skipped[method] = ""
        if not search.spaces:
            why = "; ".join(reason or f"{name} has nothing that is searched" for name, reason in search.skipped.items())
            raise BenchError(f"--methods: {why}")
        return search

    @property
    def folds(self) -> tuple[int, ...]:
        """Whose validation parts judge."""
        return tuple(next(iter(self.splits.folds.values())))

    @cached_property
    def store(self) -> Store:
        """Where the trials' stages and cells lie."""
        return Store(self.runtime.out)

    def open_folder(self) -> None:
        """Makes the folder, or checks that what it holds is of the same search. Raises BenchError where it is not."""
        path = self.runtime.out / FILE
        asked = self._identity()
        earlier = read_json(path)
        if earlier is None or not is_whole(earlier):
            write_json(path, sealed(asked))
            return
        del earlier["seal"]
        methods = {**earlier["methods"], **asked["methods"]}
        found = differences(earlier, {**asked, "methods": {name: methods[name] for name in earlier["methods"]}}, "")
        if found:
            raise BenchError(
                f"{self.runtime.out} holds the trials of another search ({'; '.join(found[:3])}): choose another --out"
            )
        write_json(path, sealed({**asked, "methods": methods}))  # methods may be added

    def carry_out(self, number: int, work: Work, title: str) -> None:
        """Trial `number` of each method that has not ended yet; a trial that fails is one that failed."""
        todo = [method for method in self.spaces if self.trials.get(method, number) is None]
        settings = {
            method: proposed(self.spaces[method], method, self.trials.before(method, number), self.seed)
            for method in todo
        }
        run, wrong = self._round(settings)
        if run is not None:
            self._audit(run, ()).refuse(run.name_of)
            tasks = run.tasks()
            if self.store.set_aside():
                tasks = run.tasks()
            if tasks:
                work(run, tasks, title)
        cells = {} if run is None else _by_method(run)
        for method in todo:
            trial = self._trial(method, number, settings[method], cells.get(method, ()), wrong.get(method))
            self.trials.add(trial)
        for key in () if run is None else run.plan.stages:
            self.store.drop_weights(key)  # a trial's weights are of no more use, and there are many trials

    def _round(self, settings: Mapping[str, Mapping[str, Any]]) -> tuple[Run | None, dict[str, str]]:
        """The small grid of one trial a method, and why a method is not in it: settings that it cannot have."""
        wrong: dict[str, str] = {}
        for method in settings:  # one by one: what one cannot have is not the others' failure
            try:
                configured(self.config, {method: settings[method]})
            except BenchError as error:
                wrong[method] = str(error).splitlines()[0]
        possible = {method: own for method, own in settings.items() if method not in wrong}
        if not possible:
            return None, wrong
        try:
            run = self._planned(configured(self._only(list(possible)), possible))
        except BenchError as error:  # none of them can be made
            return None, {**dict.fromkeys(possible, str(error)), **wrong}
        return run, {**wrong, **run.plan.skipped}

    def history(self, method: str, trials: int) -> list[Trial]:
        """The first trials of a method."""
        return self.trials.before(method, trials)

    def prove(self, trials: int) -> Audit:
        """Audits what all trials were really served, and writes the proof. Raises AuditError if there is a leak."""
        run = self._planned(self._only(list(self.spaces)))
        keys = {key: m for m in self.spaces for trial in self.history(m, trials) for key in trial.cells}
        records = ((method, self.store.cell(method, key)) for key, method in keys.items())
        served = [self._served(m, cell) for m, cell in records if cell is not None and cell["status"] == "ok"]
        audit = self._audit(run, served)
        coder = coder_for(self.dataset, self.runtime.out)
        record = audit.record(lambda i: coder.volume(self.bank.items[i]))
        write_json(
            self.runtime.out / "audit.json",
            {
                **record,
                "n_closed": len(self.splits.closed),
                "n_cells": len(served),
                "near_duplicates": near_duplicates(self.config.audit),
            },
        )
        audit.refuse(run.name_of)
        return audit

    def _audit(self, run: Run, served: Sequence[Served]) -> Audit:
        """Of the plan, within itself and against the closed volumes; and of what was served against these."""
        whole = audit_plan(run.plan, self.bank, self.config.audit)
        apart = audit_search(run.plan, self.bank, self.config.audit, self.splits.closed, served)
        for what, count in apart.checks.items():
            whole.checks[f"{what}, against closed test volumes"] = count
        whole.findings += apart.findings
        whole.warnings += apart.warnings
        return whole

    def _served(self, method: str, cell: Mapping[str, Any]) -> Served:
        stages = {key: self.store.stage(key) for key in cell["stages"]}
        names = cell["cell"]
        return Served(
            key=cell["key"],
            name=f"{method} fold {names['fold']} seed {names['seed']}",
            parts=cell["seen"],
            stages={key: record["seen"] for key, record in stages.items() if record and "seen" in record},
        )

    def _planned(self, config: Config) -> Run:
        shut = VolumeBank(self.bank.folder, self.splits.closed)
        return Run.planned(config, self.runtime, self.dataset, shut, self.splits)

    def _only(self, methods: Sequence[str]) -> Config:
        return self.config.model_copy(update={"methods": {name: self.config.methods[name] for name in methods}})

    def _trial(
        self, method: str, number: int, settings: Mapping[str, Any], cells: Sequence[CellPlan], wrong: str | None
    ) -> Trial:
        records = [self.store.cell(method, cell.key) or {} for cell in cells]
        stages = {key: self.store.stage(key) or {} for cell in cells for key in cell.stages}
        errors = [str(r.get("error", "it has no result")) for r in records if r.get("status") != "ok"]
        scores = tuple(float(record["metrics"]["auprc"]) for record in records if record.get("status") == "ok")
        spent = [stage.get("seconds", 0.0) for stage in stages.values()]
        spent += [record.get("costs", {}).get("finetune_seconds", 0.0) for record in records]
        error = wrong or next(iter(errors), None)
        return Trial(
            method=method,
            number=number,
            settings=dict(settings),
            auprc=None if error else float(np.mean(scores)),
            error=error,
            scores=scores,
            seconds=round(sum(spent), 3),
            cells=tuple(cell.key for cell in cells),
        )

    def _identity(self) -> dict[str, Any]:
        """What decides the trials, but for the code itself."""
        config = self.config
        return {
            "result_version": RESULT_VERSION,
            "data": self.bank.fingerprint,
            "settings": config.without_grid(),
            "fraction": config.protocol.fractions[0],
            "folds": list(self.folds),
            "seeds": list(config.protocol.seeds),
            "search_seed": self.seed,
            "methods": {
                method: {
                    "options": config.methods[method],
                    "recipes": config.recipes[method].model_dump(mode="json") if method in config.recipes else {},
                    "source": registry.source_digest("methods", config.method_spec(method)),
                    "searched": [[p.name, repr(p.span), p.default] for p in space],
                }
                for method, space in self.spaces.items()
            },
        }


def _by_method(run: Run) -> dict[str, list[CellPlan]]:
    found: dict[str, list[CellPlan]] = {}
    for cell in run.plan.cells.values():
        found.setdefault(cell.method, []).append(cell)
    return found
