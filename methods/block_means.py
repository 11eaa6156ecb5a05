"""Block means: how bright each part of a volume is, and logistic regression. What a network should do better than."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from voxbench.methods.base import Options
from voxbench.methods.parts.probe import Probe


class BlockMeansOptions(Options):
    """How coarsely a volume is looked at."""

    blocks: int = Field(8, ge=1)  # along each axis


class BlockMeans(Probe):
    """The mean of each block of a volume, standardised, with logistic regression."""

    Options: ClassVar[type[Options]] = BlockMeansOptions
    name: ClassVar[str] = "block-means"
    about: ClassVar[str] = "yardstick: means of 8 x 8 x 8 blocks, logistic regression"
    encoder_free: ClassVar[bool] = True

    def features(self, volumes: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, C * blocks^3]."""
        return functional.adaptive_avg_pool3d(volumes, self.options.blocks).flatten(1)
