"""The one training loop: every pretraining stage and every fine-tuning runs through `optimise`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightly.utils.lars import LARS
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from voxbench.benchmark.settings.errors import ContractError
from voxbench.benchmark.settings.recipes import Recipe
from voxbench.benchmark.training.division import UNDIVIDED, Division
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.methods.base import Group
from voxbench.methods.parts.autocast import autocast

CURVE_POINTS = 100  # a curve for a plot needs no more
OTHER_STREAM = 0x5DEECE66D  # keeps the global generator's numbers apart from those that augmented the batch
GPU_CHECK_EVERY = 20  # reading a loss waits for the GPU, so there losses are checked in bundles


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite: nothing after that step means anything."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a stage, or the harness, does about each step."""

    before_step: Callable[[float], None] | None = None  # progress in [0, 1): gradients are there
    after_step: Callable[[float], None] | None = None  # progress in (0, 1]
    steps: Callable[[int], int] | None = None  # steps taken, the present one included -> how many there will be


NO_HOOKS = Hooks()


@dataclass(kw_only=True)
class Training:
    """The state of an optimisation: all that a checkpoint must hold to go on bit for bit."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    precision: torch.dtype = torch.float32  # of forward passes
    step: int = 0  # steps done
    curve: list[dict[str, float]] = field(default_factory=list)
    loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))  # of the last step, on its device

    def state(self) -> dict[str, Any]:
        """Tensors and plain numbers only, so that it loads with ``weights_only=True``."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "curve": self.curve,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes up where `state` was made."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        self.curve = list(state["curve"])


def start(
    module: nn.Module,
    recipe: Recipe,
    steps: int,
    own: Sequence[Group] = (),
    precision: torch.dtype = torch.float32,
) -> Training:
    """A training of `module`'s trainable parameters; biases and norms are kept from weight decay (and from LARS).

    `own` are parameters with a rate and decay of their own. Raises MethodError where they are not the module's.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    apart = [id(p) for group in own for p in group.parameters]
    if len({*apart}) < len(apart) or not {*apart} <= {id(p) for p in trained}:
        raise ContractError("its groups name a parameter twice, or one that the stage's module does not train")
    decay = weight_decay(recipe, steps)
    rest = Group(parameters=[p for p in trained if id(p) not in apart])
    groups = [
        {"params": params, "weight_decay": own_decay, **({} if group is rest else _own(group))}
        for group in (rest, *own)
        for params, own_decay in (
            ([p for p in group.parameters if p.ndim > 1], group.decay * decay),
            ([p for p in group.parameters if p.ndim <= 1], 0.0),
        )
        if params or group is rest
    ]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "lars":
        optimizer = LARS(groups, lr=recipe.lr, momentum=0.9, weight_decay=decay)
    else:
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)  # one pass over each weight, or one launch
    return Training(module=module, optimizer=optimizer, steps=steps, precision=precision)


def _own(group: Group) -> dict[str, Any]:
    """What the loop must know of it; no more than that, for it stands in every checkpoint."""
    return {"rate": group.rate, "steady": group.steady}


def weight_decay(recipe: Recipe, steps: int) -> float:
    """The recipe's, or what shrinks weights by exp(-`total_decay`) over all steps.

    A decay of a step takes the rate as a factor (Loshchilov and Hutter, ICLR 2019): of a short training it leaves
    nothing, where that of a paper's hundreds of epochs halves all weights that gradients do not hold.
    """
    if not recipe.total_decay:
        return recipe.weight_decay
    return recipe.total_decay / sum(learning_rate(recipe, step, steps) for step in range(steps))


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine that would be zero one step after the last; a function of the step alone."""
    warm = round(recipe.warmup * steps)
    if step < warm:
        return recipe.lr * (step + 1) / warm
    return recipe.lr * float(cosine_schedule(step - warm, steps - warm + 1, 1.0, 0.0))


