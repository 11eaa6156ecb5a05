"""One `bench run`: plan, audit, work, collect."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import yaml

from voxbench.benchmark.planning.audit import Audit, Served, audit_plan, audit_seen, near_duplicates
from voxbench.benchmark.planning.folds import Splits
from voxbench.benchmark.planning.plan import Plan, make_plan
from voxbench.benchmark.planning.volumes import sample
from voxbench.benchmark.records.plugins import keep_plugins
from voxbench.benchmark.records.privacy import Coder, coder_for, key_table, known_coder
from voxbench.benchmark.records.provenance import provenance
from voxbench.benchmark.records.salt import VARIABLE, place
from voxbench.benchmark.records.store import Store, read_json, write_json
from voxbench.benchmark.running.executor import Executor
from voxbench.benchmark.running.grid import Grid
from voxbench.benchmark.running.local import Local
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.results import current_cells, slot_of, write_tables
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.settings.assemble import build_dataset
from voxbench.benchmark.settings.config import Config, Evaluation, Runtime
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION
from voxbench.benchmark.settings.presets import merge
from voxbench.benchmark.settings.recipes import OwnRecipes
from voxbench.datasets.base import Dataset
from voxbench.datasets.splits import official_fold
from voxbench.datasets.volumes.bank import BankDamagedError, VolumeBank


@dataclass(kw_only=True)
class Run:
    """A planned run, and what of it is done."""

    config: Config
    runtime: Runtime
    dataset: Dataset
    bank: VolumeBank
    plan: Plan
    store: Store

    @classmethod
    def planned(
        cls, config: Config, runtime: Runtime, dataset: Dataset, bank: VolumeBank, splits: Splits | None = None
    ) -> Run:
        """Plans; writes nothing. `splits` stand in place of the run's own."""
        plan = make_plan(config, dataset, bank.items, bank.fingerprint, sample(bank), splits)
        return cls(config=config, runtime=runtime, dataset=dataset, bank=bank, plan=plan, store=Store(runtime.out))

    @classmethod
    def of_grid(cls, grid: Grid, device: str, keys: Iterable[str] | None = None) -> Run:
        """A run as it was asked for earlier, on `device` of this machine; with `keys` no more of it than they need.

        Raises BenchError where its volumes cannot be opened here, or it would be planned as another by now.
        """
        keys = None if keys is None else list(keys)
        config = grid.config if keys is None else grid.narrowed(keys)
        runtime = grid.runtime.model_copy(update={"device": device})
        dataset = build_dataset(config, runtime.data_root)
        try:
            bank = VolumeBank(grid.bank)
        except BankDamagedError:
            raise BenchError(
                f"{grid.bank}: no prepared volumes here, or damaged ones: give --cache a folder that all machines "
                "share, and run the same `bench run` again"
            ) from None
        run = cls.planned(config, runtime, dataset, bank)
        if not {*(grid.jobs if keys is None else keys)} <= {*run.plan.stages, *run.plan.cells}:
            raise BenchError(
                f"{runtime.out}: its jobs would be planned as others now, for voxbench, a method's file or the data "
                "have changed: run the same `bench run` again"
            )
        return run

    def done(self) -> set[str]:
        """Keys of jobs with a result; failed ones are tried again."""
        stages = {key for key in self.plan.stages if _ok(self.store.stage(key))}
        cells = {key for key, cell in self.plan.cells.items() if _ok(self.store.cell(cell.method, key))}
        return stages | cells

    def tasks(self, keys: Set[str] | None = None) -> list[Task]:
        """Jobs without a result, stages first: of `keys`, or all, less the stages that no unfinished cell needs."""
        done = self.done()
        cells = [cell for key, cell in self.plan.cells.items() if key not in done and (keys is None or key in keys)]
        needed = {key for cell in cells if cell.hopeless is None for key in cell.stages} | (keys or set())
        done -= {key for key in needed & done & self.plan.stages.keys() if not self.store.has_weights(key)}
        stages = [
            stage
            for key, stage in self.plan.stages.items()
            if key in needed and key not in done and (keys is None or key in keys)
        ]
        efforts = effort(self)
        return [
            *(Task(job=stage, after=stage.upstream, effort=efforts[stage.key]) for stage in stages),
            *(Task(job=cell, after=cell.stages, effort=efforts[cell.key]) for cell in cells),
        ]

    def check_folder(self) -> dict[str, Any] | None:
        """The configuration that the run folder has results of, or None; writes nothing.

        Raises BenchError where those cannot stand in one table with this run's.
        """
        if not self.store.has_results():
            return None
        earlier = _read_config(self.store)
        if earlier is not None:
            # With an official split, folds are no more than the usual number of seeds.
            _check_same(earlier, self.config, self.store, {"folds"} if self.dataset.has_official_split else set())
        known = read_json(self.store.root / "dataset.json", {"fingerprint"})
        if known is None:
            return earlier
        if known["fingerprint"] != self.bank.fingerprint:
            raise BenchError(
                f"{self.store.root} holds results on other data (fingerprint {known['fingerprint'][:12]}, now "
                f"{self.bank.fingerprint[:12]}): choose another --out"
            )
        if "salt_check" in known:
            coder = known_coder(self.dataset, self.store.root)
            if coder is None or coder.check != known["salt_check"]:
                raise BenchError(_other_salt(self.store.root, known["salt_check"]))
        return earlier

    def open_folder(self) -> None:
        """Makes the run folder, or adds to what it holds."""
        self.check_folder()
        self._write_config()
        keep_plugins(self.store, self.config)
        write_json(self.store.root / "dataset.json", _describe(self))
        write_json(self.store.root / "environment.json", provenance(torch.device(self.runtime.device)))
        coder = coder_for(self.dataset, self.store.root)
        self.store.write_private("ids.csv", key_table(coder, self.bank.items))

    def _write_config(self) -> None:
        """What the folder holds results of, and what this run adds.

        Also at the end: of two runs in one folder, the later to begin does not know the other's methods yet.
        """
        earlier = _read_config(self.store) if self.store.has_results() else None
        data = self.config.model_dump(mode="json")
        for name in self.plan.skipped:  # or the report would miss its cells
            data["methods"].pop(name, None)  # of METHOD@ENCODER nothing is there
            data["sources"].pop(name, None)
        if not data["encoders"]:
            del data["encoders"]
        if data["tuned"] is None:
            del data["tuned"]
        if earlier is not None:
            # What was planned once and has no result yet is not asked for any more.
            found = [cell["cell"] for cell in self.store.cells() if "cell" in cell]
            known = {name for names in found for name in (names["method"], self.config.method_of(names["method"]))}
            for key in ("methods", "sources", "recipes"):
                kept = {name: value for name, value in (earlier.get(key) or {}).items() if name in known}
                data[key] = merge(kept, data[key])
            if "tuned" in earlier:
                data.setdefault("tuned", earlier["tuned"])
            for key, name in (("fractions", "fraction"), ("seeds", "seed")):
                data["protocol"][key] = sorted({*(names[name] for names in found), *data["protocol"][key]})
            judged = {names.get("evaluation", "finetune") for names in found} | {*data["protocol"]["evaluate"]}
            data["protocol"]["evaluate"] = [name for name in get_args(Evaluation) if name in judged]
        self.store.write_yaml("config.yaml", data)

    def audit_before(self) -> None:
        """Audits the plan, writes the proof, and raises AuditError if there is a leak."""
        self._write_audit({"planned": self.plan_audit}, set(self.plan.cells))
        self.plan_audit.refuse(self.name_of)

    @cached_property
    def plan_audit(self) -> Audit:
        """The audit of the plan; writes nothing."""
        return audit_plan(self.plan, self.bank, self.config.audit)

    def name_of(self, position: int) -> str:
        """A volume's name, for the user's own eyes."""
        return self.bank.items[position].volume

    def setup(self, workers: int | None = None) -> Setup:
        """What a process needs to carry out this run's jobs."""
        return Setup(
            config=self.config,
            runtime=self.runtime if workers is None else self.runtime.model_copy(update={"workers": workers}),
            bank=self.bank.folder,
            provenance=provenance(torch.device(self.runtime.device)),
            closed=self.bank.closed,
        )

    def work(self, tasks: Sequence[Task], executor: Executor | None = None) -> None:
        """Carries out `tasks`, or gives them to a scheduler; None: on this machine."""
        (executor or Local(self.setup())).submit(tasks)

    def collect(self) -> list[dict[str, Any]]:
        """Audits what was really served, writes the tables, and returns the cells that stand in them."""
        self.store.tidy()
        cells = current_cells(self.store, self.plan, self.config)
        copies = self.config.audit.near_duplicates != "off"
        done = [self._served(cell) for cell in cells if cell["status"] == "ok"]
        served = audit_seen(self.plan, self.bank, done, copies=copies)
        standing = {*self.plan.cells, *(cell["key"] for cell in cells)}
        self._write_audit({"planned": self.plan_audit, "served": served}, standing)
        served.refuse(self.name_of)
        write_tables(self.store, cells)
        self._write_config()
        return cells

    def _served(self, cell: Mapping[str, Any]) -> Served:
        records = {key: self.store.stage(key) for key in cell["stages"]}
        method, fraction, fold, seed, evaluation = slot_of(cell)
        by = "" if evaluation == "finetune" else f" {evaluation}"
        return Served(
            key=cell["key"],
            name=f"{method}{by} {fraction:.0%} fold {fold} seed {seed}",
            parts=cell["seen"],
            stages={key: record["seen"] for key, record in records.items() if record and _ok(record)},
        )

    def _write_audit(self, parts: Mapping[str, Audit], cells: Set[str]) -> None:
        coder = coder_for(self.dataset, self.store.root)
        record = {name: part.record(lambda i: coder.volume(self.bank.items[i])) for name, part in parts.items()}
        outcomes = {part["outcome"] for part in record.values()}
        write_json(
            self.store.root / "audit.json",
            {
                "outcome": "leak" if "leak" in outcomes else "clean",
                "n_volumes": len(self.bank.items),
                "n_patients": len({item.patient for item in self.bank.items}),
                "n_cells": len(cells),
                "n_stages": len(self.plan.stages),
                "near_duplicates": near_duplicates(self.config.audit),
                "caveat": self.dataset.split_caveat,
                "normalisation": "each volume by its own intensities: no statistic crosses volumes",
                **record,
            },
        )


