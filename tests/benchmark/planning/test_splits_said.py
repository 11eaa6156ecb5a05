"""A split that cannot be scored is said before anything trains; one that can be mended is, and the run goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from voxbench.benchmark.running.runner import Run
from voxbench.datasets.base import DatasetError

from ...conftest import Typed

Planned = Callable[..., Run]
Row = tuple[str, str, str]  # patient, label, split
SMALL = ("dataset.size=16", "finetune.steps=2", "finetune.epochs=0")


def manifest(folder: Path, rows: Iterable[Row]) -> Path:
    """A volume a row."""
    folder.mkdir()
    noise = np.random.default_rng(7)
    lines = ["path,patient_id,label,split"]
    for number, (patient, label, split) in enumerate(rows):
        volume = noise.normal(size=(12, 12, 12)).astype(np.float32)
        nibabel.Nifti1Image(volume, np.eye(4)).to_filename(folder / f"v{number}.nii")
        lines.append(f"v{number}.nii,{patient},{label},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


@pytest.fixture
def run(typed: Typed, tmp_path: Path, cache: Path) -> Callable[..., tuple[int, str]]:
    """`bench run` as typed: its exit code, and what it said on stderr if it failed, else on stdout."""

    def go(dataset: Path, *words: str, settings: Sequence[str] = SMALL) -> tuple[int, str]:
        given = [word for setting in settings for word in ("--set", setting)]
        own = ("--dataset", dataset, "--out", tmp_path / "run", "--cache", cache, "--device", "cpu", "--workers", 1)
        said = typed("run", *own, "--methods", "supervised", "--fractions", "1.0", *given, *words)
        return said.code, said.err if said.code else said.out

    return go


def rows(**parts: str) -> list[Row]:
    """`rows(train="aab")`: three volumes of three patients, with these labels ("." = none), in this part."""
    return [
        (f"{part}{number}", "" if label == "." else {"a": "normal", "b": "polyp", "c": "cyst"}[label], part)
        for part, labels in parts.items()
        for number, label in enumerate(labels)
    ]


OFFICIAL = {
    "a test part without a class": (
        rows(train="aabb", val="ab", test="aa"),
        "no labelled volume of class 'polyp' in 'test' (2 in 'train', 1 in 'val')",
    ),
    "a training part without a class": (
        rows(train="aaaa", val="ab", test="ab"),
        "no labelled volume of class 'polyp' in 'train' (1 in 'val', 1 in 'test')",
    ),
    "a class in the test part alone": (
        rows(train="aabb", val="ab", test="abc"),
        "no labelled volume of class 'cyst' in 'train' or 'val' (1 in 'test')",
    ),
    "no label in the test part": (rows(train="aabb", val="ab", test=".."), "no labelled volume in 'test'"),
    "no label in two parts": (rows(train="aabb", val=".", test=".."), "no labelled volume in 'val' and 'test'"),
}


@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize("case", OFFICIAL)
def test_an_official_split_without_a_class_is_refused_in_one_line(
    run: Callable[..., tuple[int, str]], tmp_path: Path, case: str, words: tuple[str, ...]
) -> None:
    given, message = OFFICIAL[case]
    ordered = "normal,polyp,cyst" if any(label == "cyst" for _, label, _ in given) else "normal,polyp"
    data = manifest(tmp_path / "data", given)
    code, said = run(data, *words, settings=(*SMALL, f"dataset.classes={ordered}"))
    assert code == 2
    assert message in said and "give no split, and cross-validation draws one" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_official_split_may_validate_without_a_class_and_it_is_said(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """As cross-validation may: the split is the user's, and each class can be learnt and scored."""
    data = manifest(tmp_path / "data", rows(train="aaabbb", val="bb", test="aabb"))
    settings = (*SMALL, "dataset.classes=normal,polyp", "finetune.selection=validation")
    code, said = run(data, "--seeds", "1", settings=settings)
    assert code == 0, said
    assert "validation has a volume of class normal: models are selected without it" in " ".join(said.split())
    assert (tmp_path / "run" / "results.csv").read_text().count(",ok,") == 1


