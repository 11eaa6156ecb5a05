"""Maps that are computed again in the backward pass, in place of being kept for it (Chen et al., arXiv 1604.06174).

A batch that does not fit can be cut into parts only where no layer looks at the whole of it; batch norm does, and so do
the losses of joint embedding. Computing again keeps the batch whole: same statistics, same gradients, to the last bit
where a device computes the same sum the same way twice. It costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from voxbench.methods.parts.autocast import OneVoxelInFloat32
from voxbench.methods.parts.whole_batch import Sum, part_of_batch, summing

R = TypeVar("R")


class Recomputing(nn.Module):
    """A network that passes its maps from block to block by `recomputed`, and so can do without those in between."""

    recompute: bool = False  # set by the harness, where a step does not fit in memory

    def recomputed(self, function: Callable[..., R], *given: Any) -> R:
        """function(*given), of which only the inputs and the result are kept where `recompute` is set.

        `function` is called again in the backward pass, with the same random numbers and autocast. PyTorch's norms
        in this network do not count that call; other layers in `function` must leave no trace of a call themselves.
        """
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*given)
        result: R = checkpoint(function, *given, use_reentrant=False, context_fn=self._contexts)
        return result

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(self, summing())


def recompute(module: nn.Module, on: bool) -> bool:
    """Sets it for every network in `module` that can; whether there is one that now does."""
    able = [part for part in module.modules() if isinstance(part, Recomputing)]
    for part in able:
        part.recompute = on
    return on and bool(able)


@contextmanager
def _again(module: nn.Module, add: Sum | None) -> Iterator[None]:
    """For the second call, which PyTorch makes under the first one's autocast and outside all else it ran under."""
    with without_trace(module), part_of_batch(add), OneVoxelInFloat32():
        yield


@contextmanager
def without_trace(module: nn.Module) -> Iterator[None]:
    """Norms in training mode use the batch's statistics as always, and note nothing of them."""
    tracking = [part for part in module.modules() if isinstance(part, _NormBase) and part.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in tracking]
    for norm in tracking:
        norm.momentum, norm.num_batches_tracked = 0.0, None  # running statistics move by nothing, calls do not count
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(tracking, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
