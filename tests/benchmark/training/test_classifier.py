"""Options of fine-tuning: which part learns when, at what rate; unused they change nothing, not even a key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.recipes import FinetuneRecipe
from voxbench.benchmark.training.classifier import Classifier, HeadFirst
from voxbench.benchmark.training.train import start
from voxbench.methods.base import Encoder
from voxbench.methods.encoders.resnet import ResNet, ResNetOptions

Planned = Callable[..., Run]
RECIPE = {"lr": 0.1, "batch": 2, "steps": 20, "warmup": 0.2}


class Plain(Encoder):
    """A plug-in that does not tell its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv3d(1, 4, 3)
        self.widths, self.strides = (4,), (1,)

    def pyramid(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, ...]:
        return (self.net(x),)


def resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet(ResNetOptions(depth=10, widths=(4, 4, 8, 8), stem_kernel=3, max_pool=False), 1)


def volumes() -> Tensor:
    return torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


def test_unused_options_change_no_key_and_used_ones_do(planned: Planned) -> None:
    recipe = FinetuneRecipe(**RECIPE)
    assert not {"linear_first", "layer_decay", "freeze_norm"} & recipe.model_dump(mode="json").keys()
    assert FinetuneRecipe(**recipe.model_dump()) == recipe
    before = planned(methods="supervised").plan.cells.keys()
    for setting in ("linear_first=0.2", "layer_decay=0.7", "freeze_norm=true"):
        assert not planned(methods="supervised", settings=(f"finetune.{setting}",)).plan.cells.keys() & before
    unused = ("finetune.linear_first=0", "finetune.layer_decay=1", "finetune.freeze_norm=false")
    assert planned(methods="supervised", settings=unused).plan.cells.keys() == before


def test_each_layer_has_the_decayed_rate_of_the_next_coarser() -> None:
    model = Classifier(resnet(), 2, 0)
    groups = model.groups(0.5, apart=False)
    assert [group.rate for group in groups] == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]
    assert {id(p) for group in groups for p in group.parameters} == {id(p) for p in model.encoder.parameters()}
    stem = next(iter(groups)).parameters
    assert any(p is model.encoder.net.conv1.weight for p in stem)
    training = start(model, FinetuneRecipe(**RECIPE), 20, groups)
    rates = {id(p): group.get("rate", 1.0) for group in training.optimizer.param_groups for p in group["params"]}
    assert all(rates[id(p)] == 1.0 for p in model.head.parameters())
    assert rates[id(model.encoder.net.layer4[0].conv1.weight)] == 0.5


def test_an_encoder_that_does_not_tell_its_layers_is_one() -> None:
    model = Classifier(Plain(), 2, 0)
    (group,) = model.groups(0.5, apart=False)
    assert group.rate == 0.5
    assert len(group.parameters) == 2
    assert model.groups(1.0, apart=False) == ()


def test_frozen_statistics_stay_whatever_is_trained() -> None:
    for freeze in (False, True):
        model = Classifier(resnet(), 2, 0, freeze_norm=freeze).train()
        before = model.encoder.net.bn1.running_mean.clone()
        model(volumes())
        assert torch.equal(model.encoder.net.bn1.running_mean, before) == freeze
        model.eval()
        model.train()  # as after a look at validation
        model(volumes())
        assert torch.equal(model.encoder.net.bn1.running_mean, before) == freeze
        assert model.encoder.net.bn1.weight.requires_grad


def test_the_head_learns_alone_first_and_the_encoder_s_rate_then_rises() -> None:
    recipe = FinetuneRecipe(**RECIPE, linear_first=0.25)
    model = Classifier(resnet(), 2, 0)
    training = start(model.train(), recipe, 20, model.groups(1.0, apart=True))
    first = HeadFirst(model, recipe, training)
    encoder = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    head = model.head[0].weight.detach().clone()
    of_encoder = {id(p) for p in model.encoder.parameters()}
    rates = []
    for step in range(20):
        training.step = step
        first.before_loss()
        training.optimizer.zero_grad(set_to_none=True)
        model(volumes()).square().mean().backward()
        for group in training.optimizer.param_groups:
            group["lr"] = 0.01
        first.before_step(step / 20)
        rates.append({group["lr"] for group in training.optimizer.param_groups if id(group["params"][0]) in of_encoder})
        training.optimizer.step()
        same = all(torch.equal(value, encoder[name]) for name, value in model.encoder.state_dict().items())
        assert same == (step < 5)  # weights and batch statistics
    assert not torch.equal(model.head[0].weight, head)
    assert [max(rate) for rate in rates[5:9]] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01])
    assert model.encoder.training


def test_a_fine_tuning_with_all_options_comes_to_an_end(bench: Callable[..., int]) -> None:
    options = ("finetune.linear_first=0.5", "finetune.layer_decay=0.7", "finetune.freeze_norm=true")
    assert bench(methods="supervised", settings=options) == 0
