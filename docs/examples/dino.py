"""DINO: Caron et al., ICCV 2021, with local crops, in 3D. A student learns from its own average, without labels.

Run it with `bench run --methods supervised,docs/examples/dino.py:DINO`.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from voxbench.methods.base import Batch, Encoder, Group, Method, Options, Stage, View

WHOLE = View(augmentation="contrastive")
LOCAL = View(augmentation="contrastive", strengths={"crop": (0.1, 0.4), "crop_probability": 1.0}, size=0.5)


class DINOOptions(Options):
    """Temperatures and momenta of Caron et al., section 3.2 and appendix A; the head is sized for small encoders."""

    local: int = Field(4, ge=0)  # small crops
    out: int = Field(128, ge=2)
    student: float = Field(0.1, gt=0)
    teacher: float = Field(0.04, gt=0)
    momentum: float = Field(0.99, ge=0, le=1)
    centre: float = Field(0.9, ge=0, le=1)
    frozen: float = Field(0.1, ge=0, le=1)  # share of the steps before the last layer moves


class DINO(Method):
    """The teacher sees whole views, the student local crops too."""

    Options: ClassVar[type[Options]] = DINOOptions
    name: ClassVar[str] = "dino"
    about: ClassVar[str] = "DINO: self-distillation with local crops (Caron et al., ICCV 2021)"
    mean: Tensor  # [out] the centre of the teacher's outputs

    def __init__(self, encoder: Encoder, options: DINOOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        width = encoder.widths[-1]
        self.last = nn.Linear(width, options.out, bias=False)
        self.student = nn.Sequential(encoder, nn.Linear(width, width), nn.GELU(), self.last)
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(options.out))

    def stages(self) -> Sequence[Stage]:
        """One; the last layer does not decay."""
        views = (WHOLE, WHOLE, *[LOCAL] * self.options.local)
        last = (Group(parameters=[self.last.weight], decay=0.0),)
        hooks = {"before_step": self.freeze, "after_step": self.follow}
        return (Stage(name="dino", module=self, loss=self.loss, views=views, groups=last, embed=self.student, **hooks),)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of each student view to the teacher's other views (Caron et al., equation 3)."""
        with torch.no_grad():
            taught = [self.teacher(view).float() for view in batch.views[:2]]
            targets = [((out - self.mean) / self.options.teacher).softmax(1) for out in taught]
            self.mean = self.mean.lerp(torch.cat(taught).mean(0), 1 - self.options.centre)
        said = [(self.student(view).float() / self.options.student).log_softmax(1) for view in batch.views]
        pairs = [(q, p) for i, q in enumerate(targets) for j, p in enumerate(said) if i != j]
        return torch.stack([-(q * p).sum(1).mean() for q, p in pairs]).mean()

    def freeze(self, progress: float) -> None:
        """Keeps the last layer still at first (Caron et al., appendix A)."""
        if progress < self.options.frozen:
            self.last.weight.grad = None

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Moves the teacher, ever more slowly."""
        momentum = 1 - (1 - self.options.momentum) * (1 - progress)
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)
