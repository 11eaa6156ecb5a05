"""The voxelwise median image of some volumes: what most of them look like, learnt without training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

AT_ONCE = 2**24  # numbers that are sorted together: 64 MB


class MedianImage(nn.Module):
    """[B, C, D, H, W] -> the image, once for each volume.

    Beside the image it keeps of every voxel the two values in the middle. Of all volumes but one the lower median is
    one of these two, so what the others look like is known for each volume that was learnt from (`without`).
    """

    image: Tensor  # [C, D, H, W]: 0 until learnt
    middle: Tensor  # [2, C, D, H, W]: of N values in order, numbers (N - 2) // 2 and the next, counted from 0

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("image", torch.zeros(tuple(shape)))
        self.register_buffer("middle", torch.zeros((2, *shape)))

    def forward(self, volumes: Tensor) -> Tensor:
        """As the class says."""
        return self.image.expand_as(volumes)

    @torch.no_grad()
    def learn(self, volumes: Iterable[Tensor]) -> None:
        """From batches [B, C, D, H, W], two volumes at least. All are held in memory in half precision, as a bank has
        them."""
        stack = torch.cat([batch.half().cpu() for batch in volumes]).flatten(1)  # [N, voxels]
        first = (len(stack) - 2) // 2
        parts = [
            np.partition(part.float().numpy(), (first, first + 1), axis=0)[
                first : first + 2
            ]  # faster than torch's sort
            for part in torch.split(stack, max(1, AT_ONCE // len(stack)), dim=1)
        ]
        middle = torch.from_numpy(np.concatenate(parts, axis=1)).view_as(self.middle)
        self.middle.copy_(middle)
        self.image.copy_(middle[1] if len(stack) % 2 else middle.mean(dim=0))

    def without(self, volumes: Tensor) -> Tensor:
        """For each of the volumes learnt from [B, C, D, H, W], the lower median image of all the others."""
        low, high = self.middle
        return torch.where(volumes.half() <= low, high, low)
