"""What a method says it will train: held to the contract before anything is trained, and in words for a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from torch import Tensor, nn

from voxbench.benchmark.planning.tunable import checked_tunable
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import ContractError, nearest
from voxbench.datasets.base import DatasetError
from voxbench.datasets.views.policies import policies
from voxbench.methods.base import Method, Role, Stage, View


def checked_stages(name: str, method: Method) -> tuple[Stage, ...]:
    """The stages of a method. Raises MethodError, in a line that names method, stage and rule."""
    if method.role not in get_args(Role):
        raise ContractError(f"method {name}: no role is called {method.role!r}: {nearest(method.role, get_args(Role))}")
    checked_tunable(name, method)
    stages: Any = method.stages()
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        given = (
            f"a list of {sorted({type(one).__name__ for one in stages})}" if isinstance(stages, Sequence) else stages
        )
        raise ContractError(f"method {name}: stages() gives {given!r}: return the stages in order, or () for none")
    names = [stage.name for stage in stages]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise ContractError(f"method {name}: two of its stages are called {twice!r}: give each a name of its own")
    for stage in stages:
        wrong = _wrong(method, stage)
        if wrong is not None:
            raise ContractError(f"method {name}, stage {stage.name}: {wrong}")
    return tuple(stages)


def made_by(stage: Stage, index: int, config: Config, row: str) -> dict[str, Any]:
    """What decides stage `index` of a row's method beside its code, for a key; of training, what it uses of it."""
    views = stage.views if isinstance(stage.views, int) else [view.identity for view in stage.views]
    said = {"stage": [index, stage.name, stage.augmentation, stage.cohort, views]}
    if stage.loss is None:
        return said
    return {
        **said,
        "recipe": config.stage_recipe(row, stage.budget).model_dump(mode="json"),
        "augmentation": _strengths(stage, config),
        **({"held_out": stage.held_out} if stage.held_out else {}),
    }


def _strengths(stage: Stage, config: Config) -> Any:
    """What the configuration says of the policies that the stage's views are made by."""
    if isinstance(stage.views, int):
        return config.augmentation.get(stage.augmentation, {})
    return {view.augmentation: config.augmentation.get(view.augmentation, {}) for view in stage.looks}


def _wrong(method: Method, stage: Stage) -> str | None:
    if not isinstance(stage.module, nn.Module):
        return f"its module is {stage.module!r}: give the nn.Module that holds what is trained"
    return _wrong_views(stage) or _wrong_training(stage) or _wrong_module(method, stage)


def _wrong_training(stage: Stage) -> str | None:
    if not 0 <= stage.held_out <= 0.5:
        return f"held_out={stage.held_out:g}: it is a share of the stage's patients, at most 0.5"
    if stage.held_out and stage.finish is None:
        return "it holds volumes out, and has no finish that would use them"
    if stage.loss is not None:
        return None
    if stage.finish is None or stage.budget != "prior":
        return "it has no loss, so nothing is trained: then it has a finish, and budget='prior'"
    if stage.embed is not None:
        return "it has no loss, so there is no collapse to watch for: leave embed out"
    return None


def _wrong_views(stage: Stage) -> str | None:
    if isinstance(stage.views, int) and stage.views < 1:
        return f"views={stage.views}: a stage needs at least one view of each volume"
    if not stage.looks or not all(isinstance(view, View) for view in stage.looks):
        return f"views={stage.views!r}: give a number, or View(...) for each"
    for view in stage.looks:
        known = policies({})
        if view.augmentation not in known:
            return f"no augmentation is called {view.augmentation!r}: {nearest(view.augmentation, known)}"
        if not 0 < view.size <= 1:
            return f"a view of size {view.size:g}: it is a share of each side, above 0 and at most 1"
        try:
            policies({view.augmentation: dict(view.strengths)})
        except DatasetError as error:
            return " ".join(str(error).split())
    return None


def _wrong_module(method: Method, stage: Stage) -> str | None:
    held = {id(parameter) for parameter in stage.module.parameters()}
    if stage.loss is not None and not any(parameter.requires_grad for parameter in stage.module.parameters()):
        return "its module has no parameter with requires_grad: nothing would be trained"
    outside = [name for name, parameter in method.encoder.named_parameters() if id(parameter) not in held]
    if stage.budget == "pretrain" and outside:
        return f"the encoder is not in its module ({outside[0]} is not): only what the module holds is trained and kept"
    lazy = [name for name, parameter in stage.module.named_parameters() if nn.parameter.is_lazy(parameter)]
    if lazy:
        return f"{lazy[0]} has no size yet: give layers their sizes in __init__, where the seed holds (no Lazy layers)"
    other = [key for key, value in stage.module.state_dict().items() if not isinstance(value, Tensor)]
    if other:
        return f"its module's state has {other[0]!r}, which is no tensor: keep what must be kept in a buffer"
    return None
