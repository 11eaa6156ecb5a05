"""SparK: Tian et al., ICLR 2023, arXiv 2301.03580.

"Designing BERT for convolutional networks: sparse and hierarchical masked modeling".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods.base import Batch, Encoder, Method, MethodError, Options, Stage
from voxbench.methods.parts.decoder import UNetDecoder
from voxbench.methods.parts.sparse import grid, spread

_EPS = 1e-6  # added to a patch's variance, as in masked autoencoders (He et al., CVPR 2022)


class SparKOptions(Options):
    """The mask ratio is that of Tian et al., section 3.1, and of the seed paper."""

    mask_ratio: float = Field(0.6, gt=0.0, lt=1.0)


class SparK(Method):
    """Patches are hidden; the encoder sees the rest as a sparse volume, and a light decoder fills in."""

    Options: ClassVar[type[Options]] = SparKOptions
    name: ClassVar[str] = "spark"
    about: ClassVar[str] = "SparK: sparse masked modelling with a hierarchical decoder (Tian et al., ICLR 2023)"

    sparse: ClassVar[bool] = True

    def __init__(self, encoder: Encoder, options: SparKOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        self.patch = encoder.strides[-1]  # voxels along an edge
        if len(encoder.strides) < 2:
            raise MethodError(
                f"spark cannot train encoder {encoder.name}: with one level, what is predicted of a masked patch does "
                "not depend on the visible ones"
            )
        cells = math.prod(grid(shape[1:], self.patch))
        if cells < 2:
            raise MethodError(
                f"spark cannot mask volumes of {shape[1:]}: the encoder's stride of {self.patch} leaves one "
                "patch; use larger volumes, or with the resnet encoder --set encoder.max_pool=false"
            )
        self.mask_embeddings = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in encoder.widths)
        for embedding in self.mask_embeddings:
            nn.init.trunc_normal_(embedding, std=0.02, a=-0.02, b=0.02)
        self.decoder = UNetDecoder(encoder.widths, encoder.strides, shape[0])

    def stages(self) -> Sequence[Stage]:
        """One: masked modelling of a single view, moved but not recoloured (Tian et al., section 4.1)."""
        return (
            Stage(
                name="spark",
                module=self,
                loss=self.loss,
                augmentation="geometric",
                reconstruct=self.reconstruct,
                shows="reconstruction",
            ),
        )

    def loss(self, batch: Batch) -> Tensor:
        """Squared error to the per-patch normalised volume, over masked patches only."""
        volumes = batch.views[0]
        visible = self.sample(volumes, batch.rng)
        target, _, _ = normalise_patches(volumes.float(), self.patch)
        return masked_patch_loss(self.predict(volumes, visible), target, visible, self.patch)

    def sample(self, volumes: Tensor, rng: torch.Generator) -> Tensor:
        """Which patches stay visible, bool [B, 1, d, h, w]: equally many a volume, never none nor all."""
        cells = grid(volumes.shape[2:], self.patch)
        total = math.prod(cells)
        masked: int = min(max(round(self.options.mask_ratio * total), 1), total - 1)
        draws = torch.rand(len(volumes), total, generator=rng)
        order = draws.argsort(dim=1).argsort(dim=1)  # a permutation a volume
        return (order >= masked).view(len(volumes), 1, *cells).to(volumes.device)

    def predict(self, volumes: Tensor, visible: Tensor) -> Tensor:
        """The decoder's map [B, C, D, H, W], in units of each patch's standard deviation."""
        dense = []
        pyramid = self.encoder.pyramid(volumes, visible)
        for features, embedding, stride in zip(pyramid, self.mask_embeddings, self.encoder.strides, strict=True):
            shown = spread(visible, self.patch // stride, features.shape[2:])
            dense.append(torch.where(shown, features, embedding.to(features.dtype).view(1, -1, 1, 1, 1)))
        prediction: Tensor = self.decoder(dense, volumes.shape[2:])
        return prediction

    def reconstruct(self, volumes: Tensor, rng: torch.Generator) -> Tensor:
        """The volumes with masked patches filled in, in [0, 1] (each patch with its true mean and spread)."""
        visible = self.sample(volumes, rng)
        _, mean, deviation = normalise_patches(volumes, self.patch)
        filled = (self.predict(volumes, visible).float() * deviation + mean).clamp(0.0, 1.0)
        return torch.where(spread(visible, self.patch, volumes.shape[2:]), volumes, filled)


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
