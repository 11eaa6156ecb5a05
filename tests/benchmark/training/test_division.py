"""Two processes that divide the networks of a loss have the loss and the gradients of one, whatever the method."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from voxbench.benchmark.checking.trial import Bench, Trial
from voxbench.benchmark.running.followers import meet
from voxbench.benchmark.running.processes import begin
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import ContractError
from voxbench.benchmark.training.division import Division
from voxbench.benchmark.training.ranks import ALONE, LostError, Ranks
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.volumes.bank import VolumeBank, open_bank
from voxbench.methods.parts.recompute import Recomputing, recompute

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
METHODS = (
    "residual",
    "byol",
    "simclr",
    "simsiam",
    "spark",
    *(f"{EXAMPLES}/{name}" for name in ("dino.py:DINO", "mae.py:MAE", "moco.py:MoCo", "rotation.py:Rotation")),
)
SINGLE = {"dino", "moco"}  # compute in float32 by themselves
VOLUMES = 5  # a batch of which two processes take 3 and 2
TWO = ("cpu", "cpu")


class Toy(Recomputing):
    """A network of this file: its parameters are used in it and outside of it, and a token is given to it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.token = nn.Parameter(torch.randn(3))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, token: Tensor, *, extra: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        hidden = self.recomputed(lambda y: self.norm(self.layer(y)), x + extra["more"])
        return hidden, {"token": hidden[:, :3] * token, "number": 1}


class Odd(Recomputing):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


def toy_loss(toy: Toy, x: Tensor) -> Tensor:
    hidden, made = toy(x, toy.token * 2, extra={"more": x.square()})
    again, _ = toy(hidden, toy.token, extra={"more": hidden})
    assert len(hidden) == len(x)
    assert made["number"] == 1
    few, _ = toy(x[:1].expand(1, 4), toy.token, extra={"more": x[:1]}) if not toy.training else (hidden, made)
    return (again @ hidden.T).logsumexp(1).sum() + made["token"].square().sum() + toy.layer.weight.norm() + few.mean()


def toy_results(ranks: Ranks, *, again: bool) -> dict[str, Tensor]:
    torch.manual_seed(3)
    toy = Toy().double()
    recompute(toy, again)
    x = torch.randn(VOLUMES, 4, dtype=torch.float64, requires_grad=True)
    with Division(ranks, toy):
        value = toy_loss(toy, x)
        value.backward()
    grads = {name: p.grad for name, p in toy.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"loss": value.detach(), "x": x.grad, **grads, **dict(toy.named_buffers())}


def results(trial: Trial, ranks: Ranks, kind: torch.dtype) -> dict[str, Tensor]:
    """Loss, gradients and running statistics of one batch, computed in `kind`."""
    trial.reset()
    batch = trial.batch()
    method = trial.method.to(kind)
    batch = replace(
        batch,
        views=tuple(view[:VOLUMES].to(kind) for view in batch.views),
        target=None if batch.target is None else batch.target[:VOLUMES].to(kind),
        clean=None if batch.clean is None else batch.clean[:VOLUMES].to(kind),
        items=batch.items[:VOLUMES],
        patients=batch.patients[:VOLUMES],
    )
    torch.manual_seed(5)
    assert trial.stage.loss is not None
    division = Division(ranks, method, trial.stage.module)
    with division:
        value = trial.stage.loss(batch)
        value.backward()
    division.settle(trial.stage.module)
    grads = {f"gradient of {name}": p.grad for name, p in method.named_parameters() if p.grad is not None}
    buffers = {f"buffer {name}": b.clone() for name, b in method.named_buffers()}
    method.float()
    return {"loss": value.detach(), **grads, **buffers}


def all_results(config: Config, folder: Path, ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    bank = VolumeBank(folder)
    found: dict[str, dict[str, Tensor]] = {}
    for row in config.methods:
        for trial in Bench(config=config, name=row, bank=bank).trials():
            if trial.stage.targets is not None:  # its prior is not trained here: any map is as good
                trial.loader.targets = lambda rows: bank.batch(list(rows), torch.device("cpu"))
            kind = torch.float32 if row in SINGLE else torch.float64
            found[f"{row}, {trial.stage.name}"] = results(trial, ranks, kind)
    return {**found, "toy": toy_results(ranks, again=False), "toy again": toy_results(ranks, again=True)}


def refused(ranks: Ranks) -> list[str]:
    """What is said of a network that gives no entry a volume, and of processes that do not agree."""
    said = []
    with Division(ranks, odd := Odd()), pytest.raises(ContractError) as error:
        odd(torch.ones(4, 2))
    said.append(str(error.value))
    division = Division(ranks, nn.Linear(2, 2))
    division.check_losses([torch.tensor(1.0)], 1)
    with pytest.raises(ContractError) as error:
        division.check_losses([torch.tensor(1.0), torch.tensor(1.0 + ranks.rank)], 7)
    return [*said, str(error.value)]


def follow(config: Config, folder: Path, meeting: Path) -> None:
    begin(1)
    ranks = Ranks(rank=1, count=2)
    meet(meeting, 1, TWO)
    all_results(config, folder, ranks)
    refused(ranks)


@contextmanager
def followed(*given: object) -> Iterator[Ranks]:
    other = multiprocessing.get_context("spawn").Process(target=follow, args=given, daemon=True)
    other.start()
    meet(given[-1], 0, TWO)  # type: ignore[arg-type]
    try:
        yield Ranks(rank=0, count=2)
        other.join(30)
    finally:
        other.kill()
        dist.destroy_process_group()


def longest(of: Mapping[str, Tensor]) -> float:
    """The bias before a batch norm has no gradient but rounding: it is held against the others."""
    return max(float(value.norm()) for value in of.values() if value.is_floating_point())


def test_loss_and_gradients_are_those_of_one_process(cache: Path, tmp_path: Path, planned: Callable[..., Any]) -> None:
    config: Config = planned(methods=",".join(METHODS)).config
    bank = open_bank(SinusPhantom(SinusPhantom.Options(patients=6, pool_patients=2, size=24)), cache)
    one = all_results(config, bank.folder, ALONE)
    with followed(config, bank.folder, tmp_path / "meeting") as ranks:
        two = all_results(config, bank.folder, ranks)
        said = refused(ranks)
        with pytest.raises(LostError):  # the other has ended
            ranks.total(torch.ones(1))
    assert len(one) == len(METHODS) + 3  # residual has two stages; and the toy, twice
    for name, expected in one.items():
        assert two[name].keys() == expected.keys()
        close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6 * longest(expected))
        if name.partition(",")[0] in SINGLE:
            close = partial(torch.testing.assert_close, rtol=1e-2, atol=1e-3 * longest(expected))
        for key, value in expected.items():
            close(two[name][key], value, msg=partial("{}: {}: {}".format, name, key))
    assert "Odd gives a tensor []" in said[0]
    assert "its loss at step 7 differs between the 2 processes" in said[1]


def test_a_batch_is_dealt_out_whole() -> None:
    for batch in range(1, 12):
        parts = [Ranks(rank=rank, count=3).own(batch) for rank in range(3)]
        assert [begin for begin, _ in parts] == [0, parts[0][1], parts[0][1] + parts[1][1]]
        assert sum(size for _, size in parts) == batch
        assert max(size for _, size in parts) - min(size for _, size in parts) <= 1
