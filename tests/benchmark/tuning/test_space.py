"""What is searched: the same for all methods, and at most two options of a method's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from voxbench.benchmark.planning.stages import checked_stages
from voxbench.benchmark.planning.tunable import MOST_OWN
from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import BenchError, ContractError
from voxbench.benchmark.settings.presets import read_preset
from voxbench.benchmark.settings.resolve import resolve
from voxbench.benchmark.tuning.space import configured, space_of
from voxbench.methods.base import Choice, Range
from voxbench.methods.encoders.resnet import ResNet
from voxbench.methods.supervised import Supervised

SHAPE = (1, 32, 32, 32)


def config(*methods: str, layer: dict[str, Any] | None = None) -> Config:
    return resolve([read_preset("quick"), layer or {}], methods)


def test_each_method_has_the_same_of_the_recipes_and_supervised_what_applies() -> None:
    settings = config("supervised", "simclr", "spark", "pca")
    names = {method: [p.name for p in space_of(settings, method, SHAPE)] for method in settings.methods}
    tuned = ["finetune.lr", "finetune.weight_decay"]
    before = ["pretrain.lr", "pretrain.weight_decay", "pretrain.volumes"]
    assert names == {
        "supervised": tuned,
        "simclr": [*before, *tuned, "temperature"],
        "spark": [*before, *tuned, "mask_ratio"],
        "pca": [],
    }


@pytest.mark.parametrize("name", sorted(registry.names("methods")))
def test_what_a_registered_method_says_can_be_had(name: str) -> None:
    settings = config(name)
    space = space_of(settings, name, SHAPE)
    assert sum("." not in p.name for p in space) <= MOST_OWN
    for parameter in space:
        span = parameter.span
        for value in span.values if isinstance(span, Choice) else (span.low, span.high):
            whole = isinstance(span, Range) and span.whole
            changed = configured(settings, {name: {parameter.name: round(value) if whole else value}})
            assert changed != settings or value == parameter.default


def test_settings_go_where_they_belong() -> None:
    before = config("simclr", "byol", layer={"recipes": {"byol": {"pretrain": {"lr": 0.5}}}})
    after = configured(before, {"simclr": {"pretrain.lr": 0.01, "finetune.lr": 0.02, "temperature": 0.3}})
    assert after.stage_recipe("simclr", "pretrain").lr == 0.01
    assert after.finetune_recipe("simclr").lr == 0.02
    assert after.methods["simclr"]["temperature"] == 0.3
    assert after.stage_recipe("byol", "pretrain").lr == 0.5
    assert after.finetune == before.finetune
    assert before.methods["simclr"]["temperature"] == 0.5
    with pytest.raises(BenchError, match="temperature"):
        configured(before, {"simclr": {"temperature": -1.0}})


def test_a_preset_s_own_recipe_is_where_its_search_starts() -> None:
    settings = config("simclr", layer={"recipes": {"simclr": {"pretrain": {"lr": 0.5, "volumes": 64}}}})
    space = {p.name: p for p in space_of(settings, "simclr", SHAPE)}
    assert space["pretrain.lr"].default == 0.5
    assert space["pretrain.volumes"].span == Range(low=16, high=256, log=True, whole=True)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"a": Choice((1,)), "b": Choice((1,)), "c": Choice((1,))}, "at most 2"),
        ({"temprature": Range(low=0.1, high=1.0)}, "no option"),
        ({"temperature": Range(low=1.0, high=0.1)}, "a range rises"),
        ({"temperature": Range(low=0.0, high=0.1, log=True)}, "a range rises"),
        ({"temperature": Choice(())}, "no values"),
    ],
)
def test_a_wrong_tunable_is_told(said: dict[str, Range | Choice], why: str) -> None:
    simclr = registry.load("methods", "simclr")

    class Wrong(simclr):  # type: ignore[misc, valid-type]
        tunable: ClassVar[Any] = said

    encoder: Callable[..., Any] = ResNet
    built = Wrong(encoder(ResNet.Options(depth=10, max_pool=False), 1), simclr.Options(), SHAPE)
    with pytest.raises(ContractError, match=why):
        checked_stages("simclr", built)


def test_the_default_names_nothing() -> None:
    assert dict(Supervised.tunable) == {}
