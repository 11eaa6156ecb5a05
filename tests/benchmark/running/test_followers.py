"""Stages that two processes carry out together: as one does; and how they end, whoever fails."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.records.store import TARGETS
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.work import perform
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training.context import Context, StoppedError
from voxbench.benchmark.training.pretrain import run_stage

from ..conftest import plan, small

SETTINGS = ("dataset.size=16", "prior.volumes=32", "pretrain.volumes=64", "protocol.pretrain_per_fold=false")
METHODS = "simclr,byol,spark,residual"
Trained = dict[str, tuple[dict[str, Any], dict[str, Tensor]]]  # by stage
STEP = 3  # after which a stage is stopped, or something goes wrong in the second process
FAULTY = """
import os, signal
import torch.distributed as dist
from voxbench.methods.simclr import SimCLR

class Faulty(SimCLR):
    name = "{name}"
    about = "fails in one process of several"

    def loss(self, batch):
        self.step = getattr(self, "step", 0) + 1
        if self.step == 3 and dist.is_initialized() and dist.get_rank() == 1:
            {fault}
        return super().loss(batch)
"""


def planned(cache: Path, out: Path, processes: int, methods: str = METHODS) -> Run:
    run = plan(small(cache, out)(SETTINGS, methods=methods, fractions="1.0", gpus_per_stage=processes))
    run.open_folder()
    return run


def stages(run: Run) -> list[StagePlan]:
    """One a kind, those that others build on first; without a diagnosis, which the first process makes alone."""
    first = {(stage.method, stage.name): stage for stage in reversed(run.plan.stages.values()) if not stage.upstream}
    later = [stage for stage in run.plan.stages.values() if set(stage.upstream) & {one.key for one in first.values()}]
    return [replace(stage, diagnosed=()) for stage in (*first.values(), *later)]


def silent(done: int, total: int) -> None:
    del done, total


def trained(context: Context, run: Run) -> Trained:
    """Record and weights of each stage."""
    found = {}
    for stage in stages(run):
        record = run_stage(context, stage, silent)
        run.store.write_stage(stage.key, record)
        found[f"{stage.method} {stage.name}"] = record, run.store.load_weights(stage.key, "module")
    return found


# First, for a process leads one group at a time, and that of `two` is there to the end of this file.
@pytest.mark.parametrize(
    ("fault", "outcome", "said"),
    [
        ("raise ValueError('odd volume')", "failed", "ValueError: odd volume"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "again",
            "process 2 of the 2 that share its steps died (exit code -9)",
        ),
    ],
)
def test_what_goes_wrong_in_one_process_ends_all(
    cache: Path, tmp_path: Path, fault: str, outcome: str, said: str
) -> None:
    file = tmp_path / "faulty.py"
    file.write_text(FAULTY.format(name="faulty", fault=fault))
    run = planned(cache, tmp_path / "run", 2, f"{file}:Faulty")
    (stage, *_) = stages(run)
    with run.setup().opened() as context:
        assert perform(context, stage, {}, silent) == outcome
        assert not multiprocessing.active_children()
    record = run.store.stage(stage.key)
    assert record is not None
    assert said in record["error"]
    if "raise" in fault:
        assert "in process 2 of a stage" in record["traceback"]
        assert 'faulty.py", line' in record["traceback"]


@pytest.fixture(scope="module")
def two(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Context, Trained]]:
    """A run whose stages two processes share, the context of the first, and what became of the stages."""
    run = planned(cache, tmp_path_factory.mktemp("two") / "run", 2)
    with run.setup().opened() as context:
        yield run, context, trained(context, run)
    assert not multiprocessing.active_children()


def distance(state: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of all weights together, relative to their length."""
    assert state.keys() == other.keys()
    apart = torch.stack([(state[name].double() - other[name].double()).norm() for name in state]).norm()
    return float(apart / torch.stack([value.double().norm() for value in state.values()]).norm())


def test_two_processes_have_the_loss_curve_and_weights_of_one(
    two: tuple[Run, Context, Trained], cache: Path, tmp_path: Path
) -> None:
    shared, _, together = two
    alone = planned(cache, tmp_path / "run", 1)
    with alone.setup().opened() as single:
        expected = trained(single, alone)
    assert together.keys() == expected.keys()
    assert {name.split()[1] for name in expected} == {"simclr", "byol", "spark", "autoencoder", "residual"}
    for name, (record, weights) in expected.items():
        found, others = together[name]
        assert (found["processes"], record["processes"]) == (2, 1)
        for key in ("steps", "volumes", "volumes_forward", "encoder_moved", "seen", "n_held_out"):
            assert found[key] == record[key], (name, key)
        losses, others_losses = ([point["loss"] for point in one["curve"]] for one in (record, found))
        assert len(losses) >= 4
        assert others_losses[0] == pytest.approx(losses[0], rel=1e-4), name
        assert others_losses == pytest.approx(losses, rel=1e-2), name  # rounding grows with the steps
        assert distance(weights, others) < 1e-2, name
    residual = next(stage for stage in stages(shared) if stage.upstream)
    maps = [run.store.stage_folder(residual.key) / TARGETS for run in (alone, shared)]
    assert maps[0].stat().st_size == maps[1].stat().st_size


def test_a_stage_that_was_stopped_goes_on(two: tuple[Run, Context, Trained]) -> None:
    run, context, before = two
    stage = next(stage for stage in stages(run) if stage.method == "byol")
    whole, weights = before["byol byol"]

    def stop(done: int, total: int) -> None:
        if done == STEP:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_stage(context, stage, stop)
    assert not multiprocessing.active_children()  # those who follow end with it
    again: list[int] = []
    record = run_stage(context, stage, lambda done, total: again.append(done))
    run.store.drop_checkpoint(stage.key)
    assert again[0] == STEP + 1
    assert record["volumes"] == whole["volumes"]
    assert [point["loss"] for point in record["curve"]] == [point["loss"] for point in whole["curve"]]
    assert distance(weights, run.store.load_weights(stage.key, "module")) == 0


def test_more_gpus_than_there_are_is_one_line(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BenchError, match=r"^--gpus-per-stage 3: --device cuda is 2 GPUs here: use 2$"):
        plan(small(cache, tmp_path / "run")(device="cuda", gpus_per_stage=3))
