"""What a stage can ask for, and what its loss is then given; and a stage that is stopped and goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.recipes import Recipe
from voxbench.benchmark.training import checkpoints, pretrain
from voxbench.benchmark.training.batches import batch_of, looks
from voxbench.benchmark.training.train import Hooks, learning_rate, optimise, start, weight_decay
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.views.loader import Loader
from voxbench.datasets.views.policies import policies
from voxbench.datasets.volumes.bank import VolumeBank, open_bank
from voxbench.methods.base import Group, MethodError, Stage, View

CHECKING = Path(__file__).parents[1] / "checking"
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
STILL = {"intensity_probability": 0, "blur_probability": 0, "noise_probability": 0}


@pytest.fixture(scope="module")
def bank(cache: Path) -> VolumeBank:
    return open_bank(SinusPhantom(SinusPhantom.Options(patients=6, pool_patients=2)), cache)


def stage(**given: object) -> Stage:
    return Stage(**{"name": "s", "module": nn.Linear(1, 1), "loss": Tensor.mean, **given})  # type: ignore[arg-type]


def loader(bank: VolumeBank, asked: Stage) -> Loader:
    return Loader(
        bank,
        range(3, len(bank)),
        batch=4,
        policy=policies()["none"],
        looks=looks({}, asked),
        seed=1,
        device=torch.device("cpu"),
        clean=asked.clean,
    )


def test_views_have_sizes_and_strengths_of_their_own(bank: VolumeBank) -> None:
    own = View(augmentation="contrastive", strengths={"crop": (0.1, 0.1), "crop_probability": 1.0}, size=0.5)
    source = loader(bank, stage(views=(View(augmentation="none"), own)))
    whole, small = source.draw(0).views
    assert whole.shape[2:] == bank.shape[1:]
    assert small.shape[2:] == tuple(side // 2 for side in bank.shape[1:])
    assert torch.equal(whole, bank.batch([source.members[row] for row in source.rows(0)]))
    assert source.looks[1].policy.strengths.crop == (0.1, 0.1)
    assert source.volumes_per_step == 4 * 1.125


def test_views_by_number_are_what_they_were(bank: VolumeBank) -> None:
    plain = Loader(
        bank, range(6), batch=4, policy=policies()["contrastive"], seed=1, device=torch.device("cpu"), views=2
    )
    asked = Loader(
        bank,
        range(6),
        batch=4,
        policy=policies()["none"],
        looks=looks({}, stage(views=2)),
        seed=1,
        device=torch.device("cpu"),
    )
    assert all(torch.equal(a, b) for a, b in zip(plain.draw(2).views, asked.draw(2).views, strict=True))


def test_a_clean_volume_moves_with_the_first_view_and_nothing_else_happens_to_it(bank: VolumeBank) -> None:
    moved = View(augmentation="geometric", strengths=STILL)
    drawn = loader(bank, stage(views=(moved, moved), clean=True)).draw(0)
    assert drawn.clean is not None
    assert torch.allclose(drawn.views[0], drawn.clean, atol=1e-5)
    noisy = View(augmentation="geometric", strengths={**STILL, "noise_probability": 1.0, "noise": (0.2, 0.2)})
    drawn = loader(bank, stage(views=(noisy,), clean=True)).draw(0)
    assert drawn.clean is not None
    assert float((drawn.views[0] - drawn.clean).abs().mean()) > 0.02


def test_a_batch_says_which_volumes_and_whose_they_are(bank: VolumeBank) -> None:
    source = loader(bank, stage())
    batch = batch_of(source.draw(0), source, 0.25)
    assert (batch.progress, batch.size, len(batch.items)) == (0.25, len(bank) - 3, 4)
    of = [bank.items[source.members[item]].patient for item in batch.items]
    for i, one in enumerate(batch.patients):
        for j, other in enumerate(batch.patients):
            assert (one == other) == (of[i] == of[j])


def test_groups_have_their_own_rate_and_decay_and_a_hook_may_change_gradients(bank: VolumeBank) -> None:
    recipe = Recipe(lr=0.01, batch=4, weight_decay=0.1)
    net = nn.Sequential(nn.AvgPool3d(8), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 1))
    still, slow = net[2], net[3]
    before = [still.weight.clone(), slow.weight.clone()]
    groups = (Group(parameters=[still.weight], rate=0.0), Group(parameters=[slow.weight], decay=0.5))
    training = start(net, recipe, 3, groups)
    decays = {id(p): group["weight_decay"] for group in training.optimizer.param_groups for p in group["params"]}
    assert decays[id(slow.weight)] == 0.05 and decays[id(slow.bias)] == 0.0

    def drop(progress: float) -> None:
        assert 0 <= progress < 1
        slow.weight.grad = None

    optimise(
        training,
        lambda d: net(d.views[0]).square().mean(),
        loader(bank, stage()),
        recipe,
        hooks=Hooks(before_step=drop),
    )
    assert torch.equal(still.weight, before[0]) and torch.equal(slow.weight, before[1])
    assert not torch.equal(still.bias, torch.zeros(8))
    with pytest.raises(MethodError, match="groups name a parameter twice"):
        start(net, recipe, 3, (groups[0], groups[0]))


@pytest.mark.parametrize("steps", [3, 40])
def test_the_decay_of_a_whole_training_does_not_depend_on_its_length(bank: VolumeBank, steps: int) -> None:
    """Without gradients weights end at exp(-1) of their start, to the error of finite steps."""
    recipe = Recipe(lr=0.01, batch=4, weight_decay=7.0, total_decay=1.0)
    net = nn.Sequential(nn.AvgPool3d(8), nn.Flatten(), nn.Linear(64, 8))
    before = net[2].weight.detach().clone()
    training = start(net, recipe, steps)
    optimise(training, lambda draw: 0 * net(draw.views[0]).sum(), loader(bank, stage()), recipe)
    exact = math.prod(1 - learning_rate(recipe, step, steps) * weight_decay(recipe, steps) for step in range(steps))
    torch.testing.assert_close(net[2].weight.detach(), exact * before)
    assert exact == pytest.approx(math.exp(-1), rel=0.04 if steps == 40 else 0.5)


def test_a_steady_group_keeps_the_highest_rate_while_the_others_follow_the_schedule(bank: VolumeBank) -> None:
    recipe = Recipe(lr=0.01, batch=4, weight_decay=0.1, warmup=0.4)
    net = nn.Sequential(nn.AvgPool3d(8), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 1))
    training = start(net, recipe, 5, (Group(parameters=[*net[3].parameters()], rate=0.5, steady=True),))
    seen: list[tuple[float, float]] = []

    def watch(progress: float) -> None:
        rates = {id(p): float(group["lr"]) for group in training.optimizer.param_groups for p in group["params"]}
        seen.append((rates[id(net[2].weight)], rates[id(net[3].weight)]))

    loss = lambda draw: net(draw.views[0]).square().mean()  # noqa: E731 - one line says it
    optimise(training, loss, loader(bank, stage()), recipe, hooks=Hooks(before_step=watch))
    assert [steady for _, steady in seen] == [0.005] * 5
    assert [rate for rate, _ in seen] == pytest.approx([learning_rate(recipe, step, 5) for step in range(5)])
    assert seen[0][0] < seen[1][0] > seen[-1][0]


@pytest.mark.parametrize("method", ["moco.py:MoCo", "dino.py:DINO"])
def test_a_stage_that_is_stopped_goes_on_to_the_same_bits(
    planned: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Also where its steps are not what its views say: MoCo passes one of its two with gradients."""
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    given = {"methods": f"{EXAMPLES / method}", "encoder": f"{CHECKING / 'encoders.py'}:Deaf"}
    run = planned(("dataset.size=16", "pretrain.volumes=160"), **given)
    plan = next(iter(run.plan.stages.values()))
    key = replace(plan, key="whole")

    def stop(done: int, total: int) -> None:
        if done == total - 2:
            raise KeyboardInterrupt

    with run.setup().opened() as context:
        whole = pretrain.run_stage(context, key, lambda done, total: None)
        context.store.drop_checkpoint("whole")
        with pytest.raises(KeyboardInterrupt):
            pretrain.run_stage(context, plan, stop)
        again = pretrain.run_stage(context, plan, lambda done, total: None)
        for name in ("module", "encoder"):
            one, two = context.store.load_weights("whole", name), context.store.load_weights(plan.key, name)
            assert all(torch.equal(one[key], two[key]) for key in one)
    assert (whole["steps"], whole["volumes"], whole["curve"]) == (again["steps"], again["volumes"], again["curve"])
    assert whole["steps"] == {"moco.py:MoCo": 20, "dino.py:DINO": 8}[method]
