"""What the joint-embedding methods (BYOL, SimCLR, SimSiam) share: two views, compared in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from voxbench.methods.base import Batch, MethodError


def two_views(batch: Batch, method: str) -> tuple[Tensor, Tensor]:
    """The two views; raises MethodError for a single volume, where batch statistics mean nothing."""
    first, second = batch.views
    if len(first) < 2:
        raise MethodError(f"{method} needs at least 2 volumes a batch, got {len(first)}: raise the batch size")
    return first, second


def compare(criterion: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    """criterion(first, second) in float32, under autocast too: bfloat16 has too few digits for a cosine."""
    with torch.autocast(first.device.type, enabled=False):
        return criterion(first.float(), second.float())