def test_every_class_that_an_official_split_lacks_is_named(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    data = manifest(tmp_path / "data", rows(train="aabb", val="abc", test="aa"))
    code, said = run(data, settings=(*SMALL, "dataset.classes=normal,polyp,cyst"))
    assert code == 2
    assert "class 'polyp' in 'test'" in said and "class 'cyst' in 'train' or 'test'" in said


def test_a_class_that_no_volume_has_is_named(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    given = [(f"p{i}", ("normal", "polyp")[i % 2], "") for i in range(12)]
    data = manifest(tmp_path / "data", given)
    code, said = run(data, "--folds", "3", settings=(*SMALL, "dataset.classes=normal,polyp,cyst"))
    assert code == 2 and "class 'cyst' has no labelled volume: leave it out (dataset.classes)" in said
    assert len(said.strip().splitlines()) == 1


def test_who_is_there_is_said_before_it_is_said_that_they_are_too_few(
    typed: Typed, tmp_path: Path, cache: Path
) -> None:
    data = manifest(tmp_path / "data", [(f"p{i // 2}", ("normal", "polyp")[i // 2 % 2], "") for i in range(10)])
    said = typed("run", "--dataset", data, "--out", tmp_path / "run", "--cache", cache, "--set", "dataset.size=16")
    assert said.code == 2
    assert "10 labelled volumes of 5 patients (6 normal, 4 polyp), 0 without a label" in said.out
    assert "class 'polyp' has 2: use fewer folds" in said.err


# Nine patients: one of 20 crops, four of the finding and a side without; the usual draw leaves a test part without it.
UNEVEN = ["aaa", "ba", "a", "bba", "ab", "b" * 20, "a", "bbb", "a"]


def test_nine_uneven_patients_are_tested_on_both_classes_in_each_fold(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    names = {"a": "normal", "b": "polyp"}
    given = [(f"p{p}", names[label], "") for p, labels in enumerate(UNEVEN) for label in labels]
    code, said = run(manifest(tmp_path / "data", given), "--folds", "3")
    assert code == 0, said
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    assert list(results.status) == ["ok"] * 3 and results.auprc.notna().all()
    scores = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert (scores.groupby("fold").label.nunique() == 2).all()
    assert len(scores[["patient", "fold"]].drop_duplicates()) == 9


THIRD_PARTY = """
from dataclasses import replace
from voxbench.datasets.sinus.phantom import SinusPhantom

class Changed(SinusPhantom):
    has_official_split = {official}

    def items(self):
        return [self.changed(number, item) for number, item in enumerate(super().items())]

    def changed(self, number, item):
        part = ("train", "train", "train", "val", "test")[int(item.patient[1:]) % 5]
        if item.label is None:
            return item
        {change}

    def fingerprint(self):
        return {change!r} + super().fingerprint()
"""


def third_party(tmp_path: Path, change: str, official: bool) -> str:
    (tmp_path / "changed.py").write_text(THIRD_PARTY.format(change=change, official=official))
    return f"{tmp_path / 'changed.py'}:Changed"


@pytest.mark.parametrize(
    ("change", "official", "message"),
    [
        ("return replace(item, unit='left')", False, r"unit left: .* are of two (patients|labels)"),
        ("return replace(item, unit=item.patient)", False, r"unit P\d+: .* are of two labels, [01] and [01]"),
        ("return replace(item, label=item.label * 2)", False, r"label 2, and the 2 classes"),
        ("return replace(item, label=0, split=part)", True, r"all labelled volumes are of one class"),
    ],
)
def test_what_a_third_partys_items_get_wrong_is_said_at_planning(
    planned: Planned, tmp_path: Path, change: str, official: bool, message: str
) -> None:
    settings = ("dataset.patients=30", "dataset.pool_patients=6")
    with pytest.raises(DatasetError, match=message):
        planned(settings, dataset=third_party(tmp_path, change, official))


def test_labelled_volumes_outside_an_official_split_are_noted(planned: Planned, tmp_path: Path) -> None:
    change = "return replace(item, split=part if number % 10 else None)"
    run = planned(("dataset.patients=30", "dataset.pool_patients=6"), dataset=third_party(tmp_path, change, True))
    left = sum(item.label is not None and item.split is None for item in run.bank.items)
    assert left and f"{left} labelled volumes are in no part of the official split: not used" in run.plan.notes
