"""BYOL: Grill et al., "Bootstrap your own latent", NeurIPS 2020."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import ClassVar

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from voxbench.methods.base import Batch, Encoder, Group, Method, Options, Range, Stage, Tunable
from voxbench.methods.parts.pairs import compare, two_views

_LONGEST = 0.996  # the paper's, for more than 300,000 steps
_MEMORY = 20


class BYOLOptions(Options):
    """Heads are sized for small 3D encoders; Grill et al. have 4096 and 256 (section 3.3)."""

    hidden: int = Field(256, ge=1)
    out: int = Field(128, ge=1)
    # None = from the length of the stage. Grill et al. have 0.996 for 1,000 epochs (section 3.3), and in their
    # published configuration 0.99 for 100 and 300 and 0.97 for 40; but it acts by step, and ours are hundreds, not
    # 100,000: at 0.99 a target is mostly its random start for a third of them.
    momentum: float | None = Field(None, ge=0.0, le=1.0)
    # Factor of the learning rate. What is learnt hangs on a predictor that is near its optimum all the time (Grill et
    # al., appendix on it); in a short training it is only if it learns faster than the encoder.
    predictor_rate: float = Field(10.0, gt=0)


class BYOL(Method):
    """The online network predicts the projection that a slowly moving copy of it makes of the other view.

    The target moves only in `after_step`: parameters and batch-norm buffers alike are moving averages of the
    online ones. Its forward pass normalises with the statistics of the batch, as the paper's does, and leaves
    no trace.
    """

    Options: ClassVar[type[Options]] = BYOLOptions
    name: ClassVar[str] = "byol"
    about: ClassVar[str] = "BYOL: predicts a moving average of itself, no negatives (Grill et al., NeurIPS 2020)"
    # How fast the target follows is what Grill et al. vary (table 5a); the predictor's rate is ours.
    tunable: ClassVar[Tunable] = {
        "momentum": Range(low=0.9, high=0.999),
        "predictor_rate": Range(low=1.0, high=10.0, log=True),
    }

    def __init__(self, encoder: Encoder, options: BYOLOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        self.projector = BYOLProjectionHead(encoder.widths[-1], options.hidden, options.out)
        self.predictor = BYOLPredictionHead(options.out, options.hidden, options.out)
        self.target_encoder = deepcopy(encoder)
        self.target_projector = deepcopy(self.projector)
        self.criterion = NegativeCosineSimilarity()
        self.before = 0.0  # progress of the stage before the present step
        for target in (self.target_encoder, self.target_projector):
            deactivate_requires_grad(target)
            for module in target.modules():
                if isinstance(module, _BatchNorm):  # normalises with the batch, and leaves its buffers alone
                    module.track_running_stats = False

    def stages(self) -> Sequence[Stage]:
        """One: joint embedding."""
        return (
            Stage(
                name="byol",
                module=self,
                loss=self.loss,
                views=2,
                groups=(Group(parameters=[*self.predictor.parameters()], rate=self.options.predictor_rate),),
                embed=self.embed,
                before_step=self.note,
                after_step=self.move_target,
            ),
        )

    def loss(self, batch: Batch) -> Tensor:
        """2 - 2 cos (Grill et al., equation 2), averaged over both directions; in [0, 4]."""
        first, second = two_views(batch, self.name)
        negative_cosines = compare(self.criterion, self.predictor(self.embed(first)), self.target(second)) + compare(
            self.criterion, self.predictor(self.embed(second)), self.target(first)
        )
        return 2.0 + negative_cosines

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> the online network's projections [B, out]."""
        projection: Tensor = self.projector(self.encoder(x))
        return projection

    @torch.no_grad()
    def target(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> the target network's projections [B, out], without gradient."""
        projection: Tensor = self.target_projector(self.target_encoder(x))
        return projection

    def note(self, progress: float) -> None:
        """Where the stage was before the step, which tells how long it is."""
        self.before = progress

    def move_target(self, progress: float) -> None:
        """Move the target, with a momentum that rises to 1 along a cosine (Grill et al., section 3.3)."""
        base = momentum_of(progress - self.before) if self.options.momentum is None else self.options.momentum
        momentum = 1.0 - (1.0 - base) * (math.cos(math.pi * progress) + 1.0) / 2.0
        _follow(self.target_encoder, self.encoder, momentum)
        _follow(self.target_projector, self.projector, momentum)


def momentum_of(step: float) -> float:
    """The momentum at the start of a stage of which a step is this share: it remembers a `_MEMORY`th of the stage."""
    return min(_LONGEST, max(0.0, 1.0 - _MEMORY * step))


@torch.no_grad()
def _follow(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Parameters and float buffers become m * target + (1 - m) * online; counters are copied."""
    update_momentum(online, target, momentum)
    for old, new in zip(target.buffers(), online.buffers(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1.0 - momentum)
        else:
            old.copy_(new)