def optimise(
    training: Training,
    loss: Callable[[Draw], Tensor],
    loader: Loader,
    recipe: Recipe,
    *,
    hooks: Hooks = NO_HOOKS,
    on_step: Callable[[Training], bool] | None = None,
    division: Division = UNDIVIDED,
) -> None:
    """Runs `training` to its end, or until `on_step` answers True.

    Forward passes run in `training.precision`, weights and what the optimiser keeps in float32. All processes of a
    `division` run it alike.
    Raises NonFiniteLossError naming the step, and MethodError for a loss that cannot be differentiated.
    """
    device = loader.device
    training.module.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _steps(training, loss, loader, recipe, hooks, on_step, division)


def _steps(
    training: Training,
    loss: Callable[[Draw], Tensor],
    loader: Loader,
    recipe: Recipe,
    hooks: Hooks,
    on_step: Callable[[Training], bool] | None,
    division: Division,
) -> None:
    device = loader.device
    check_every = GPU_CHECK_EVERY if device.type == "cuda" else 1
    losses: list[Tensor] = []
    while training.step < training.steps:
        draw = loader.draw(training.step)
        # Methods draw from `draw.rng`, but layers such as nn.Dropout know the global generator only.
        torch.manual_seed(draw.rng.initial_seed() ^ OTHER_STREAM)
        with division:
            value = forward(loss, draw, device, training.precision)
            backward(training, value, recipe, division)
        if hooks.steps is not None:  # what a step costs is known once it is taken
            training.steps = max(training.step + 1, hooks.steps(training.step + 1))
        rate = learning_rate(recipe, training.step, training.steps)
        for group in training.optimizer.param_groups:
            group["lr"] = (recipe.lr if group.get("steady") else rate) * group.get("rate", 1.0)
        if hooks.before_step is not None:
            hooks.before_step(training.step / training.steps)
        training.optimizer.step()
        training.step += 1
        training.loss = value.detach()
        losses.append(training.loss)
        last = training.step == training.steps
        if len(losses) >= check_every or last:
            _check(losses, training.step)
            division.check_losses(losses, training.step)
            losses = losses[-1:] if not last else []
        if hooks.after_step is not None:
            hooks.after_step(training.step / training.steps)
        every = max(1, math.ceil(training.steps / CURVE_POINTS))
        if training.step % every == 0 or last or training.step == 1:
            training.curve.append({"step": training.step, "loss": _finite(value, training.step), "lr": rate})
        if on_step is not None and on_step(training):
            return


def forward(
    loss: Callable[[Draw], Tensor], draw: Draw, device: torch.device, precision: torch.dtype = torch.float32
) -> Tensor:
    """The loss of one batch. Raises MethodError for one that cannot be differentiated."""
    with autocast(device, precision):
        value = loss(draw)
    _check_usable(value)
    return value


def backward(training: Training, value: Tensor, recipe: Recipe, division: Division = UNDIVIDED) -> None:
    """Gradients of the loss, limited as the recipe says; the optimiser has not stepped yet."""
    training.optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    division.settle(training.module)
    if recipe.clip > 0:
        nn.utils.clip_grad_norm_(training.module.parameters(), recipe.clip)


def _check_usable(loss: Tensor) -> None:
    """What PyTorch would say in its own terms; raises MethodError."""
    if not isinstance(loss, Tensor):
        raise ContractError(f"the loss is a {type(loss).__name__}: return a tensor with one number, and no .item()")
    if loss.ndim:
        raise ContractError(f"the loss has shape {list(loss.shape)}: return a scalar, such as its mean")
    if not loss.requires_grad:
        raise ContractError("the loss depends on no parameter: compute it by what the stage trains, without detach")


def _check(losses: list[Tensor], step: int) -> None:
    finite = torch.isfinite(torch.stack(losses))
    if not bool(finite.all()):
        first = step - len(losses) + 1 + int((~finite).nonzero()[0])
        value = losses[first - step - 1].item()
        if first == 1:
            raise NonFiniteLossError(f"the loss is {value} at step 1, before anything was learnt: mend the loss")
        raise NonFiniteLossError(
            f"the loss is {value} at step {first}: lower the learning rate (lr), or set a gradient limit (clip), of "
            "prior, pretrain or finetune"
        )


def _finite(value: Tensor, step: int) -> float:
    _check([value.detach()], step)
    return float(value.detach())
