"""A batched 3D median filter: MONAI's takes one volume at a time and holds all its windows in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


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
    for volume, out in zip(windows, result, strict=True):  # a plane at a time: all windows take size^3 the memory
        for plane in range(x.shape[2]):
            out[:, plane] = _median(volume[:, plane].flatten(-3))
    return result


def _median(rows: Tensor) -> Tensor:
    """The median along the last axis, of odd length."""
    if rows.device.type != "cpu":
        return rows.median(dim=-1).values
    middle = rows.shape[-1] // 2  # numpy's selection is vectorised: six times as fast as torch's on a CPU
    return torch.from_numpy(np.partition(rows.numpy(), middle, axis=-1)[..., middle])
