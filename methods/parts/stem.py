"""The first convolution of an encoder, in the form that the device is fast at.

Of one channel and stride 2, cuDNN has no kernel for GPUs' matrix units: on an H100 a 7^3 stem of 64 x 64^3 took a
quarter of a whole training step. The same sums over blocks of 2^3 voxels as channels (space to depth) are an ordinary
convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """conv(x) [B, O, d, h, w], channels last; on a GPU by blocks, where the convolution is of that kind."""
    fits = conv.in_channels <= 2 and conv.stride == (2, 2, 2) and conv.kernel_size[0] % 2 == 1
    if fits and x.device.type == "cuda":
        return by_blocks(conv, x)
    out: Tensor = conv(_channels_last(x))
    return out


def _channels_last(x: Tensor) -> Tensor:
    """x with the strides of channels last: of one channel both layouts are one, and PyTorch takes it for the other.

    The maps behind the stem would be so too, and on a CPU a step takes a tenth longer.
    """
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last_3d)
    d, h, w = x.shape[2:]
    return x.contiguous().as_strided(x.shape, (d * h * w, 1, h * w, w, 1))


def by_blocks(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """conv(x) of a cubic odd kernel and stride 2, as a convolution of stride 1 over blocks of 2^3 voxels."""
    kernel, padding = conv.kernel_size[0], int(conv.padding[0])
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    pads: list[int] = []
    for length in reversed(x.shape[2:]):  # functional.pad wants the last axis first
        out = (length + 2 * padding - kernel) // 2 + 1
        pads += [padding, 2 * (out - 1) + kernel + 1 - padding - length]
    b, c = x.shape[:2]
    x = functional.pad(x, pads)
    d, h, w = (n // 2 for n in x.shape[2:])
    blocks = x.view(b, c, d, 2, h, 2, w, 2).permute(0, 2, 4, 6, 1, 3, 5, 7)
    blocks = blocks.reshape(b, d, h, w, 8 * c).permute(0, 4, 1, 2, 3)  # [B, 8C, d, h, w], channels last
    half = (kernel + 1) // 2
    weight = functional.pad(conv.weight, [0, 1] * 3).view(-1, c, half, 2, half, 2, half, 2)
    weight = weight.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(-1, 8 * c, half, half, half)
    return functional.conv3d(blocks, weight, conv.bias)
