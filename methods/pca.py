"""Principal components with logistic regression: Turk and Pentland, "Eigenfaces for recognition", 1991, in 3D."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from voxbench.methods.base import Labelled, Options
from voxbench.methods.parts.principal import Components
from voxbench.methods.parts.probe import Probe

LARGEST = 32  # voxels along an axis: finer ones cost minutes, and the first components do not show them


class PCAOptions(Options):
    """How much of a volume is kept."""

    components: int = Field(30, ge=1)


class PCA(Probe):
    """Components of the unlabelled pool and the labelled volumes together, as a method may learn from both."""

    Options: ClassVar[type[Options]] = PCAOptions
    name: ClassVar[str] = "pca"
    about: ClassVar[str] = "yardstick: 30 principal components of pool and training volumes, logistic regression"
    encoder_free: ClassVar[bool] = True
    learns_from_pool: ClassVar[bool] = True

    def prepare(self, data: Labelled) -> None:
        """The components."""

        def rows() -> Iterator[Tensor]:
            return (_flat(batch) for batch in chain(data.pool.batches(), data.volumes.batches()))

        self.components = Components(rows, self.options.components, data.seed)

    def features(self, volumes: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, components]."""
        return self.components.of(_flat(volumes))


def _flat(volumes: Tensor) -> Tensor:
    """[B, C, D, H, W] -> [B, F], averaged to at most `LARGEST` voxels along an axis."""
    if max(volumes.shape[2:]) > LARGEST:
        depth, height, width = (min(side, LARGEST) for side in volumes.shape[2:])
        volumes = functional.adaptive_avg_pool3d(volumes, (depth, height, width))
    return volumes.flatten(1)
