"""On a real GPU: the same grid as on the CPU, in bfloat16, with losses within a stated tolerance; weights travel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from voxbench.benchmark.records.costs import Meter
from voxbench.benchmark.records.store import Store
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.training import speed
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.train import Training, optimise, start
from voxbench.methods.parts.recompute import recompute

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STEPS = 20
FIRST = 0.02  # bfloat16 keeps 8 bits: relative difference of the first loss, on the same weights and volumes
LATER = 0.15  # and of the mean over the last five of twenty steps, after which the weights have parted
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
# Noise is drawn on the device, with other numbers on each.
SAME_VOLUMES = tuple(
    f"augmentation.{policy}.noise_probability=0" for policy in ("contrastive", "geometric", "finetune")
)
FEW = ("dataset.patients=30", "prior.batch=8", "pretrain.batch=8", "finetune.batch=8")


@pytest.fixture
def opened(planned: Callable[..., Run]) -> Iterator[Callable[[torch.device], Context]]:
    """context(device) of one small run of all methods."""
    run = planned((*FEW, *SAME_VOLUMES), methods="all", fractions="1.0")

    def context(device: torch.device) -> Context:
        runtime = run.runtime.model_copy(
            update={"device": str(device), "precision": "float32" if device == CPU else "auto"}
        )
        with Setup(config=run.config, runtime=runtime, bank=run.bank.folder, provenance={}).opened() as made:
            return made

    return context


def in_bfloat16() -> str:
    return f"{torch.cuda.get_device_name()} in bfloat16"


def losses(work: speed.Workload) -> list[float]:
    training = start(work.module, work.recipe, STEPS, work.groups, work.precision)
    optimise(training, work.loss, work.loader, work.recipe, hooks=work.hooks)
    return [point["loss"] for point in training.curve]


def compare(here: list[float], there: list[float], scale: float) -> None:
    """`scale` stands in for losses near zero, of which a share says nothing."""
    assert len(here) == len(there) == STEPS
    assert there[0] == pytest.approx(here[0], rel=FIRST, abs=FIRST * scale)
    late = [sum(one[-5:]) / 5 for one in (here, there)]
    assert late[1] == pytest.approx(late[0], rel=LATER, abs=LATER * scale)


@pytest.mark.parametrize("name", ["residual", "byol", "simsiam", "simclr", "spark"])
def test_every_stage_learns_as_on_the_cpu(opened: Callable[[torch.device], Context], name: str) -> None:
    found = [[losses(work) for work in speed.workloads(opened(device), name)] for device in (CPU, GPU)]
    assert len(found[0]) == len(found[1]) > 0
    for here, there in zip(*found, strict=True):
        compare(here, there, scale=1.0 if name == "simsiam" else 0.1)  # a mean of cosines, from -1 to 1


def test_fine_tuning_learns_as_on_the_cpu(opened: Callable[[torch.device], Context]) -> None:
    here, there = (losses(speed.finetuning(opened(device))) for device in (CPU, GPU))
    compare(here, there, scale=0.1)


@pytest.mark.parametrize(("first", "then"), [(CPU, GPU), (GPU, CPU)], ids=["to the GPU", "from the GPU"])
def test_a_checkpoint_goes_on_where_the_device_is_another(
    opened: Callable[[torch.device], Context], tmp_path: Path, first: torch.device, then: torch.device
) -> None:
    store = Store(tmp_path)

    def begin(device: torch.device) -> tuple[speed.Workload, Training]:
        work = speed.finetuning(opened(device))
        return work, start(work.module, work.recipe, STEPS, work.groups, work.precision)

    work, whole = begin(first)
    optimise(whole, work.loss, work.loader, work.recipe)
    work, half = begin(first)
    optimise(half, work.loss, work.loader, work.recipe, on_step=lambda training: training.step == STEPS // 2)
    store.save_checkpoint("key", {"training": half.state()})
    work, other = begin(then)
    kept = store.load_checkpoint("key")
    assert kept is not None
    other.load(kept["training"])
    assert all(weight.device == then for weight in work.module.parameters())
    optimise(other, work.loss, work.loader, work.recipe)
    compare([p["loss"] for p in whole.curve], [p["loss"] for p in other.curve], scale=0.1)


def test_a_grid_from_pretraining_to_its_table(bench: Callable[..., int], tmp_path: Path) -> None:
    assert bench((*FEW, "pretrain.volumes=64"), methods="all", fractions="1.0", device="cuda", precision="auto") == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(rows["status"]) == {"ok"}
    assert set(rows["device"]) == {in_bfloat16(), torch.cuda.get_device_name()}  # the others are yardsticks
    assert rows["peak_memory_mb"].gt(1).all()
    assert rows["auprc"].between(0, 1).all()


def test_weights_pretrained_on_the_gpu_are_fine_tuned_on_the_cpu(bench: Callable[..., int], tmp_path: Path) -> None:
    assert bench(FEW, methods="simclr", fractions="1.0", device="cuda", precision="auto") == 0
    assert bench(FEW, methods="simclr", fractions="0.5", device="cpu") == 0
    stages = [json.loads(path.read_text()) for path in (tmp_path / "run" / "stages").glob("*/stage.json")]
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert {stage["device"] for stage in stages} == {in_bfloat16()}
    assert set(rows["device"]) == {"cpu", in_bfloat16()}


def test_maps_computed_twice_take_less_of_its_memory(opened: Callable[[torch.device], Context]) -> None:
    found, peaks = [], []
    for twice in (False, True):
        work = next(speed.workloads(opened(GPU), "simclr", 16))
        assert recompute(work.module, twice) == twice
        with Meter(GPU) as meter:
            found.append(losses(work))
        peaks.append(meter.peak_memory_mb)
    compare(*found, scale=0.1)
    assert peaks[1] < peaks[0]


def test_two_workers_share_what_gpus_there_are(bench: Callable[..., int], tmp_path: Path) -> None:
    assert bench(FEW, methods="simclr,supervised", fractions="1.0", device="cuda", workers=2) == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(rows["status"]) == {"ok"}


def test_scores_do_not_depend_on_where_volumes_lie(opened: Callable[[torch.device], Context]) -> None:
    """float32 of the same bits, read from the file or from the GPU's memory."""
    bank = opened(GPU).bank
    rows = [3, 0, 2]
    here, there = bank.batch(rows, CPU), bank.batch(rows, GPU)
    assert there.device == GPU
    assert torch.equal(here, there.cpu())


def test_random_layers_are_seeded_there(opened: Callable[[torch.device], Context]) -> None:
    """nn.Dropout draws from the GPU's global generator: the same numbers again, and nothing else disturbed."""
    before = torch.cuda.get_rng_state(GPU)
    found = []
    for _ in range(2):
        work = speed.finetuning(opened(GPU))
        drop = nn.Dropout(0.5)

        def loss(draw: object, work: speed.Workload = work, drop: nn.Dropout = drop) -> Tensor:
            value: Tensor = drop(work.module(draw.views[0])).float().pow(2).mean()  # type: ignore[attr-defined]
            return value

        training = start(work.module, work.recipe, 3, work.groups, work.precision)
        optimise(training, loss, work.loader, work.recipe)
        found.append([point["loss"] for point in training.curve])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert torch.equal(torch.cuda.get_rng_state(GPU), before)
