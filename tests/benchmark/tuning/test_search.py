"""A search never reads who is tested, goes on after a stop, and chooses the same again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from voxbench.benchmark.planning.folds import Splits
from voxbench.benchmark.records.recognise import is_run
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.errors import AuditError, BenchError
from voxbench.benchmark.settings.presets import read_preset
from voxbench.benchmark.settings.resolve import resolve
from voxbench.benchmark.tuning.search import Search
from voxbench.benchmark.tuning.trials import Trials
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.volumes.bank import ClosedVolumeError, VolumeBank

Tune = Callable[..., Path]
MakeSearch = Callable[..., Search]
Planned = Callable[..., Run]

SOMETIMES_NAN = '''
from typing import ClassVar

from voxbench.methods.base import Batch, Choice, Method, Options, Stage


class FragileOptions(Options):
    factor: float = 1.0


class Fragile(Method):
    """Its loss is not finite with a factor that float32 does not have."""

    Options = FragileOptions
    name: ClassVar[str] = "fragile"
    about: ClassVar[str] = "breaks"
    tunable = {"factor": Choice((1e39,))}

    def stages(self):
        return (Stage(name="fragile", module=self, loss=self.loss),)

    def loss(self, batch: Batch):
        return self.encoder(batch.views[0]).square().mean() * self.options.factor
'''


def work(run: Run, tasks: Sequence[Task], title: str) -> None:
    run.work(tasks)


def told(folder: Path) -> dict[str, list[object]]:
    """Settings and scores of all trials."""
    paths = sorted((folder / "tuning" / "trials").glob("*/*.json"))
    records = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in paths}
    return {name: [record["settings"], record["scores"]] for name, record in records.items()}


def test_who_is_tested_is_in_nothing_that_was_served(tune: Tune, planned: Planned, search: MakeSearch) -> None:
    folder = tune(methods="supervised,residual")
    run = planned(methods="supervised")
    items, hashes = run.bank.items, run.bank.hashes
    tested = {items[i].patient for cell in run.plan.cells.values() if cell.fold == 0 for i in cell.test}
    closed = {i for i, item in enumerate(items) if item.patient in tested}
    assert closed == search(methods="supervised").splits.closed
    records = [json.loads(path.read_text()) for path in (folder / "tuning").glob("*/*/*.json")]
    seen = [record["seen"] for record in records if "seen" in record]
    assert len(seen) == 8  # two trials: cells of two methods, two stages
    served = {value for one in seen for part in (one.values() if isinstance(one, dict) else [one]) for value in part}
    assert served
    assert not served & {hashes[i] for i in closed}
    assert all(record["status"] == "ok" and "showcase_error" not in record for record in records if "seen" in record)
    audit = json.loads((folder / "tuning" / "audit.json").read_text())
    assert audit["outcome"] == "clean"
    assert audit["n_closed"] == len(closed)
    assert audit["n_cells"] == 4


def test_pretraining_leaves_out_the_unlabelled_volumes_of_who_is_tested(search: MakeSearch) -> None:
    found = search(methods="simclr", settings=("dataset.pool_patients=0",), own={"on_folds": "0,2"})
    plan = found._planned(found.config).plan
    patients = {found.bank.items[i].patient for i in found.splits.closed}
    assert {cell.fold for cell in plan.cells.values()} == {0, 2}
    for stage in plan.stages.values():
        assert stage.members
        assert not {found.bank.items[i].patient for i in stage.members} & patients
    for cell in plan.cells.values():
        parts = [{found.bank.items[i].patient for i in part} for part in (cell.train, cell.val, cell.test)]
        assert parts[0] and parts[2]
        assert not parts[0] & parts[2]
        assert not (parts[0] | parts[1] | parts[2]) & patients


def test_selection_by_validation_gets_a_part_of_its_own(search: MakeSearch, planned: Planned) -> None:
    settings = ("finetune.selection=validation",)
    found = search(settings, methods="supervised", own={"fraction": 1.0})
    (cell,) = found._planned(found.config).plan.cells.values()
    (asked,) = (c for c in planned(settings, methods="supervised", fractions="1.0").plan.cells.values() if c.fold == 0)
    assert set(cell.test) == set(asked.val)
    assert cell.val
    assert {*cell.train, *cell.val} == {*asked.train}


def test_a_bank_serves_no_closed_volume(planned: Planned) -> None:
    bank = VolumeBank(planned().bank.folder, frozenset({3}))
    assert len(bank.batch([2, 4])) == 2
    with pytest.raises(ClosedVolumeError):
        bank.batch([2, 3])


def test_a_plan_that_would_train_on_who_is_tested_is_refused(search: MakeSearch) -> None:
    found = search(methods="supervised", own={"fraction": 1.0})
    fold = found.splits.folds[0][0]
    leaky = dataclasses.replace(fold, train=(*fold.train, min(found.splits.closed)))
    broken = dataclasses.replace(found, splits=Splits(folds={0: {0: leaky}}, closed=found.splits.closed))
    with pytest.raises(AuditError, match="same patient"):
        broken.carry_out(0, work, "")
    assert not list((found.runtime.out / "cells").glob("*/*"))


def test_a_volume_served_in_secret_is_found(tune: Tune, search: MakeSearch) -> None:
    folder = tune(methods="supervised", own={"trials": 1})
    (path,) = (folder / "tuning" / "cells").glob("*/*.json")
    found = search(methods="supervised")
    record = json.loads(path.read_text())
    record["seen"]["train"].append(found.bank.hashes[min(found.splits.closed)])
    found.store.write_cell("supervised", record["key"], record)
    with pytest.raises(AuditError, match="served in the search"):
        found.prove(1)
    assert json.loads((folder / "tuning" / "audit.json").read_text())["outcome"] == "leak"


def test_the_same_seed_chooses_the_same_also_after_a_stop(tune: Tune, search: MakeSearch, tmp_path: Path) -> None:
    whole = tune(methods="supervised,simclr", out=tmp_path / "whole")

    def dies(run: Run, tasks: Sequence[Task], title: str) -> None:
        run.work(tasks[:2])
        raise KeyboardInterrupt

    stopped = search(methods="supervised,simclr", out=tmp_path / "stopped")
    stopped.open_folder()
    stopped.carry_out(0, work, "")
    with pytest.raises(KeyboardInterrupt):
        stopped.carry_out(1, dies, "")
    torn = stopped.runtime.out / "trials" / "simclr" / "0000.json"
    torn.write_text(torn.read_text()[:40])  # and a record was cut short
    tune(methods="supervised,simclr", out=tmp_path / "stopped")
    assert told(tmp_path / "stopped") == told(whole)
    chosen = [yaml.safe_load((tmp_path / name / "tuned.yaml").read_text()) for name in ("whole", "stopped")]
    for one in chosen:
        for method in one["tuned"]["methods"].values():
            del method["seconds"]
    assert chosen[0] == chosen[1]


def test_another_search_is_refused_and_more_of_the_same_goes_on(tune: Tune) -> None:
    folder = tune(methods="supervised", own={"trials": 1})
    assert is_run(folder)
    before = told(folder)
    with pytest.raises(BenchError, match="another search"):
        tune(methods="supervised", own={"seed": 1})
    with pytest.raises(BenchError, match=r"settings\.finetune\.steps"):
        tune(("finetune.steps=3",), methods="supervised")
    tune(methods="supervised", own={"trials": 2})
    assert before.items() < told(folder).items()
    with pytest.raises(BenchError, match="inside the run folder"):
        tune(methods="supervised", out=folder / "tuning")


def test_a_trial_that_fails_is_one_that_failed(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(SOMETIMES_NAN)
    folder = tune(methods=f"{tmp_path / 'fragile.py'}:Fragile,supervised", own={"trials": 4})
    trials = Trials(folder / "tuning").before("fragile", 4)
    lost = [trial for trial in trials if trial.settings["factor"] == 1e39]
    assert lost
    assert all(trial.auprc is None and "the loss is inf" in str(trial.error) for trial in lost)
    assert trials[0].auprc is not None
    tuned = yaml.safe_load((folder / "tuned.yaml").read_text())["tuned"]["methods"]
    assert tuned["fragile"]["failed"] == len(lost)
    assert tuned["supervised"]["failed"] == 0


def test_what_was_chosen_is_what_a_run_has(tune: Tune, bench: Callable[..., int], tmp_path: Path) -> None:
    folder = tune(methods="supervised", own={"trials": 3})
    config = resolve([read_preset(str(folder / "tuned.yaml"))], ["supervised"])
    assert config.tuned is not None
    own = config.tuned.methods["supervised"]
    assert own.default_auprc is not None
    assert own.auprc is not None
    assert own.auprc >= own.default_auprc
    recipe = config.finetune_recipe("supervised")
    assert own.chosen.get("finetune.lr", recipe.lr) == recipe.lr
    assert config.finetune.steps == 4  # what was set for the search is set for the run
    assert bench(preset=str(folder / "tuned.yaml"), methods="supervised", out=folder) == 0
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["tuned"]["methods"]["supervised"]["trials"] == 3
    assert "Search of settings" in (folder / "report" / "index.html").read_text()
    assert "Settings: tuned for supervised." in (folder / "report" / "table.md").read_text()


def test_folds_that_are_not_there_and_nothing_to_search(search: MakeSearch) -> None:
    with pytest.raises(BenchError, match="there are 3 folds"):
        search(methods="supervised", own={"on_folds": "3"})
    with pytest.raises(BenchError, match="expected numbers"):
        search(methods="supervised", own={"on_folds": "first"})
    with pytest.raises(BenchError, match="nothing that is searched"):
        search(methods="pca")
    with pytest.raises(BenchError, match="fewer folds"):
        search(methods="supervised", own={"on_folds": "0,1,2"})


def test_an_official_test_part_is_closed_with_all_its_patients_volumes(search: MakeSearch, tmp_path: Path) -> None:
    data = SinusPhantom(SinusPhantom.Options(patients=12, pool_patients=2))
    rows = ["path,patient_id,label,split"]
    labelled = [item for item in data.items() if item.label is not None]
    patients = list(dict.fromkeys(item.patient for item in labelled))
    for item in labelled:
        part = ("train", "train", "val", "test")[patients.index(item.patient) % 4]
        nibabel.Nifti1Image(data.read(item)[0], np.diag([1.5, 1.5, 1.5, 1.0])).to_filename(
            tmp_path / f"{item.volume}.nii.gz"
        )
        rows.append(f"{item.volume}.nii.gz,{item.patient},{('normal', 'anomalous')[item.label or 0]},{part}")
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("\n".join(rows) + "\n")
    found = search(("protocol.min_val_per_class=1",), methods="simclr", dataset=str(manifest), folds=None)
    items = found.bank.items
    assert found.splits.closed == {i for i, item in enumerate(items) if item.split == "test"}
    (cell,) = found._planned(found.config).plan.cells.values()
    assert {items[i].split for i in cell.test} == {"val"}
    assert {items[i].split for i in cell.train} == {"train"}
    assert {items[i].split for stage in found._planned(found.config).plan.stages.values() for i in stage.members} == {
        "train"
    }
