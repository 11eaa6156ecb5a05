"""Patches of a volume for masked methods: which are hidden, what is to be predicted of them, and how far off it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from voxbench.methods.parts.sparse import grid, spread

_EPS = 1e-6  # added to a patch's variance, as in masked autoencoders (He et al., CVPR 2022)


def random_visible(volumes: Tensor, patch: int, masked: float, rng: torch.Generator) -> Tensor:
    """Which patches of volumes [B, C, D, H, W] stay visible, bool [B, 1, d, h, w].

    Equally many a volume, the share `masked` of them hidden, but never none nor all.
    """
    cells = grid(volumes.shape[2:], patch)
    total = math.prod(cells)
    hidden = min(max(round(masked * total), 1), total - 1)
    draws = torch.rand(len(volumes), total, generator=rng)
    order = draws.argsort(dim=1).argsort(dim=1)  # a permutation a volume
    return (order >= hidden).view(len(volumes), 1, *cells).to(volumes.device)


def _pooled(x: Tensor, patch: int) -> Tensor:
    """[B, 1, D, H, W] -> [B, 1, d, h, w]: sums over patches divided by patch^3, also of patches at an edge."""
    beyond = [pad for length in reversed(x.shape[2:]) for pad in (0, -length % patch)]
    return functional.avg_pool3d(functional.pad(x, beyond), patch)


def _patch_share(x: Tensor, patch: int) -> Tensor:
    """[1, 1, d, h, w]: how much of each patch lies inside x [B, C, D, H, W]; 1 but at an edge."""
    return _pooled(x.new_ones(1, 1, *x.shape[2:]), patch)


def _patch_mean(x: Tensor, patch: int) -> Tensor:
    """[B, C, D, H, W] -> each patch's mean [B, 1, d, h, w] over channels and the voxels it has."""
    return _pooled(x.mean(1, keepdim=True), patch) / _patch_share(x, patch)


def normalise_patches(x: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """x with mean 0, variance 1 in each patch of patch^3 voxels; means and deviations at x's resolution.

    The prediction target of Tian et al., section 3.3, after He et al., CVPR 2022. Where a patch is constant
    (much of a binary mask is), the target is 0.
    """
    mean = spread(_patch_mean(x, patch), patch, x.shape[2:])
    centred = x - mean
    deviation = spread((_patch_mean(centred.square(), patch) + _EPS).sqrt(), patch, x.shape[2:])
    return centred / deviation, mean, deviation


def masked_patch_loss(prediction: Tensor, target: Tensor, visible: Tensor, patch: int) -> Tensor:
    """Mean squared error over the voxels of patches that are not `visible` (bool [B, 1, d, h, w])."""
    errors = _patch_mean((prediction.float() - target).square(), patch)
    masked = (~visible).float() * _patch_share(target, patch)
    return (errors * masked).sum() / masked.sum()
