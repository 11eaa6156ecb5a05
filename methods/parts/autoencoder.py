"""The convolutional autoencoder of residual-SSL (Bhattacharya et al., IJCARS 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods.parts.decoder import SubpixelHead, crop
from voxbench.methods.parts.recompute import Recomputing
from voxbench.methods.parts.sparse import grid


def _unit(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm3d(channels), nn.LeakyReLU(inplace=True))


class Autoencoder(Recomputing):
    """[B, C, D, H, W] -> the same, through a vector of at most `latent` numbers.

    As in the paper's code: stride-2 convolutions C-16-32-64 of 5^3, a 1^3 convolution to 4 channels, a linear
    layer to the latent vector; the way back mirrors it with stride-1 convolutions and trilinear upsampling by
    2. With its settings at 64^3 it has the paper's 2.74 M parameters. Two things differ. The convolutions of
    the way back come before the upsampling, and the last step is a sub-pixel convolution, so that nothing
    convolves at full resolution. And the latent vector has at most a quarter of the numbers it is made from
    (the paper's 2048 -> 512), else small volumes would pass through unhindered. Any size works: odd sizes are
    cut after upsampling.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int], kernel: int, bottleneck: int, latent: int) -> None:
        super().__init__()
        self.sizes = [grid(shape[1:], 2**level) for level in range(len(widths) + 1)]  # fine to coarse
        flat = bottleneck * math.prod(self.sizes[-1])
        code = max(1, min(latent, flat // 4))
        half = kernel // 2
        self.down = nn.Sequential(
            *(
                _unit(nn.Conv3d(a, b, kernel, stride=2, padding=half, bias=False), b)
                for a, b in pairwise((shape[0], *widths))
            ),
            nn.Conv3d(widths[-1], bottleneck, 1),
        )
        self.encode, self.decode = nn.Linear(flat, code), nn.Linear(code, flat)
        self.widen = nn.Conv3d(bottleneck, widths[-1], 1)
        self.up = nn.ModuleList(
            _unit(nn.Conv3d(a, b, kernel, padding=half, bias=False), b) for a, b in pairwise(reversed(widths))
        )
        self.head = SubpixelHead(widths[0], shape[0], 2, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says; the output is not bounded."""
        for unit in self.down:
            x = self.recomputed(unit, x)
        code = self.encode(x.flatten(1))  # [B, code]
        x = self.widen(self.decode(code).unflatten(1, (-1, *self.sizes[-1])))
        for unit, size in zip(self.up, reversed(self.sizes[1:-1]), strict=True):
            x = self.recomputed(_doubled, unit, x, size)
        return crop(self.head(x), self.sizes[0])


def _doubled(unit: nn.Module, x: Tensor, size: Sequence[int]) -> Tensor:
    return crop(functional.interpolate(unit(x), scale_factor=2.0, mode="trilinear"), size)
