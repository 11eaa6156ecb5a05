"""Planted leaks are caught, and a clean run is proved clean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import rotate, shift

from voxbench.benchmark.planning.audit import NEAR, TWO_IDS, Served, audit_plan, audit_seen, near_duplicates
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.config import AuditConfig
from voxbench.benchmark.settings.errors import AuditError
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.volumes.bank import VolumeBank
from voxbench.datasets.volumes.copies import FLOOR, Copy

Planned = Callable[..., Run]
PHANTOM = ("dataset.patients=30", "dataset.pool_patients=6")


def write_cohort(folder: Path, change: Callable[[np.ndarray], np.ndarray] | None) -> Path:
    """A manifest of phantoms as NIfTI; with `change`, a labelled volume so changed is in the pool too."""
    data = SinusPhantom(SinusPhantom.Options(patients=12, pool_patients=4))
    folder.mkdir()
    rows = ["path,patient_id,label"]

    def write(name: str, volume: np.ndarray, patient: str, label: str) -> None:
        nibabel.Nifti1Image(volume, np.diag([1.5, 1.5, 1.5, 1.0])).to_filename(folder / f"{name}.nii.gz")
        rows.append(f"{name}.nii.gz,{patient},{label}")

    for item in data.items():
        label = "" if item.label is None else ("normal", "anomalous")[item.label]
        write(item.volume, data.read(item)[0], item.patient, label)
    if change is not None:
        victim = next(item for item in data.items() if item.label == 1)
        write("somebody", change(data.read(victim)[0]), "somebody-else", "")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda v: v[::-1].copy(), "the same volume"),
        (lambda v: (1000 * v).astype(np.int16), "the same volume"),
        (lambda v: v + np.random.default_rng(0).normal(0, 0.01, v.shape).astype(np.float32), "nearly the same volume"),
        (
            lambda v: rotate(shift(v, (2, -1, 1), order=1, mode="nearest"), 10, reshape=False, order=1),
            "nearly the same",
        ),
        (lambda v: v[:, :, ::-1].copy(), "nearly the same volume"),
    ],
    ids=["mirrored", "saved in other units", "with a little noise", "moved and turned", "upside down"],
)
def test_a_test_patient_in_the_pool_under_another_name_is_caught(
    tmp_path: Path, bench: Callable[..., int], change: Callable[[np.ndarray], np.ndarray], what: str
) -> None:
    manifest = write_cohort(tmp_path / "cohort", change)
    with pytest.raises(AuditError, match=r"leak: .*pretraining.*same volume.*somebody"):
        bench(dataset=str(manifest), methods="simclr")
    record = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert record["outcome"] == "leak"
    assert any(what in finding["what"] for finding in record["planned"]["findings"])
    assert "somebody" not in json.dumps(record)
    assert not (tmp_path / "run" / "cells").exists()


PLANTED = """
from voxbench.datasets.base import Item
from voxbench.datasets.sinus.phantom import SinusPhantom

class Planted(SinusPhantom):
    name = "planted"

    def items(self):
        return (*super().items(), Item(volume="copy", patient="somebody-else"))

    def read(self, item):
        return super().read(next(i for i in self.items() if i.label == 1) if item.volume == "copy" else item)

    def fingerprint(self):
        return "planted" + super().fingerprint()
"""


def test_a_copy_that_a_third_partys_dataset_lets_through_is_caught(tmp_path: Path, bench: Callable[..., int]) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    with pytest.raises(AuditError, match=r"the same volume .*copy and test volume P"):
        bench(PHANTOM, dataset=f"{tmp_path / 'planted.py'}:Planted", methods="simclr")


def test_what_the_loaders_served_is_checked_too(planned: Planned) -> None:
    run = planned(methods="simclr")
    hashes = run.bank.hashes
    key, cell = next(iter(run.plan.cells.items()))
    parts = {"train": [hashes[cell.train[0]]], "val": [], "test": [hashes[i] for i in cell.test]}
    seen = Served(key=key, name="cell", parts=parts, stages={cell.stages[0]: [hashes[cell.train[1]]]})
    assert not audit_seen(run.plan, run.bank, [seen]).findings
    stages = {cell.stages[0]: [hashes[cell.test[0]]]}
    assert audit_seen(run.plan, run.bank, [dataclasses.replace(seen, stages=stages)]).findings
    # also where the cell is of an earlier plan
    assert audit_seen(run.plan, run.bank, [dataclasses.replace(seen, key="earlier", stages=stages)]).findings
    partial = dataclasses.replace(seen, parts={**parts, "test": parts["test"][1:]})
    assert "not the planned test part" in audit_seen(run.plan, run.bank, [partial]).findings[0].what


def test_copies_are_not_looked_for_where_they_are_of_no_use(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search takes minutes of a large data set: not where it is off, nor where no cell is of an earlier plan."""
    run = planned(methods="simclr", settings=("audit.near_duplicates=off",))
    looked: list[str] = []
    monkeypatch.setattr(VolumeBank, "copies", property(lambda bank: looked.append("for copies") or []))
    hashes = run.bank.hashes
    key, cell = next(iter(run.plan.cells.items()))
    parts = {"train": [hashes[cell.train[0]]], "val": [], "test": [hashes[i] for i in cell.test]}
    seen = Served(key=key, name="cell", parts=parts, stages={})
    audit_seen(run.plan, run.bank, [seen])
    earlier = dataclasses.replace(seen, key="earlier", parts={**parts, "test": parts["test"][1:]})
    audit_seen(run.plan, run.bank, [earlier], copies=False)
    assert not looked
    audit_seen(run.plan, run.bank, [earlier])
    assert looked


