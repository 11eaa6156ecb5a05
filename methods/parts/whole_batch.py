"""Statistics over a whole batch, in a network of which each of several processes computes a part of the batch.

The harness says, around such a network's forward pass, how a sum over the part becomes the sum over the batch. What
takes its sums by `summed` is then right in one process and in several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

Sum = Callable[[Tensor], Tensor]
"""The sum over all processes of what each gives; differentiable."""

_sum: ContextVar[Sum | None] = ContextVar("sum over the parts of a batch", default=None)


def summing() -> Sum | None:
    """How sums over a part become sums over the batch; None where the batch is whole."""
    return _sum.get()


@contextmanager
def part_of_batch(add: Sum | None) -> Iterator[None]:
    """For the forward pass of a network that is given a part of the batch; None: it is given all of it."""
    before = _sum.set(add)
    try:
        yield
    finally:
        _sum.reset(before)


def summed(x: Tensor) -> Tensor:
    """`x`, a sum over what this process has of the batch, as the sum over the whole of it."""
    add = _sum.get()
    return x if add is None else add(x)


def uses_batch(norm: _BatchNorm) -> bool:
    """Whether `norm` would normalise by the statistics of what it is given."""
    return norm.training or norm.running_mean is None


def batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    """norm(x) for x [B, C, ...], a part of the batch, by the statistics of the whole; in float32 at least.

    Two sums over the processes on the way forward, the mean and then squares about it, and one on the way back
    (Ioffe and Szegedy, ICML 2015). torch.nn.SyncBatchNorm does the same on a GPU only.
    """
    values = _wide(x.detach())
    over, shape = _axes(x)
    with torch.no_grad():
        parts = summed(torch.cat([values.sum(over), values.new_tensor([x.numel() / x.shape[1]])]))
        mean, count = parts[:-1] / parts[-1], parts[-1]
        variance = summed((values - mean.view(shape)).square().sum(over)) / count
        follow(norm, mean, variance * (count / (count - 1)))
    normed: Tensor = _Normalised.apply(
        x, norm.weight, norm.bias, mean, torch.rsqrt(variance + norm.eps), count, summing()
    )
    return normed


def follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics as torch does: exponential average, unbiased variance."""
    if not (norm.training and norm.track_running_stats):
        return
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    rate = 1.0 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, rate)
    norm.running_var.lerp_(variance, rate)


def _axes(x: Tensor) -> tuple[list[int], list[int]]:
    """All axes but the channels', and the shape of a number a channel that fits x."""
    return [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))  # sums in bfloat16 would lose digits


class _Normalised(torch.autograd.Function):
    """(x - mean) * scale * weight + bias, whose mean and scale are those of the batch: its gradient knows of them.

    Keeps x alone for the way back, where plain operations would keep three maps of its size.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        count: Tensor,
        add: Sum,
    ) -> Tensor:
        """`scale` is 1 / standard deviation; `mean`, `scale`, `weight` and `bias` are [C]."""
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.add = add
        _, shape = _axes(x)
        factor = scale if weight is None else scale * weight
        out = (_wide(x) - mean.view(shape)) * factor.view(shape)
        return (out if bias is None else out + bias.view(shape)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        """Of x with the whole batch's sums; of weight and bias this part's share, as of every parameter."""
        x, weight, mean, scale, count = ctx.saved_tensors
        over, shape = _axes(x)
        grad = _wide(given)
        normed = (_wide(x) - mean.view(shape)) * scale.view(shape)
        by_bias, by_weight = grad.sum(over), (grad * normed).sum(over)
        of_bias, of_weight = (ctx.add(torch.cat([by_bias, by_weight])) / count).chunk(2)
        factor = scale if weight is None else scale * weight
        own = (grad - of_bias.view(shape) - normed * of_weight.view(shape)) * factor.view(shape)
        affine = (None, None) if weight is None else (by_weight, by_bias)
        return own.to(x.dtype), *affine, None, None, None, None
