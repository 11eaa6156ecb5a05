"""Which way up? Half-turns as a pretext task: Gidaris et al., ICLR 2018; in 3D Taleb et al., NeurIPS 2020.

Run it with `bench run --methods supervised,docs/examples/rotation.py:Rotation`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods.base import Batch, Encoder, Method, Options, Stage

# None, and half-turns about the three axes: unlike quarter-turns they keep any shape [B, C, D, H, W].
TURNS: tuple[tuple[int, ...], ...] = ((), (3, 4), (2, 4), (2, 3))


class RotationOptions(Options):
    """Set with `--set methods.rotation.KEY=VALUE`; a wrong key or value is an error that names it."""

    hidden: int = Field(128, ge=1)


class Rotation(Method):
    """Each volume is turned at random; the encoder's features must tell how."""

    Options: ClassVar[type[Options]] = RotationOptions
    name: ClassVar[str] = "rotation"
    about: ClassVar[str] = "tells half-turns about the three axes apart (after Gidaris et al., ICLR 2018)"

    def __init__(self, encoder: Encoder, options: RotationOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        self.head = nn.Sequential(
            nn.Linear(encoder.widths[-1], options.hidden), nn.ReLU(), nn.Linear(options.hidden, len(TURNS))
        )

    def stages(self) -> Sequence[Stage]:
        """One: it trains all of this module, the encoder in it."""
        return (Stage(name="rotation", module=self, loss=self.loss, augmentation="geometric"),)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the turn; all randomness comes from batch.rng."""
        volumes = batch.views[0]
        turn = torch.randint(len(TURNS), (len(volumes),), generator=batch.rng)  # [B]
        turned = torch.stack([x.flip([axis - 1 for axis in TURNS[t]]) for x, t in zip(volumes, turn, strict=True)])
        return functional.cross_entropy(self.head(self.encoder(turned)), turn.to(volumes.device))