FORWARD_SHARE = 1 / 3  # of a training step's work that a forward pass is


def effort(run: Run) -> dict[str, float]:
    """Expected effort a job, in volumes that pass through a network: weights for a progress bar."""
    efforts = {key: float(stage.volumes) for key, stage in run.plan.stages.items()}
    for key, cell in run.plan.cells.items():
        if not cell.trained:
            looks = len(cell.train) + len(cell.val) + len(cell.pool) + len(cell.test)
            efforts[key] = looks * FORWARD_SHARE
            continue
        recipe = run.config.finetune_recipe(cell.method)
        steps = recipe.steps_for(len(cell.train)) if cell.train else 0
        looked_at = recipe.evaluations * len(cell.val) + len(cell.test)
        efforts[key] = (
            steps * min(recipe.batch, len(cell.train)) + looked_at * FORWARD_SHARE if not cell.hopeless else 1.0
        )
    return efforts


def _ok(record: Mapping[str, Any] | None) -> bool:
    return bool(record) and record["status"] == "ok" and record["result_version"] == RESULT_VERSION  # type: ignore[index]


def _read_config(store: Store) -> dict[str, Any] | None:
    path = store.root / "config.yaml"
    if not path.exists():
        return None
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        Config.model_validate(data)
    except (yaml.YAMLError, ValueError) as error:  # also bytes that are no text
        raise BenchError(
            f"{path}: not a configuration of this version of voxbench: if it was damaged, delete it, and the same "
            "command writes it anew; else choose another --out"
        ) from error
    return dict(data)


