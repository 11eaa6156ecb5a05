"""The one loop: schedule, finiteness, checkpoints, selection, collapse."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voxbench.benchmark.records.store import TARGETS, Store
from voxbench.benchmark.settings.recipes import Recipe
from voxbench.benchmark.training.pretrain import collapse_of
from voxbench.benchmark.training.targets import Targets, evaluating
from voxbench.benchmark.training.train import NonFiniteLossError, Training, learning_rate, optimise, start
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.datasets.views.policies import policies
from voxbench.datasets.volumes.bank import VolumeBank, open_bank
from voxbench.methods.base import MethodError

RECIPE = Recipe(lr=0.01, batch=4, weight_decay=0.1)


@pytest.fixture(scope="module")
def bank(cache: Path) -> VolumeBank:
    return open_bank(SinusPhantom(SinusPhantom.Options(patients=6, pool_patients=2)), cache)


def loader(bank: VolumeBank, **given: Any) -> Loader:
    values = {"batch": 4, "policy": policies()["contrastive"], "seed": 1, "device": torch.device("cpu"), **given}
    return Loader(bank, range(len(bank)), **values)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.AvgPool3d(8), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))


def brightness_loss(net: nn.Module, draw: Draw) -> Tensor:
    volumes = draw.views[0]
    loss: Tensor = (net(volumes)[:, 0] - volumes.mean(dim=(1, 2, 3, 4))).pow(2).mean()
    return loss


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    recipe = Recipe(lr=1.0, batch=2, warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    middle = 10 + 45
    assert rates[middle] == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)), abs=0.02)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_no_step_is_wasted_on_a_rate_of_zero(steps: int, warmup: float) -> None:
    recipe = Recipe(lr=1.0, batch=2, warmup=warmup)
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    assert min(rates) > 0 and max(rates) == pytest.approx(1.0)


def test_lars_without_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="lars needs a weight_decay"):
        Recipe(lr=1.0, batch=2, optimizer="lars")


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_loss_falls_and_small_parameters_do_not_decay(bank: VolumeBank, optimizer: str) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "lr": 0.02 if optimizer == "adamw" else 1.0})
    net = network()
    training = start(net, recipe, 40)
    decays = {p.ndim > 1: group["weight_decay"] for group in training.optimizer.param_groups for p in group["params"]}
    assert decays == {True: 0.1, False: 0.0}
    optimise(training, lambda draw: brightness_loss(net, draw), loader(bank), recipe)
    losses = [point["loss"] for point in training.curve]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert training.step == 40


def test_a_non_finite_loss_stops_at_its_step(bank: VolumeBank) -> None:
    net = network()

    def loss(draw: Draw) -> Tensor:
        value = brightness_loss(net, draw)
        return value / 0 if training.step == 6 else value

    training = start(net, RECIPE, 20)
    with pytest.raises(NonFiniteLossError, match="inf at step 7: lower the learning rate"):
        optimise(training, loss, loader(bank), RECIPE)
    training = start(net, RECIPE, 20)
    with pytest.raises(NonFiniteLossError, match="nan at step 1, before anything was learnt: mend the loss"):
        optimise(training, lambda draw: brightness_loss(net, draw) * math.nan, loader(bank), RECIPE)


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [(lambda loss: loss.repeat(3), "has shape \\[3\\]: return a scalar"), (Tensor.detach, "depends on no parameter")],
)
def test_a_loss_that_cannot_be_differentiated_is_said_in_our_terms(
    bank: VolumeBank, spoilt: Callable[[Tensor], Tensor], said: str
) -> None:
    net = network()
    with pytest.raises(MethodError, match=said):
        optimise(start(net, RECIPE, 20), lambda draw: spoilt(brightness_loss(net, draw)), loader(bank), RECIPE)


def test_a_training_resumed_from_a_checkpoint_is_the_same_to_the_last_bit(bank: VolumeBank, tmp_path: Path) -> None:
    whole = network()
    optimise(start(whole, RECIPE, 12), lambda draw: brightness_loss(whole, draw), loader(bank), RECIPE)
    store = Store(tmp_path)
    first = network()

    def stop_at_five(training: Training) -> bool:
        if training.step == 5:
            store.save_checkpoint("k", training.state())
        return training.step == 5

    optimise(
        start(first, RECIPE, 12),
        lambda draw: brightness_loss(first, draw),
        loader(bank),
        RECIPE,
        on_step=stop_at_five,
    )
    second = network()
    resumed = start(second, RECIPE, 12)
    state = store.load_checkpoint("k")
    assert state is not None
    resumed.load(state)
    optimise(resumed, lambda draw: brightness_loss(second, draw), loader(bank), RECIPE)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert [p["step"] for p in resumed.curve] == list(range(1, 13))


def test_batches_depend_on_seed_and_step_alone(bank: VolumeBank) -> None:
    a, b = loader(bank, views=2), loader(bank, views=2)
    b.draw(0)
    for one, other in zip(a.draw(3).views, b.draw(3).views, strict=True):
        assert torch.equal(one, other)
    first, second = a.draw(3).views
    assert not torch.equal(first, second)
    assert not torch.equal(a.draw(3).views[0], loader(bank, views=2, seed=2).draw(3).views[0])


def test_an_epoch_serves_each_volume_at_most_once_and_notes_it(bank: VolumeBank) -> None:
    source = loader(bank, policy=policies()["none"], batch=5)
    assert source.steps_per_epoch == len(bank) // 5
    for step in range(source.steps_per_epoch):
        source.draw(step)
    assert len(source.seen) == 5 * source.steps_per_epoch
    small = Loader(
        bank, [0, 1, 2], batch=16, policy=policies()["none"], seed=0, device=torch.device("cpu"), labelled=False
    )
    assert small.batch == 3 and len(small.draw(0).views[0]) == 3


def test_targets_are_made_once_alone_and_in_eval_mode(bank: VolumeBank, tmp_path: Path) -> None:
    made: list[int] = []
    module = nn.Dropout()

    def make(volumes: Tensor) -> Tensor:
        assert not module.training
        made.append(len(volumes))
        return 1 - volumes

    def targets() -> Targets:
        return Targets(tmp_path, make, module, bank, range(len(bank)), torch.device("cpu"))

    first = targets()
    assert first([2, 0]).shape == (2, *bank.shape)
    assert torch.allclose(targets()([0, 1]), 1 - bank.batch([0, 1]), atol=1e-3)
    assert made == [1, 1, 1]
    assert module.training


def test_damaged_targets_are_made_anew(bank: VolumeBank, tmp_path: Path) -> None:
    made: list[int] = []

    def maps(*rows: int) -> list[int]:
        """The rows whose maps had to be made."""

        def make(volumes: Tensor) -> Tensor:
            made.append(len(volumes))
            return 1 - volumes

        made.clear()
        targets = Targets(tmp_path, make, nn.Identity(), bank, range(len(bank)), torch.device("cpu"))
        assert torch.allclose(targets(rows), 1 - bank.batch(rows), atol=1e-3)
        return made

    assert maps(0, 1, 2) == [1, 1, 1]
    assert maps(0, 1, 2) == []
    file = tmp_path / TARGETS
    whole = file.read_bytes()
    row = len(whole) // 3
    for place in (0, 100, 2 * row + 50, len(whole) - 1):  # in a seal, in a map
        flipped = bytearray(whole)
        flipped[place] ^= 4
        file.write_bytes(flipped)
        assert maps(0, 1, 2) == [1], place
        assert file.read_bytes() == whole
    for lost, content in ((1, whole[:-9]), (2, whole[row : 2 * row] + whole[:row] + whole[2 * row :]), (3, b"")):
        file.write_bytes(content)  # cut short, two swapped, emptied
        assert maps(0, 1, 2) == [1] * lost
    file.unlink()
    assert maps(0, 1, 2) == [1, 1, 1]


def test_targets_move_with_their_volumes(bank: VolumeBank) -> None:
    source = loader(
        bank,
        policy=policies({"geometric": {"intensity_probability": 0, "blur_probability": 0, "noise_probability": 0}})[
            "geometric"
        ],
        targets=lambda rows: bank.batch(list(rows)),
    )
    draw = source.draw(0)
    assert draw.target is not None
    assert torch.allclose(draw.views[0], draw.target, atol=1e-5)


def test_collapse_is_one_for_one_embedding_and_near_zero_for_spread_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    assert collapse_of(torch.ones(64, 32)) == pytest.approx(1.0)
    assert collapse_of(torch.randn(64, 32, generator=rng)) < 0.05


def test_evaluating_puts_each_part_back_as_it_was() -> None:
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    module[1].eval()
    with pytest.raises(RuntimeError), evaluating(module):
        assert not module[0].training
        raise RuntimeError
    assert module[0].training and not module[1].training
