"""What the joint-embedding methods (BYOL, SimCLR, SimSiam) share: two views of enough volumes."""

from __future__ import annotations

from torch import Tensor

from voxbench.methods.base import Batch, MethodError


def two_views(batch: Batch, method: str) -> tuple[Tensor, Tensor]:
    """The two views; raises MethodError for a single volume, where batch statistics mean nothing."""
    first, second = batch.views
    if len(first) < 2:
        raise MethodError(f"{method} needs at least 2 volumes a batch, got {len(first)}: raise the batch size")
    return first, second
