"""SimSiam: Chen and He, "Exploring simple Siamese representation learning", CVPR 2021."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from pydantic import Field
from torch import Tensor

from voxbench.methods.base import Batch, Choice, Encoder, Group, Method, Options, Stage, Tunable
from voxbench.methods.parts.pairs import compare, two_views


class SimSiamOptions(Options):
    """Heads are sized for small 3D encoders; Chen and He have 2048, 2048 and 512 (section 3).

    The predictor keeps their shape of a bottleneck, a quarter of the projection.
    """

    hidden: int = Field(256, ge=1)
    out: int = Field(256, ge=1)
    predictor_hidden: int = Field(64, ge=1)
    # Factor of the learning rate: Chen and He's predictor has the encoder's (section 4.2), over 250,000 steps. In
    # hundreds it has to learn faster, to stay near its optimum: without, features are worse than the random encoder's.
    predictor_rate: float = Field(10.0, gt=0)


class SimSiam(Method):
    """Each view predicts the other's projection, through which no gradient flows."""

    Options: ClassVar[type[Options]] = SimSiamOptions
    name: ClassVar[str] = "simsiam"
    about: ClassVar[str] = "SimSiam: one view predicts the other, stop-gradient (Chen and He, CVPR 2021)"
    # Chen and He: the predictor's bottleneck, and a projection that is wide enough.
    tunable: ClassVar[Tunable] = {
        "predictor_hidden": Choice((32, 64, 128)),
        "out": Choice((128, 256, 512)),
    }

    def __init__(self, encoder: Encoder, options: SimSiamOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        self.projector = SimSiamProjectionHead(encoder.widths[-1], options.hidden, options.out)
        self.predictor = SimSiamPredictionHead(options.out, options.predictor_hidden, options.out)
        self.criterion = NegativeCosineSimilarity()

    def stages(self) -> Sequence[Stage]:
        """One: joint embedding. The predictor's rate stays what it is at first (Chen and He, section 4.2)."""
        steady = (Group(parameters=[*self.predictor.parameters()], steady=True, rate=self.options.predictor_rate),)
        return (Stage(name="simsiam", module=self, loss=self.loss, views=2, groups=steady, embed=self.embed),)

    def loss(self, batch: Batch) -> Tensor:
        """The symmetric negative cosine with stop-gradient (Chen and He, equation 4); in [-1, 1]."""
        first, second = (self.embed(view) for view in two_views(batch, self.name))
        return 0.5 * (
            compare(self.criterion, self.predictor(first), second.detach())
            + compare(self.criterion, self.predictor(second), first.detach())
        )

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> projections [B, out]."""
        projection: Tensor = self.projector(self.encoder(x))
        return projection
