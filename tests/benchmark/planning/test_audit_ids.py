"""One person under two spellings of an id is no clean split, whoever wrote the dataset."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from voxbench.benchmark.planning.audit import SAME, SPELLINGS, Served, audit_seen
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.errors import AuditError
from voxbench.datasets.medmnist3d import AdrenalMNIST3D
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.tables.ids import alike

Planned = Callable[..., Run]
PHANTOM = ("dataset.patients=30", "dataset.pool_patients=6", "dataset.size=32")

SPELT = """
import re
from dataclasses import replace
from voxbench.datasets.sinus.phantom import SinusPhantom

class Spelt(SinusPhantom):
    public_ids = False

    def items(self):
        items = super().items()
        labelled = list(dict.fromkeys(item.patient for item in items if item.label is not None))
        pool = list(dict.fromkeys(item.patient for item in items if item.label is None))
        new = {{name: {new} for name, n in ((name, n) for names in (labelled, pool) for n, name in enumerate(names))}}
        return [replace(item, patient=new[item.patient]) for item in items]

    def fingerprint(self):
        return {new!r} + super().fingerprint()
"""


def spelt(tmp_path: Path, new: str) -> str:
    """A dataset in which `new` gives the id of patient `name`, the `n`th of the labelled or of the pool."""
    (tmp_path / "spelt.py").write_text(SPELT.format(new=new), encoding="utf-8")
    return f"{tmp_path / 'spelt.py'}:Spelt"


def every_second(first: str, second: str) -> str:
    """Ids of labelled patients such that two who follow each other are one, written as `first` and as `second`."""
    return f"({first!r}, {second!r})[n % 2].format(k=n // 2 + 1) if name in labelled else name"


SPELLED = {
    "capitals": ("Anna{k}", "ANNA{k}", "capitals"),
    "zeros": ("{k}", "{k:03d}", "zeros in front"),
    "zeros within": ("P{k}", "P{k:03d}", "zeros in front"),
    "a number of a spreadsheet": ("{k}", "{k}.0", "a .0 at the end"),
    "a prefix": ("{k:02d}", "sub-{k:02d}", "a prefix as sub-"),
}
CERTAIN = {
    "Unicode form": ("M\u00fcller {k}", "Mu\u0308ller {k}"),
    "blanks within": ("Anna {k}", "Anna  {k}"),
    "a blank at the end": ("Anna{k}", "Anna{k} "),
    "a blank that does not break": ("Anna {k}", "Anna\u00a0{k}"),
    "an invisible sign": ("Anna{k}", "An\u200bna{k}"),
}


@pytest.mark.parametrize("kind", SPELLED)
def test_ids_that_look_alike_on_two_sides_refuse_the_run(
    tmp_path: Path, bench: Callable[..., int], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("VOXBENCH_SALT", "salt of this test")
    first, second, difference = SPELLED[kind]
    with pytest.raises(AuditError) as error:
        bench(PHANTOM, dataset=spelt(tmp_path, every_second(first, second)), methods="supervised")
    head, *lines = str(error.value).splitlines()
    assert "write each person's id in one way" in head and "audit.patient_ids=warn" in head
    assert all(line.endswith(f"differ by {difference}") for line in lines)
    named = [tuple(sorted(re.findall(r"'([^']*)' \(", line))) for line in lines]
    pairs = {tuple(sorted((first.format(k=k), second.format(k=k)))) for k in range(1, 16)}
    assert len(named) == len(set(named)) and set(named) <= pairs

    text = (tmp_path / "run" / "audit.json").read_text()
    record = json.loads(text)
    assert record["outcome"] == "leak"
    found = [f for key in ("findings", "warnings") for f in record["planned"][key] if f["what"].startswith(SPELLINGS)]
    assert {tuple(sorted(pair)) for f in found for pair in f["pairs"]}, "coded pairs are in the record"
    on_one_side = sum(f["n"] for f in record["planned"]["warnings"])
    assert len(named) + on_one_side == len(pairs)
    assert not [part for pair in pairs for part in pair if f'"{part}"' in text]
    assert not (tmp_path / "run" / "cells").exists()


@pytest.mark.parametrize("kind", CERTAIN)
def test_one_id_in_two_forms_is_one_person_whatever_is_set(planned: Planned, tmp_path: Path, kind: str) -> None:
    first, second = CERTAIN[kind]
    run = planned((*PHANTOM, "audit.patient_ids=warn"), dataset=spelt(tmp_path, every_second(first, second)))
    with pytest.raises(AuditError) as error:
        run.plan_audit.refuse(run.name_of)
    head, *lines = str(error.value).splitlines()
    assert SAME in head and "patient_ids" not in head
    assert lines and all(line.endswith("differ by blanks or Unicode form") for line in lines)
    assert run.plan_audit.record(lambda i: "v")["outcome"] == "leak"


def test_one_of_the_pool_and_one_of_the_test_part_are_found(planned: Planned, tmp_path: Path) -> None:
    new = "name.replace('P', 'X') if name in labelled else name if n else labelled[0].replace('P', 'x')"
    run = planned(PHANTOM, dataset=spelt(tmp_path, new), methods="simclr")
    with pytest.raises(AuditError, match=r"leak: pretraining stage .*\n  - 'x\d+' \(.*\) and 'X\d+' \(.*by capitals"):
        run.plan_audit.refuse(run.name_of)


def test_two_spellings_on_one_side_are_a_warning(
    tmp_path: Path, bench: Callable[..., int], planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are in the pool: no test is touched, but one person counts as two."""
    monkeypatch.setenv("VOXBENCH_SALT", "salt of this test")
    given = {"dataset": spelt(tmp_path, "name if name in labelled else f'U{n // 2}' if n % 2 else f'u{n // 2}'")}
    assert bench(PHANTOM, **given, methods="supervised", fractions="1.0") == 0
    record = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert record["outcome"] == "clean"
    (warning,) = record["planned"]["warnings"]
    assert warning["n"] == 3 and warning["what"] == f"{SPELLINGS}: one person would count as two"
    run = planned(PHANTOM, **given)
    (told,) = run.plan_audit.warned(run.name_of)
    assert [sorted(re.findall(r"'(\w+)' \(", line)) for line in told.splitlines()[1:]] == [
        [f"U{n}", f"u{n}"] for n in range(3)
    ]


