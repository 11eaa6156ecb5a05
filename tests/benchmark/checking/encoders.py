"""Encoders that break their promises, as a third party would write them."""

import torch
from torch import nn

from voxbench.methods import base


class Deaf(base.Encoder):
    """A right one, but for masks."""

    name = "deaf"
    about = "two strided convolutions"

    def __init__(self, options, in_channels):
        super().__init__()
        self.widths, self.strides = (4, 8), (2, 4)
        self.fine = nn.Sequential(nn.Conv3d(in_channels, 4, 3, 2, 1), nn.BatchNorm3d(4), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv3d(4, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.ReLU())

    def pyramid(self, x, visible=None):
        fine = self.fine(x)
        return fine, self.coarse(fine)


class WrongWidths(Deaf):
    name = "wrong-widths"

    def __init__(self, options, in_channels):
        super().__init__(options, in_channels)
        self.widths = (4, 16)


class WrongStrides(Deaf):
    name = "wrong-strides"

    def __init__(self, options, in_channels):
        super().__init__(options, in_channels)
        self.strides = (2, 8)


class FallingStrides(Deaf):
    name = "falling-strides"

    def __init__(self, options, in_channels):
        super().__init__(options, in_channels)
        self.strides = (4, 2)


class NoWidths(Deaf):
    name = "no-widths"

    def __init__(self, options, in_channels):
        super().__init__(options, in_channels)
        self.widths = None


class Detached(Deaf):
    name = "detached"

    def pyramid(self, x, visible=None):
        return tuple(level.detach() for level in super().pyramid(x, visible))


class Unused(Deaf):
    name = "unused"

    def __init__(self, options, in_channels):
        super().__init__(options, in_channels)
        self.extra = nn.Parameter(torch.zeros(3))


class Failing(Deaf):
    name = "failing"

    def pyramid(self, x, visible=None):
        return super().pyramid(x.view(len(x), 1, 8, 8, 8), visible)


class OneLevel(base.Encoder):
    """Places are masked before and after its one layer, which sees no place but its own."""

    name = "one-level"
    about = "one strided convolution"

    def __init__(self, options, in_channels):
        super().__init__()
        self.widths, self.strides = (8,), (4,)
        self.net = nn.Conv3d(in_channels, 8, 4, 4)

    def pyramid(self, x, visible=None):
        out = self.net(x)
        return (out if visible is None else out * visible,)


class Blind(Deaf):
    name = "blind"

    def pyramid(self, x, visible=None):
        fine, coarse = super().pyramid(x)
        return (fine * 0 + 1, coarse * 0 + 1)
