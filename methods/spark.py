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

from voxbench.methods.base import Batch, Encoder, Method, MethodError, Options, Range, Stage, Tunable
from voxbench.methods.parts.decoder import UNetDecoder
from voxbench.methods.parts.patches import masked_patch_loss, normalise_patches, random_visible
from voxbench.methods.parts.sparse import grid, masks_for, spread

_FEWEST = 4  # patches along the longest axis


def _patch(strides: Sequence[int], size: Sequence[int]) -> int:
    """The coarsest stride that leaves at least `_FEWEST` patches along the longest axis, or the finest there is."""
    return next((s for s in sorted(strides, reverse=True) if max(grid(size, s)) >= _FEWEST), min(strides))


class SparKOptions(Options):
    """The mask ratio is that of Tian et al., section 3.1, and of the seed paper."""

    # Voxels along an edge, one of the encoder's strides. None = the coarsest that leaves `_FEWEST` patches along an
    # axis: Tian et al. have 7 along an axis; of 2^3 octants a mean image tells half of what is to be predicted.
    patch: int | None = Field(None, ge=1)
    mask_ratio: float = Field(0.6, gt=0.0, lt=1.0)


class SparK(Method):
    """Patches are hidden; the encoder sees the rest as a sparse volume, and a light decoder fills in."""

    Options: ClassVar[type[Options]] = SparKOptions
    name: ClassVar[str] = "spark"
    about: ClassVar[str] = "SparK: sparse masked modelling with a hierarchical decoder (Tian et al., ICLR 2023)"

    sparse: ClassVar[bool] = True
    tunable: ClassVar[Tunable] = {"mask_ratio": Range(low=0.3, high=0.8)}

    def __init__(self, encoder: Encoder, options: SparKOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        if len(encoder.strides) < 2:
            raise MethodError(
                f"spark cannot train encoder {encoder.name}: with one level, what is predicted of a masked patch does "
                "not depend on the visible ones"
            )
        self.patch = _patch(encoder.strides, shape[1:]) if options.patch is None else options.patch
        if self.patch not in encoder.strides:
            raise MethodError(
                f"spark: a patch of {self.patch} voxels is none of the encoder's strides {encoder.strides}"
            )
        if math.prod(grid(shape[1:], self.patch)) < 2:
            raise MethodError(
                f"spark cannot mask volumes of {shape[1:]}: patches of {self.patch} voxels leave one; "
                "set methods.spark.patch to a smaller one of the encoder's strides, or use larger volumes"
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
        masks = masks_for(visible, volumes.shape[2:], self.encoder.strides)
        dense = []
        for features, embedding in zip(self.encoder.pyramid(volumes, visible), self.mask_embeddings, strict=True):
            shown = masks[tuple(features.shape[2:])].bool()
            dense.append(torch.where(shown, features, embedding.to(features.dtype).view(1, -1, 1, 1, 1)))
        prediction: Tensor = self.decoder(dense, volumes.shape[2:])
        return prediction

    def reconstruct(self, volumes: Tensor, rng: torch.Generator) -> Tensor:
        """The volumes with masked patches filled in, in [0, 1] (each patch with its true mean and spread)."""
        visible = self.sample(volumes, rng)
        _, mean, deviation = normalise_patches(volumes, self.patch)
        filled = (self.predict(volumes, visible).float() * deviation + mean).clamp(0.0, 1.0)
        return torch.where(spread(visible, self.patch, volumes.shape[2:]), volumes, filled)