TWINS = """
from voxbench.datasets.sinus.phantom import SinusPhantom

class Twins(SinusPhantom):
    def read(self, item):
        data = super().read(item)
        if item.volume == self.items()[0].volume:
            return data
        if item.label is None and item.volume == next(i for i in self.items() if i.label is None).volume:
            data = super().read(self.items()[0]).copy()
            data[:, 0, 0, 0] += 0.01
        return data

    def fingerprint(self):
        return "twins" + super().fingerprint()
"""


def test_the_proof_covers_all_that_stands_in_the_table(
    tmp_path: Path, bench: Callable[..., int], planned: Planned
) -> None:
    """A second, narrower command does not wipe out what the first was warned of."""
    (tmp_path / "twins.py").write_text(TWINS)
    given = {"dataset": f"{tmp_path / 'twins.py'}:Twins", "fractions": "1.0"}
    few = ("dataset.patients=12", "dataset.pool_patients=2", "pretrain.volumes=16")  # all of the pool is served
    settings = (*few, "audit.near_duplicates=warn")
    assert bench(settings, methods="simclr", **given) == 0
    proof = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert proof["n_cells"] == 3 and proof["planned"]["warnings"]
    assert bench(settings, methods="supervised", **given) == 0
    proof = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert proof["n_cells"] == 6
    assert {warning["what"] for warning in proof["planned"]["warnings"]} == {TWO_IDS}  # the pool is not used
    assert {warning["what"] for warning in proof["served"]["warnings"]} == {NEAR}


def test_a_patient_in_two_parts_is_caught(planned: Planned) -> None:
    run = planned()
    key, cell = next(iter(run.plan.cells.items()))
    run.plan.cells[key] = dataclasses.replace(cell, val=(*cell.val, cell.test[0]))
    audit = audit_plan(run.plan, run.bank, AuditConfig())
    assert {finding.what for finding in audit.findings} >= {"the same patient"}
    with pytest.raises(AuditError, match="validation part of fold 0"):
        audit.refuse(lambda i: run.bank.items[i].volume)


def test_a_clean_plan_is_clean_and_says_how_much_was_compared(planned: Planned) -> None:
    run = planned(methods="simclr,residual", fractions="0.3,1.0")
    audit = audit_plan(run.plan, run.bank, AuditConfig())
    assert not audit.findings
    assert min(audit.checks.values()) >= 12


def test_one_volume_under_two_labelled_patients_is_refused_on_one_side_too(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No split of this plan divides them, and one person would count as two."""
    run = planned()
    for key, cell in run.plan.cells.items():  # both are tested together, and trained on by nobody
        a, b = [i for i, item in enumerate(run.bank.items) if item.label is not None][:3:2]
        keep = {"train": cell.train, "val": cell.val, "pool": cell.pool}
        apart = {part: tuple(i for i in members if i not in (a, b)) for part, members in keep.items()}
        run.plan.cells[key] = dataclasses.replace(cell, test=(*{*cell.test, a, b},), **apart)
    monkeypatch.setattr(VolumeBank, "copies", (Copy(a, b, 0.97),))
    audit = audit_plan(run.plan, run.bank, AuditConfig())
    assert (TWO_IDS, [(a, b)]) in [(finding.what, finding.pairs) for finding in audit.findings]
    alone = dataclasses.replace(audit, findings=[finding for finding in audit.findings if finding.what == TWO_IDS])
    with pytest.raises(AuditError, match=f"{TWO_IDS}: P.* and P"):
        alone.refuse(lambda i: run.bank.items[i].volume)
    lenient = audit_plan(run.plan, run.bank, AuditConfig(near_duplicates="warn"))
    assert TWO_IDS not in {finding.what for finding in lenient.findings}
    assert TWO_IDS in {warning.what for warning in lenient.warnings}


def test_the_proof_says_what_was_looked_for(planned: Planned) -> None:
    run = planned()
    run.open_folder()
    run.audit_before()
    record = json.loads((run.store.root / "audit.json").read_text())
    assert record["near_duplicates"]["action"] == "refuse"
    assert any("shift" in what for what in record["near_duplicates"]["looked_for"])
    assert near_duplicates(AuditConfig(near_duplicates="off"))["looked_for"] == []


def test_the_floor_of_what_is_kept_is_that_of_the_setting_and_an_old_setting_is_let_be() -> None:
    limits = AuditConfig.model_fields["likeness"].metadata
    assert min(limit.ge for limit in limits if hasattr(limit, "ge")) == FLOOR
    assert AuditConfig.model_validate({"threshold": 0.98}) == AuditConfig()
