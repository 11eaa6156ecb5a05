"""Masked autoencoder: He et al., CVPR 2022, in 3D. The encoder sees the visible patches, a light decoder the rest.

Run it with `bench run --encoder docs/examples/vit.py:ViT --methods supervised,docs/examples/mae.py:MAE`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from voxbench.methods.base import Batch, Encoder, Method, Options, Stage
from voxbench.methods.parts.decoder import SubpixelHead, crop
from voxbench.methods.parts.patches import masked_patch_loss, normalise_patches, random_visible
from voxbench.methods.parts.sparse import grid


class MAEOptions(Options):
    """Mask ratio of He et al., section 4.1; the decoder is sized for small encoders."""

    masked: float = Field(0.75, gt=0, lt=1)
    width: int = Field(64, ge=1)
    depth: int = Field(1, ge=1)
    heads: int = Field(4, ge=1)


class MAE(Method):
    """Masked patches are filled with one token before the decoder, and redrawn by it."""

    Options: ClassVar[type[Options]] = MAEOptions
    name: ClassVar[str] = "mae"
    about: ClassVar[str] = "MAE: masked autoencoder (He et al., CVPR 2022)"
    sparse: ClassVar[bool] = True

    def __init__(self, encoder: Encoder, options: MAEOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        self.patch, width = encoder.strides[-1], options.width
        self.narrow = nn.Conv3d(encoder.widths[-1], width, 1)
        self.token = nn.Parameter(0.02 * torch.randn(1, width, 1, 1, 1))
        self.places = nn.Parameter(0.02 * torch.randn(1, width, *grid(shape[1:], self.patch)))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, options.heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(options.depth)
        )
        self.head = SubpixelHead(width, shape[0], self.patch)

    def stages(self) -> Sequence[Stage]:
        """One: masked modelling of a single view."""
        return (Stage(name="mae", module=self, loss=self.loss, augmentation="geometric"),)

    def loss(self, batch: Batch) -> Tensor:
        """Squared error to the per-patch normalised volume, over masked patches only."""
        volumes = batch.views[0]
        visible = random_visible(volumes, self.patch, self.options.masked, batch.rng)
        target, _, _ = normalise_patches(volumes.float(), self.patch)
        return masked_patch_loss(self.predict(volumes, visible), target, visible, self.patch)

    def predict(self, volumes: Tensor, visible: Tensor) -> Tensor:
        """[B, C, D, H, W], in units of each patch's standard deviation."""
        seen = self.narrow(self.encoder.pyramid(volumes, visible)[-1])
        tokens = torch.where(visible, seen, self.token.to(seen.dtype)) + self.places
        x = tokens.flatten(2).transpose(1, 2)  # [B, N, width]
        for block in self.blocks:
            x = block(x)
        return crop(self.head(x.transpose(1, 2).unflatten(2, tokens.shape[2:])), volumes.shape[2:])
