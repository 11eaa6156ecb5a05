"""A Vision Transformer as an encoder: Dosovitskiy et al., ICLR 2021. One level, and a class token as its features.

Run it with `bench run --encoder docs/examples/vit.py:ViT --methods supervised,docs/examples/mae.py:MAE`.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods import base
from voxbench.methods.parts.recompute import Recomputing
from voxbench.methods.parts.sparse import grid


class ViTOptions(base.Options):
    """Set with `--set encoder.KEY=VALUE`."""

    patch: int = Field(8, ge=1)  # voxels along an edge
    width: int = Field(96, ge=1)
    depth: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)


class ViT(Recomputing, base.Encoder):
    """Masked patches are left out, so that a masked pass costs what its visible patches do (He et al., CVPR 2022)."""

    Options: ClassVar[type[base.Options]] = ViTOptions
    name: ClassVar[str] = "vit"
    about: ClassVar[str] = "Vision Transformer with a class token (Dosovitskiy et al., ICLR 2021)"

    def __init__(self, options: ViTOptions, in_channels: int, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.widths, self.strides, self.token_width = (options.width,), (options.patch,), options.width
        self.embed = nn.Conv3d(in_channels, options.width, options.patch, options.patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, options.width, *grid(shape[1:], options.patch)))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, options.width))
        make = nn.TransformerEncoderLayer
        self.blocks = nn.ModuleList(
            make(options.width, options.heads, 4 * options.width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(options.depth)
        )
        self.norm = nn.LayerNorm(options.width)

    def layers(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The embedding, the blocks one by one, the last norm."""
        return ((self.embed,), *((block,) for block in self.blocks), (self.norm,))

    def pyramid(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, ...]:
        """The patches' features; those of masked patches are 0."""
        patches = self.embedded(x)
        if visible is None:
            return (self.run(patches)[1],)
        counts = visible.flatten(1).sum(1)
        together = len(x) if bool((counts == counts[0]).all()) else 1  # in a batch all have equally many tokens
        parts = zip(patches.split(together), visible.split(together), strict=True)
        return (torch.cat([self.run(some, shown)[1] for some, shown in parts]),)

    def filled(self, x: Tensor, visible: Tensor, token: Tensor) -> tuple[Tensor, ...]:
        """All patches' features, with `token` in place of the embedding of a masked one."""
        return (self.run(torch.where(visible, self.embedded(x), token.view(1, -1, 1, 1, 1)))[1],)

    def pooled(self, x: Tensor) -> Tensor:
        """The class token's."""
        return self.run(self.embedded(x))[0]

    def embedded(self, x: Tensor) -> Tensor:
        """[B, F, d, h, w] before places are added; what is cut at the border is filled with 0."""
        return self.embed(functional.pad(x, [pad for n in reversed(x.shape[2:]) for pad in (0, -n % self.strides[0])]))

    def run(self, patches: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class token [B, F] and patches [B, F, d, h, w], of which only visible ones are computed, the others 0."""
        size, batch = patches.shape[2:], len(patches)
        tokens = (patches + functional.interpolate(self.places, size, mode="trilinear")).flatten(2).transpose(1, 2)
        shown = tokens.new_ones(tokens.shape[:2]).bool() if visible is None else visible.flatten(1)  # [B, N]
        x = torch.cat((self.class_token.expand(batch, -1, -1), tokens[shown].unflatten(0, (batch, -1))), 1)
        for block in self.blocks:
            x = self.recomputed(block, x)
        x = self.norm(x)
        out = torch.zeros_like(tokens, dtype=x.dtype).masked_scatter(shown[..., None], x[:, 1:])
        return x[:, 0], out.transpose(1, 2).unflatten(2, size)
