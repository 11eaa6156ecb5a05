"""How many volumes pass through a method's encoder: counted where it happens, in its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from voxbench.benchmark.settings.errors import ContractError
from voxbench.benchmark.training.ranks import ALONE, Ranks
from voxbench.benchmark.training.targets import in_mode
from voxbench.methods.base import Encoder, Method, Stage
from voxbench.methods.parts.whole_batch import summing

SLACK = 1e-9  # of a step: sums of shares are not exact
P = ParamSpec("P")
R = TypeVar("R")


class Passes:
    """Counts, by hooks, the work of a method's encoder and of the copies of it that the method holds.

    Work is products of weights in convolutions and linear layers. A volume is what one whole volume of the data set
    costs: a crop counts by its share of voxels, and so does a masked volume of which the encoder leaves places out.
    """

    def __init__(self, method: Method, volumes: Tensor, ranks: Ranks = ALONE) -> None:
        """`volumes` [2, C, D, H, W] are passed once, to learn what one costs. `ranks` share the networks' passes."""
        self._on = False
        self._ranks = ranks
        self._work = {"own": 0, "copies": 0, "forward": 0}
        self._part = dict.fromkeys(self._work, 0)  # of passes that are divided, by this process
        self._hooks = [
            layer.register_forward_hook(self._noticing("own" if encoder is method.encoder else "copies"))
            for encoder in method.modules()
            if isinstance(encoder, Encoder)
            for layer in encoder.modules()
            if isinstance(layer, _ConvNd | nn.Linear)
        ]
        self._one = self._cost_of(method.encoder, volumes)

    @property
    def countable(self) -> bool:
        """False for an encoder without a convolution or linear layer of PyTorch's."""
        return self._one > 0

    @property
    def own(self) -> float:
        """Volumes through the encoder itself that gradients can flow back through."""
        return self._volumes("own")

    @property
    def trained(self) -> float:
        """Volumes, forward and backward, through the encoder and copies of it: what a budget is of."""
        return self._volumes("own") + self._volumes("copies")

    @property
    def forward(self) -> float:
        """Volumes that passed without gradients, such as through a target network."""
        return self._volumes("forward")

    def counted(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, with the passes in it counted."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._counting():
                result = function(*args, **kwargs)
            self._add_parts()
            return result

        return call

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return dict(self._work)

    def load(self, state: dict[str, int]) -> None:
        """Goes on from `state`."""
        self._work.update(state)

    def close(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _volumes(self, kind: str) -> float:
        return self._work[kind] / self._one if self._one else 0.0

    def _add_parts(self) -> None:
        """What all processes did of the passes that are divided."""
        if any(self._part.values()):
            total = self._ranks.total(torch.tensor([*self._part.values()])).tolist()
            self._work = {kind: work + more for (kind, work), more in zip(self._work.items(), total, strict=True)}
            self._part = dict.fromkeys(self._part, 0)

    def _cost_of(self, encoder: Encoder, volumes: Tensor) -> int:
        """Of one volume, in a pass as training makes it: in eval mode some layers take a way that calls no parts."""
        kept = {name: value.clone() for name, value in encoder.state_dict().items()}
        devices = [volumes.device] if volumes.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), in_mode(encoder, training=True), self._counting():
            encoder(volumes)
        encoder.load_state_dict(kept)  # running statistics have moved
        cost = sum(self._work.values()) // len(volumes)
        self._work = dict.fromkeys(self._work, 0)
        return cost

    @contextmanager
    def _counting(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _noticing(self, whose: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def notice(layer: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            if self._on and isinstance(out, Tensor):
                work = self._work if summing() is None else self._part
                work[whose if out.requires_grad else "forward"] += _products(layer, given, out)

        return notice


class Pace:
    """How many steps a stage has: its budget of volumes, by what its steps really pass through the encoder."""

    def __init__(self, stage: Stage, volumes: int, per_step: float, passes: Passes) -> None:
        """`per_step` is what its views are; a prior stage does not train the encoder, and goes by them."""
        self.volumes, self.passes = volumes, passes
        self.counts = stage.budget == "pretrain" and passes.countable
        self.declared = max(1, math.ceil(volumes / per_step - SLACK)) if stage.loss is not None else 0

    def steps(self, taken: int) -> int:
        """Steps in all, from what those `taken` have cost. Raises MethodError where they trained no encoder."""
        spent = self.passes.trained
        if spent == 0:
            raise ContractError(
                "no volume passes through the encoder with gradients at its first step: the loss calls it under "
                "no_grad, or not at all, or an encoder of its own that the method does not hold as a module"
            )
        return max(1, math.ceil(self.volumes * taken / spent - SLACK))


def _products(layer: nn.Module, given: tuple[Any, ...], out: Tensor) -> int:
    weights: int = cast(Tensor, layer.weight).numel()
    if isinstance(layer, _ConvTransposeNd):
        return weights * int(given[0].numel() // layer.in_channels)
    width: int = layer.out_channels if isinstance(layer, _ConvNd) else out.shape[-1]
    return weights * (out.numel() // width)
