"""What is searched for a method: the same few settings of its recipes, and at most two options of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voxbench.benchmark.planning.stages import checked_stages
from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.assemble import Shape, build_method
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.model import validated
from voxbench.benchmark.settings.recipes import Recipe, StageRecipe
from voxbench.methods.base import Choice, Predictor, Range

RATE = 10.0  # a learning rate is searched from this many times less than the preset's to as many times more
VOLUMES = 4.0  # likewise the volumes of pretraining
DECAY = Range(low=1e-6, high=0.1, log=True)  # whatever the preset's, which may be 0

Settings = Mapping[str, Any]
"""Values by name: "pretrain.lr" of a recipe, "temperature" of an option of the method's own."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting that is searched."""

    name: str
    span: Range | Choice
    default: Any  # what trial 0 has


def space_of(config: Config, method: str, shape: Shape) -> tuple[Parameter, ...]:
    """All that is searched for a method; () for a formula, and for a predictor that names nothing.

    Raises MethodError where the method breaks the contract.
    """
    built = build_method(config, method, shape, 0, None)
    if built.role == "yardstick":
        return ()
    pretrained = any(stage.budget == "pretrain" for stage in checked_stages(method, built))
    found: list[Parameter] = []
    if pretrained:
        recipe = config.stage_recipe(method, "pretrain")
        found += [*_of_recipe("pretrain", recipe), Parameter(name="pretrain.volumes", **_volumes(recipe))]
    if not isinstance(built, Predictor):
        found += _of_recipe("finetune", config.finetune_recipe(method))
    own = config.methods[method]
    return (*found, *(Parameter(name=name, span=span, default=own[name]) for name, span in built.tunable.items()))


def configured(config: Config, chosen: Mapping[str, Settings]) -> Config:
    """`config` with these settings of each method in place of its own. Raises BenchError for a value it cannot have."""
    methods, recipes = dict(config.methods), {name: own.model_dump() for name, own in config.recipes.items()}
    for method, settings in chosen.items():
        options = registry.load("methods", config.method_spec(method)).Options
        own = {name: value for name, value in settings.items() if "." not in name}
        methods[method] = validated(options, {**methods[method], **own}, f"methods.{method}").model_dump(mode="json")
        for name, value in settings.items():
            kind, _, key = name.rpartition(".")
            if kind:
                recipes.setdefault(method, {}).setdefault(kind, {})[key] = value
    data = {**config.model_dump(), "methods": methods, "recipes": recipes}
    found = Config.model_validate(data)
    for method in chosen:
        found.stage_recipe(method, "pretrain"), found.finetune_recipe(method)
    return found


def _of_recipe(kind: str, recipe: Recipe) -> list[Parameter]:
    return [
        Parameter(name=f"{kind}.lr", span=_around(recipe.lr, RATE), default=recipe.lr),
        Parameter(name=f"{kind}.weight_decay", span=DECAY, default=recipe.weight_decay),
    ]


def _volumes(recipe: StageRecipe) -> dict[str, Any]:
    around = _around(recipe.volumes, VOLUMES)
    low = max(round(around.low), min(recipe.batch, recipe.volumes - 1), 2)
    return {"span": Range(low=low, high=round(around.high), log=True, whole=True), "default": recipe.volumes}


def _around(value: float, factor: float) -> Range:
    return Range(low=value / factor, high=value * factor, log=True)
