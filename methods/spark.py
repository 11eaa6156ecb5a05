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

from voxbench.methods.base import Batch, Encoder, Method, MethodError, Options, Stage
from voxbench.methods.parts.decoder import UNetDecoder
from voxbench.methods.parts.patches import masked_patch_loss, normalise_patches, random_visible
from voxbench.methods.parts.sparse import grid, spread


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
        return random_visible(volumes, self.patch, self.options.mask_ratio, rng)

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
