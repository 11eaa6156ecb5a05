"""SimMIM: Xie et al., CVPR 2022, in 3D. A mask token among the embeddings, and a linear head that redraws voxels.

Run it with `bench run --encoder docs/examples/vit.py:ViT --methods supervised,docs/examples/simmim.py:SimMIM`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from voxbench.methods.base import Batch, Encoder, Method, MethodError, Options, Stage
from voxbench.methods.parts.decoder import SubpixelHead, crop
from voxbench.methods.parts.patches import random_visible
from voxbench.methods.parts.sparse import spread


class SimMIMOptions(Options):
    """The mask ratio of Xie et al., table 1."""

    masked: float = Field(0.6, gt=0, lt=1)


class SimMIM(Method):
    """L1 on masked voxels (Xie et al., equation 1)."""

    Options: ClassVar[type[Options]] = SimMIMOptions
    name: ClassVar[str] = "simmim"
    about: ClassVar[str] = "SimMIM: a mask token and a linear head (Xie et al., CVPR 2022)"

    def __init__(self, encoder: Encoder, options: SimMIMOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        if encoder.token_width is None:
            raise MethodError(f"simmim needs an encoder with a mask token's place, and {encoder.name} has none")
        self.token = nn.Parameter(0.02 * torch.randn(encoder.token_width))
        self.head = SubpixelHead(encoder.widths[-1], shape[0], encoder.strides[-1])

    def stages(self) -> Sequence[Stage]:
        """One."""
        return (Stage(name="simmim", module=self, loss=self.loss, augmentation="geometric"),)

    def loss(self, batch: Batch) -> Tensor:
        """Mean absolute error over masked voxels."""
        volumes, patch = batch.views[0], self.encoder.strides[-1]
        visible = random_visible(volumes, patch, self.options.masked, batch.rng)
        drawn = crop(self.head(self.encoder.filled(volumes, visible, self.token)[-1]), volumes.shape[2:])
        hidden = ~spread(visible, patch, volumes.shape[2:])
        return ((drawn.float() - volumes).abs() * hidden).sum() / (hidden.sum() * volumes.shape[1])
