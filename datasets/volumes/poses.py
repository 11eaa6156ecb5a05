"""Shifts, rotations, scalings and flips of volumes: a pose is where a volume is looked at from.

A pose is a matrix [3, 4] on coordinates (x, y, z) that run from -1 to 1 across the volume: the posed volume at p has
the value that the volume has at A p. `aspect` is the volume's extent along each axis relative to the others, so that
a rotation turns what is no cube without shearing it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from scipy.spatial.transform import Rotation
from torch import Tensor

FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
"""All mirror images: the axes that each turns round."""


def draw_poses(
    count: int,
    rng: np.random.Generator,
    *,
    shift: float = 0.0,
    degrees: float = 0.0,
    scale: float = 1.0,
    flips: bool = False,
    extreme: bool = False,
    aspect: Sequence[float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Random poses, float32 [count, 3, 4].

    `shift` is a share of the extent along each axis, `degrees` an angle about a random axis, `scale` the largest factor
    (and one over it the smallest). Uniform up to these (the scale in its logarithm), or with `extreme` always at them.
    """
    signs = rng.choice([-1.0, 1.0], size=(count, 5))
    far = signs if extreme else rng.uniform(-1, 1, size=(count, 5))
    axis = rng.normal(size=(count, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(axis * np.deg2rad(degrees) * far[:, 3:4]).as_matrix()
    turn *= scale ** far[:, 4, None, None]
    stretch = np.asarray(aspect, dtype=float)
    turn = turn * stretch[None, None, :] / stretch[None, :, None]
    if flips:
        turn *= rng.choice([-1.0, 1.0], size=(count, 1, 3))
    return torch.from_numpy(np.concatenate([turn, 2 * shift * far[:, :3, None]], axis=2).astype(np.float32))


def posed(volumes: Tensor, poses: Tensor, padding: str = "border") -> Tensor:
    """Volumes [P, D, H, W] as seen from `poses` [P, 3, 4], by linear interpolation; outside as `padding` has it."""
    at = poses[:, :, :3] @ coordinates(volumes.shape[1:]).flatten(1) + poses[:, :, 3:]
    return sampled(volumes, at, padding).reshape(volumes.shape)


def sampled(volumes: Tensor, places: Tensor, padding: str = "border") -> Tensor:
    """Values [P, V] of volumes [P, D, H, W] at `places` [P, 3, V], by linear interpolation."""
    grid = places.flip(1).transpose(1, 2)[:, :, None, None]  # torch counts axes from the last
    return F.grid_sample(volumes[:, None], grid, padding_mode=padding, align_corners=False).flatten(1)


def coordinates(shape: Sequence[int]) -> Tensor:
    """Of the voxels' centres, [3, D, H, W] from -1 to 1."""
    axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def window(shape: Sequence[int], reach: float = 0.8, power: int = 6) -> Tensor:
    """Weights [D, H, W] that are 1 in the middle and fall off beyond `reach`: edges move out of view."""
    return torch.exp(-((coordinates(shape).abs() / reach) ** power).sum(0))


def standardised(volumes: Tensor, weights: Tensor) -> Tensor:
    """Volumes [P, D, H, W] of mean 0 and spread 1 under `weights` ([D, H, W] or one each); constant ones are 0."""
    weights = weights.expand_as(volumes)
    total = weights.sum((1, 2, 3), keepdim=True).clamp(min=1e-6)
    centred = volumes - (volumes * weights).sum((1, 2, 3), keepdim=True) / total
    spread = ((centred**2 * weights).sum((1, 2, 3), keepdim=True) / total).sqrt()
    return centred / spread.clamp(min=1e-4)