def test_a_user_may_say_that_they_are_two_people(tmp_path: Path, bench: Callable[..., int], planned: Planned) -> None:
    given = {"dataset": spelt(tmp_path, every_second("P{k}", "P{k:03d}")), "fractions": "1.0"}
    settings = (*PHANTOM, "audit.patient_ids=warn")
    assert bench(settings, **given) == 0
    record = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert record["outcome"] == "clean"
    assert record["planned"]["warnings"] and record["served"]["warnings"]
    run = planned(settings, **given)
    lines = [line for told in run.plan_audit.warned(run.name_of) for line in told.splitlines() if "differ by" in line]
    assert len(lines) == 15  # each two once, however many comparisons they are in


def test_ids_of_public_sets_are_all_different() -> None:
    phantom = SinusPhantom(SinusPhantom.Options(patients=1200, pool_patients=1200)).items()
    medmnist = AdrenalMNIST3D(AdrenalMNIST3D.Options())
    numbers = [medmnist._item(part, i, 0) for part in ("train", "val", "test") for i in range(2000)]
    for items in (phantom, numbers):
        ids = {item.patient for item in items}
        assert len({alike(name) for name in ids}) == len(ids)


@pytest.mark.parametrize(
    ("first", "second"), [("10{k}", "1{k}0"), ("1-1{k}", "11-{k}"), ("A{k}", "B{k}"), ("{k}.1", "{k}.10")]
)
def test_ids_that_differ_by_more_are_no_finding(planned: Planned, tmp_path: Path, first: str, second: str) -> None:
    run = planned(PHANTOM, dataset=spelt(tmp_path, every_second(first, second)), methods="simclr")
    names = {item.patient for item in run.bank.items}
    assert not run.plan_audit.findings and not run.plan_audit.warnings, sorted(names)
    assert run.plan_audit.checks[SPELLINGS] >= 12


def test_a_patient_in_two_parts_of_an_official_split_is_a_leak(planned: Planned, tmp_path: Path) -> None:
    source = SPELT.format(new="name").replace("class Spelt", "class Parts")
    source = source.replace("public_ids = False", "has_official_split = True").replace(
        "replace(item, patient=new[item.patient])",
        "replace(item, split=('train', 'val', 'test')[n % 3] if item.label is not None else None)",
    )
    source = source.replace("for item in items]", "for n, item in enumerate(items)]")
    (tmp_path / "parts.py").write_text(source)
    run = planned(PHANTOM, dataset=f"{tmp_path / 'parts.py'}:Parts", fractions="1.0")
    with pytest.raises(AuditError, match="leak: training part of fold 0: the same patient: P"):
        run.plan_audit.refuse(run.name_of)


def test_a_served_volume_that_the_data_do_not_hold_is_told(planned: Planned) -> None:
    run = planned(methods="simclr")
    hashes = run.bank.hashes
    key, cell = next(iter(run.plan.cells.items()))
    parts = {name: [hashes[i] for i in getattr(cell, name)] for name in ("train", "val", "test")}
    seen = Served(key=key, name="cell", parts=parts, stages={})
    assert not audit_seen(run.plan, run.bank, [seen]).warnings
    odd = dataclasses.replace(seen, parts={**parts, "train": [*parts["train"], "0" * 32]})
    (warning,) = audit_seen(run.plan, run.bank, [odd]).warnings
    assert warning.what.startswith("1 served volumes are not in the data")
