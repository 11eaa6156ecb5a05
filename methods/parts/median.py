"""A batched 3D median filter: MONAI's takes one volume at a time and holds all its windows in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

WINDOWS_AT_ONCE = 2**27  # numbers: half a gigabyte of float32 on a GPU


def median_filter(x: Tensor, size: int) -> Tensor:
    """x [B, C, D, H, W], each voxel replaced by the median of its size^3 neighbourhood; borders are repeated.

    Equals `scipy.ndimage.median_filter(volume, size, mode="nearest")`. `size` is odd; 0 and 1 change nothing.
    """
    if size <= 1:
        return x
    if size % 2 == 0:
        raise ValueError(f"the median filter's size must be odd, got {size}")
    padded = functional.pad(x, [size // 2] * 6, mode="replicate")
    windows = padded.unfold(2, size, 1).unfold(3, size, 1).unfold(4, size, 1)  # a view [B, C, D, H, W, s, s, s]
    result = torch.empty_like(x)
    # All windows take size^3 the memory: on a CPU a plane at a time (it stays in the cache), on a GPU as many volumes
    # and planes as fill it.
    plane = x[0, :, 0].numel() * size**3
    planes = 1 if x.device.type == "cpu" else max(1, min(x.shape[2], WINDOWS_AT_ONCE // plane))
    volumes = 1 if planes < x.shape[2] else max(1, WINDOWS_AT_ONCE // (plane * planes))
    for b in range(0, len(x), volumes):
        for d in range(0, x.shape[2], planes):
            place = slice(b, b + volumes), slice(None), slice(d, d + planes)
            result[place] = _median(windows[place].flatten(-3))
    return result


def _median(rows: Tensor) -> Tensor:
    """The median along the last axis, of odd length."""
    if rows.device.type != "cpu":
        return rows.median(dim=-1).values
    middle = rows.shape[-1] // 2  # numpy's selection is vectorised: six times as fast as torch's on a CPU
    return torch.from_numpy(np.partition(rows.numpy(), middle, axis=-1)[..., middle])
