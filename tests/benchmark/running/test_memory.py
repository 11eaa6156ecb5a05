"""Steps that do not fit in memory: maps are computed twice, and nothing else is different."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from voxbench.benchmark.commands.run import execute
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.work import perform
from voxbench.benchmark.settings.recipes import Recipe
from voxbench.benchmark.training import checkpoints, train
from voxbench.benchmark.training.division import Division
from voxbench.benchmark.training.train import Training
from voxbench.methods.parts.recompute import Recomputing

from ...run_folders import table, tidy
from ..conftest import small

Bench = Callable[..., int]
GRID: dict[str, Any] = {"methods": "simclr,byol,spark,residual", "fractions": "1.0", "folds": 2, "yardsticks": False}
SMALL = (
    "dataset.patients=10",
    "dataset.size=24",
    "pretrain.batch=4",
    "pretrain.volumes=24",
    "prior.batch=4",
    "prior.volumes=12",
    "finetune.batch=4",
)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Backward passes of one step find no memory, whatever the training, unless maps are computed `twice`."""

    def from_now_on(at: int, *, always: bool = False) -> list[int]:
        backward, refused = train.backward, []

        def backward_or_not(training: Training, value: Tensor, recipe: Recipe, division: Division) -> None:
            twice = any(part.recompute for part in training.module.modules() if isinstance(part, Recomputing))
            if training.step == at - 1 and (always or not twice):
                refused.append(training.step + 1)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            backward(training, value, recipe, division)

        monkeypatch.setattr(train, "backward", backward_or_not)
        return refused

    return from_now_on


def stages(run: Path) -> dict[str, dict[str, Any]]:
    """What each stage's record says of its training, by its name."""
    records = [json.loads(path.read_text()) for path in run.glob("stages/*/stage.json")]
    told = ("curve", "volumes", "volumes_forward", "steps", "collapse", "encoder_moved", "seen")
    return {record["stage"]: {name: record[name] for name in told} for record in records}


def weights(run: Path) -> dict[str, bytes]:
    """Of every stage."""
    return {str(path.relative_to(run)): path.read_bytes() for path in run.glob("stages/*/*.safetensors")}


def recomputed(run: Path) -> set[str]:
    """What the rows of `results.csv` say of it."""
    with (run / "results.csv").open() as file:
        return {row["recomputed"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert execute(small(cache, out)(SMALL, **GRID), Console(quiet=True)) == 0
    assert recomputed(out) == {"false"}
    return out


@pytest.mark.parametrize("at", [1, 3])
def test_a_grid_that_does_not_fit_has_the_same_weights_and_scores(
    undisturbed: Path, bench: Bench, tmp_path: Path, short_of_memory: Callable[..., list[int]], at: int
) -> None:
    refused = short_of_memory(at)
    assert bench(SMALL, **GRID, retries=0) == 0
    run = tmp_path / "run"
    assert refused == [at] * (5 + 1)  # once a stage, and once for all fine-tuning
    assert stages(run) == stages(undisturbed)
    assert weights(run) == weights(undisturbed)
    assert table(run) == table(undisturbed)
    assert recomputed(run) == {"true"}
    assert tidy(run)
    assert (
        "to save memory, maps were computed twice for byol, residual, simclr and spark"
        in (run / "report" / "index.html").read_text()
    )


def test_it_goes_on_from_the_last_checkpoint(
    undisturbed: Path,
    bench: Bench,
    tmp_path: Path,
    short_of_memory: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    loaded: list[int] = []
    load = Training.load

    def noted(training: Training, state: dict[str, Any]) -> None:
        load(training, state)
        loaded.append(training.step)

    monkeypatch.setattr(Training, "load", noted)
    short_of_memory(3)
    assert bench(SMALL, **{**GRID, "methods": "simclr,residual"}) == 0
    assert loaded[:4] == [2] * 4  # three stages, and the first fine-tuning
    expected = {name: record for name, record in stages(undisturbed).items() if name in stages(tmp_path / "run")}
    assert stages(tmp_path / "run") == expected


def test_what_does_not_fit_either_way_fails_as_before(
    bench: Bench, tmp_path: Path, short_of_memory: Callable[..., list[int]]
) -> None:
    refused = short_of_memory(2, always=True)
    assert bench(SMALL, **{**GRID, "methods": "simclr"}, retries=0) == 1
    assert refused == [2, 2]
    errors = {row["error"] for row in table(tmp_path / "run")}
    assert len(errors) == 1
    assert "its pretraining failed: OutOfMemoryError: CUDA out of memory" in errors.pop()


@pytest.mark.parametrize(("asked", "code", "tries"), [("never", 1, [1]), ("always", 0, [])])
def test_it_can_be_asked_for_and_forbidden(
    bench: Bench, tmp_path: Path, short_of_memory: Callable[..., list[int]], asked: str, code: int, tries: list[int]
) -> None:
    refused = short_of_memory(1)
    assert bench(SMALL, **{**GRID, "methods": "simclr"}, retries=0, recompute=asked) == code
    assert refused == tries


def test_another_error_is_not_taken_for_it(planned: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run, tried = planned(), []

    def broken(*_: object) -> None:
        tried.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr(train, "backward", broken)
    with run.setup().opened() as context:
        job = next(iter(run.plan.cells.values()))
        assert perform(context, job, {}, lambda *_: None) == "failed"
    assert len(tried) == 1
