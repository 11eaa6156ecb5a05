"""Whether a stage learnt: by which labels it is asked, what is found, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.training import diagnosis, pretrain
from voxbench.methods.parts.logistic import out_of_fold

Bench = Callable[..., int]
Planned = Callable[..., Run]


@pytest.mark.parametrize("each", ["true", "false"])
def test_no_test_label_of_its_own_fold_is_read(planned: Planned, each: str) -> None:
    run = planned(methods="simclr,residual", settings=(f"protocol.pretrain_per_fold={each}",))
    assert any(stage.diagnosed for stage in run.plan.stages.values())
    for stage in run.plan.stages.values():
        cells = [cell for cell in run.plan.cells.values() if stage.key in cell.stages]
        first = min(cells, key=lambda cell: (cell.fold, cell.seed))
        assert not {*stage.diagnosed} & {*first.test}
        assert bool(stage.diagnosed) == (stage.name != "autoencoder")  # it trains no encoder
        assert all(run.bank.items[i].label is not None for i in stage.diagnosed)


def test_at_most_so_many_whole_patients_are_asked(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxbench.benchmark.planning.plan.DIAGNOSED", 10)
    run = planned(methods="simclr")
    items = run.bank.items
    for stage in run.plan.stages.values():
        assert 2 <= len(stage.diagnosed) <= 12
        patients = {items[i].patient for i in stage.diagnosed}
        cell = next(cell for cell in run.plan.cells.values() if stage.key in cell.stages)
        assert {i for i in {*cell.train, *stage.diagnosed} if items[i].patient in patients} == {*stage.diagnosed}


def test_a_record_tells_it_and_a_map_names_nobody(bench: Bench, tmp_path: Path, planned: Planned) -> None:
    out = tmp_path / "run"
    assert bench(methods="simclr", out=out) == 0
    (folder,) = (out / "stages").iterdir()
    found = json.loads((folder / "stage.json").read_text())["diagnosis"]
    assert found["n_labels"] == len(next(iter(planned(methods="simclr").plan.stages.values())).diagnosed)
    assert {*found["probe"]} == {"auprc", "initial", "low", "high"}
    shapes = found["representation"]
    assert shapes["initial"] != shapes["trained"]
    assert all(1 <= shapes[which]["rankme"] <= 64 for which in shapes)
    with np.load(folder / "map.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["groups", "initial", "trained"]
        groups, places = file["groups"], file["trained"]
    assert list(groups) == sorted(groups)  # no order of volumes or patients
    for group in np.unique(groups):
        of = places[groups == group]
        assert np.array_equal(of, of[np.lexsort(of.T)])
    text = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "Did each stage learn?" in text
    assert (out / "report" / "plots" / "map-simclr-simclr.svg").is_file()


def test_a_failure_to_diagnose_undoes_no_training(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(pretrain, "diagnose", broken)
    out = tmp_path / "run"
    assert bench(methods="simclr", out=out) == 0
    assert "whether it learnt is not known: RuntimeError" in (out / "report" / "index.html").read_text(encoding="utf-8")


def test_scores_out_of_fold_come_from_models_that_saw_no_row_of_the_patient() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 2)
    labels = np.repeat(rng.integers(0, 2, 30), 2)
    own = np.eye(30)[patients]  # features that tell the patient and nothing else
    scores = out_of_fold(own, labels, patients, 0)
    assert scores is not None
    assert np.allclose(scores.sum(axis=1), 1)
    assert ((scores[:, 1] > 0.5) == labels).mean() < 0.8  # with leaking folds all would be right
    telling = np.c_[own, labels]
    scores = out_of_fold(telling, labels, patients, 0)
    assert scores is not None
    assert ((scores[:, 1] > 0.5) == labels).all()


def test_without_folds_there_is_no_probe() -> None:
    assert out_of_fold(np.eye(4), np.array([0, 0, 0, 1]), np.arange(4), 0) is None


def test_a_map_is_the_same_again() -> None:
    features = np.random.default_rng(1).normal(size=(20, 5))
    assert np.array_equal(diagnosis.embedded(features), diagnosis.embedded(features))
