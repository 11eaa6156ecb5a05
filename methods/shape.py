"""Numbers of shape with logistic regression, for volumes that are masks. What a network on masks should do better than.

They stand for the shape features of radiomics (Zwanenburg et al., "The image biomarker standardization initiative",
Radiology 2020), as far as they need no voxel size, which a data set of equal cubes does not tell.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voxbench.methods.base import MethodError, Volumes
from voxbench.methods.parts.geometry import shape_numbers
from voxbench.methods.parts.probe import Probe

NEAR = 0.1  # of a volume's range: a voxel within it of the lowest or highest value is decided
DECIDED = 0.9  # share of the voxels, of a mask: the others are of a border that was resampled


class Shape(Probe):
    """Size, surface, thickness, inertia, extent and the like of each channel's mask, 17 numbers."""

    name: ClassVar[str] = "shape"
    about: ClassVar[str] = "yardstick: 17 numbers of shape, logistic regression; for volumes that are masks"
    encoder_free: ClassVar[bool] = True

    def suits(self, sample: Volumes) -> None:
        """Nearly all voxels of nearly all volumes have one of two values."""
        masks = sample.features(lambda batch: torch.tensor([[float(_is_mask(one))] for one in batch]))
        if masks.mean() < DECIDED:
            raise MethodError(f"{self.name} is for masks, and most of these volumes have more than two values")

    def features(self, volumes: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, C * 17]."""
        channels = volumes.flatten(0, 1).cpu().numpy()
        numbers = np.stack([shape_numbers(_mask(one)) for one in channels])
        return torch.from_numpy(numbers).reshape(len(volumes), -1)


def _is_mask(volume: Tensor) -> bool:
    low, high = volume.min(), volume.max()
    near = NEAR * (high - low)
    decided = (volume <= low + near) | (volume >= high - near)
    return bool(decided.float().mean() >= DECIDED)


def _mask(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """What lies above the middle of its range; of a volume of one value, all or nothing."""
    low, high = float(volume.min()), float(volume.max())
    mask: npt.NDArray[np.bool_] = volume > ((low + high) / 2 if high > low else 0.5)
    return mask
