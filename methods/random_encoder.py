"""The common encoder as it was initialised, frozen, with a linear probe: what its architecture alone is worth."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from voxbench.methods.parts.probe import Probe


class RandomEncoder(Probe):
    """Pooled features of the encoder that all methods start from, standardised, with logistic regression."""

    name: ClassVar[str] = "random-encoder"
    about: ClassVar[str] = "yardstick: the encoder as initialised, frozen, with a linear probe"

    def features(self, volumes: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, F]."""
        features: Tensor = self.encoder(volumes)
        return features
