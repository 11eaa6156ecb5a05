"""The way of a grid over a GPU: every tensor is on the right device, and what should be bfloat16 is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import nn

from voxbench.benchmark.commands.run import Arguments, execute

from .pretend_gpu import GPU, OnGPU, moved, pretended

FEW = (
    "dataset.patients=10",
    "dataset.size=24",
    "prior.batch=4",
    "prior.volumes=4",
    "pretrain.batch=4",
    "pretrain.volumes=8",
    "finetune.batch=4",
    "finetune.steps=2",
    "finetune.epochs=0",
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretended(monkeypatch):
        yield


def test_the_pretended_gpu_is_as_strict_as_a_real_one(gpu: None) -> None:
    here, there = torch.ones(3), torch.ones(3, device=GPU)
    assert isinstance(there, OnGPU)
    assert there.device == here.to(GPU).device == GPU
    assert (there * 2).sum().item() == 6
    assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]  # a single number may come from the CPU
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat((here, there))
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert type(there.cpu()) is torch.Tensor
    layer = moved(nn.Linear(3, 2), GPU)
    with torch.autocast("cuda", torch.bfloat16):
        out = layer(there)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.device == GPU
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.cpu().tolist() == [[1, 1, 1], [1, 1, 1]]


def test_every_method_runs_from_pretraining_to_its_scores(gpu: None, bench: Callable[..., int], tmp_path: Path) -> None:
    methods = "residual,byol,simsiam,simclr,spark,supervised,random-encoder,pca"
    assert bench(FEW, methods=methods, fractions="1.0", folds=2, device="cuda:0", precision="auto") == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert len(rows) == 16
    assert set(rows["status"]) == {"ok"}
    assert set(rows["device"]) == {"pretended GPU in bfloat16", "pretended GPU"}  # yardsticks do not train
    assert set(rows["peak_memory_mb"]) == {1024.0}
    assert rows["auprc"].between(0, 1).all()


def test_a_plan_is_timed_there(gpu: None, arguments: Callable[..., Arguments]) -> None:
    shown = Console(file=io.StringIO(), width=120)
    assert (
        execute(
            arguments(FEW, methods="residual,simclr", fractions="1.0", folds=2, device="cuda:0", dry_run=True), shown
        )
        == 0
    )
    assert "on cuda:0; nothing was run" in shown.file.getvalue()  # type: ignore[attr-defined]
