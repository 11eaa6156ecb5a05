"""What the processes of one stage tell one another: parts of a batch joined, sums, and gradients of either.

All of them compute the same loss of the same batch, and parts of the networks' passes on the way to it. So a tensor is
either whole, the same in each process, as is its gradient; or it is one process's part, and so is its gradient. The
four functions here lead from one side to the other, and each one's way back is another's way forward (as the conjugate
operators of Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

P = ParamSpec("P")
R = TypeVar("R")


class LostError(RuntimeError):
    """Another process of the stage does not answer."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that carry out a stage together, through torch.distributed's default group; this is one of them."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def sizes(self, batch: int) -> list[int]:
        """How many of a batch's volumes each process takes: equally many, the first ones one more where need be."""
        each, more = divmod(batch, self.count)
        return [each + (rank < more) for rank in range(self.count)]

    def own(self, batch: int) -> tuple[int, int]:
        """Where in the batch this process's part begins, and its size."""
        sizes = self.sizes(batch)
        return sum(sizes[: self.rank]), sizes[self.rank]

    def total(self, x: Tensor) -> Tensor:
        """The sum of what each process gives; the same bits in all of them."""
        if self.count == 1:
            return x
        x = x.clone(memory_format=torch.contiguous_format)
        _answered(dist.all_reduce, x)
        return x

    def first(self, x: Tensor) -> Tensor:
        """What the first process gives."""
        if self.count == 1:
            return x
        x = x.clone(memory_format=torch.contiguous_format)
        _answered(dist.broadcast, x, src=0)
        return x

    def joined(self, part: Tensor, batch: int) -> Tensor:
        """All parts behind one another along axis 0: [part of B, ...] -> [B, ...]."""
        if part.ndim in (4, 5):  # maps are sent channels last, as networks keep them, and stay so
            return self._joined(part.movedim(1, -1), batch).movedim(-1, 1)
        return self._joined(part, batch)

    def _joined(self, part: Tensor, batch: int) -> Tensor:
        sizes, shape = self.sizes(batch), part.shape[1:]
        sent = part.contiguous()
        if len(part) < max(sizes):  # all send equally much
            sent = torch.cat([sent, sent[:1]])
        sent = sent.reshape(-1).view(torch.uint8)  # of any type
        everything = sent.new_empty(self.count * len(sent))
        _answered(dist.all_gather_into_tensor, everything, sent)
        parts = everything.view(part.dtype).view(self.count, max(sizes), *shape)
        if min(sizes) == max(sizes):
            return parts.flatten(0, 1)
        return torch.cat([one[:size] for one, size in zip(parts, sizes, strict=True)])


ALONE = Ranks()


def _answered(ask: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Asks the others. Raises LostError where one of them is gone."""
    try:
        ask(*args, **kwargs)
    except RuntimeError as error:
        raise LostError(f"another process of the stage does not answer: {str(error).splitlines()[0]}") from error


def cut(ranks: Ranks, whole: Tensor) -> Tensor:
    """This process's part of `whole` [B, ...]; on the way back the gradients of all parts are joined."""
    part: Tensor = _Cut.apply(whole, ranks)
    return part


def join(ranks: Ranks, part: Tensor, batch: int) -> Tensor:
    """[B, ...] of the parts; on the way back this process's part of the gradient, and nothing is sent."""
    whole: Tensor = _Join.apply(part, batch, ranks)
    return whole


def add(ranks: Ranks, x: Tensor) -> Tensor:
    """The sum of what each process gives, for use on its part: on the way back gradients are summed as well."""
    total: Tensor = _Add.apply(x, ranks)
    return total


def lend(ranks: Ranks, whole: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same tensors, for use on a part of the batch: on the way back their gradients are summed, all at once."""
    lent: tuple[Tensor, ...] = _Lend.apply(ranks, *whole)
    return lent


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.batch = ranks, len(whole)
        return whole.narrow(0, *ranks.own(len(whole))).clone()  # a view could not be changed in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.joined(grad, ctx.batch), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, batch: int, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.batch = ranks, batch
        return ranks.joined(part, batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.narrow(0, *ctx.ranks.own(ctx.batch)), None, None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.total(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.total(grad), None


class _Lend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *whole: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        ctx.set_materialize_grads(False)
        return tuple(one.view_as(one) for one in whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [grad for grad in grads if grad is not None]  # of the same tensors in each process
        if not there:
            return None, *grads
        flat = ctx.ranks.total(torch.cat([grad.reshape(-1) for grad in there]))
        parts = iter(flat.split([grad.numel() for grad in there]))
        return None, *(None if grad is None else next(parts).view(grad.shape).to(grad.dtype) for grad in grads)