def _other_salt(run: Path, check: str) -> str:
    """How to come by the right salt; the run folder's own may be another one, put there by hand."""
    own = place(run)
    made = "that is the file voxbench/salt in ~/.config on the machine that made them, if it was Linux"
    if own.is_file() and os.environ.get(VARIABLE) and Coder(own.read_bytes()).check == check:
        made = f"unset it, for {own} is theirs"
    elif own.is_file():
        made = f"{own} is not theirs"
    return (
        f"{run} holds results whose patients have codes of another salt: set {VARIABLE} to the one that they were made "
        f"with ({made}), or choose another --out"
    )


def _check_same(earlier: Mapping[str, Any], config: Config, store: Store, but: Set[str]) -> None:
    """Raises BenchError naming the first settings in which the folder's configuration and this one differ.

    `but` names settings of the protocol that may.
    """
    before = Config.model_validate(earlier)
    old, new = before.without_grid(), config.without_grid()
    for key in but:
        del old["protocol"][key], new["protocol"][key]
    found = differences(old, new, "")
    for name in before.methods.keys() & config.methods.keys():
        found += differences(before.methods[name], config.methods[name], f"methods.{name}")
        old, new = (one.recipes.get(name, OwnRecipes()).model_dump(mode="json") for one in (before, config))
        found += differences(old, new, f"recipes.{name}")
    if found:
        raise BenchError(
            f"{store.root} holds results of another configuration ({'; '.join(found[:3])}): choose another --out"
        )


def differences(a: Any, b: Any, path: str) -> list[str]:
    """A line for each value in which two nested mappings differ; `path` is the dotted name of both."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [
            line
            for key in sorted({*a, *b})
            for line in differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if a == b else [f"{path}: {a} there, {b} here"]


def _describe(run: Run) -> dict[str, Any]:
    items = run.bank.items
    labelled = [item for item in items if item.label is not None]
    classes = run.dataset.classes
    counts = np.bincount([item.label for item in labelled if item.label is not None], minlength=len(classes))
    return {
        "name": run.config.dataset.name,
        "about": run.dataset.about,
        "classes": list(classes),
        "shape": list(run.dataset.shape),
        "fingerprint": run.bank.fingerprint,
        "salt_check": coder_for(run.dataset, run.store.root).check,
        "is_phantom": run.dataset.is_phantom,
        "real_images": run.dataset.real_images,
        "official_split": run.dataset.has_official_split,
        "official_split_sizes": _official_sizes(run),
        "n_labelled": len(labelled),
        "n_labelled_patients": len({item.patient for item in labelled}),
        "n_pool": len(items) - len(labelled),
        "n_per_class": {name: int(count) for name, count in zip(classes, counts, strict=True)},
    }


def _official_sizes(run: Run) -> dict[str, int] | None:
    """Labelled sinuses (or whatever is scored) of each part of an official split, whatever fraction is run."""
    if not run.dataset.has_official_split:
        return None
    fold = official_fold(run.bank.items)
    parts = {"n_train": fold.train, "n_val": fold.val, "n_test": fold.test}
    return {name: len({run.bank.items[i].scored_unit for i in part}) for name, part in parts.items()}
