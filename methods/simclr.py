"""SimCLR: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from lightly.models.modules.heads import SimCLRProjectionHead
from pydantic import Field
from torch import Tensor

from voxbench.methods.base import Batch, Encoder, Method, Options, Range, Stage, Tunable
from voxbench.methods.parts.contrast import nt_xent
from voxbench.methods.parts.pairs import compare, two_views


class SimCLROptions(Options):
    """Heads are sized for small 3D encoders (F = 64 to 512); Chen et al. have 2048 and 128 (section 2.1)."""

    hidden: int = Field(256, ge=1)
    out: int = Field(128, ge=1)
    # Best of 0.05, 0.1, 0.5, 1 in Chen et al., table 5; they take 0.5 on CIFAR-10 (appendix B.9), the seed
    # paper 0.07.
    temperature: float = Field(0.1, gt=0.0)
    # Chen et al. contrast a view with all others of the batch; a patient's other sinus is anatomy that it shares.
    negatives: Literal["patients", "volumes"] = "patients"


class SimCLR(Method):
    """Two views of a volume are told apart from the views of the batch's volumes of other patients."""

    Options: ClassVar[type[Options]] = SimCLROptions
    name: ClassVar[str] = "simclr"
    about: ClassVar[str] = "SimCLR: contrast of two views against the batch (Chen et al., ICML 2020)"
    # Chen et al., table 5, try the same temperatures; the seed paper has 0.07.
    tunable: ClassVar[Tunable] = {"temperature": Range(low=0.05, high=1.0, log=True)}

    def __init__(self, encoder: Encoder, options: SimCLROptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        self.projector = SimCLRProjectionHead(encoder.widths[-1], options.hidden, options.out)

    def stages(self) -> Sequence[Stage]:
        """One: contrastive."""
        return (Stage(name="simclr", module=self, loss=self.loss, views=2, embed=self.embed),)

    def loss(self, batch: Batch) -> Tensor:
        """NT-Xent over the 2B projections (Chen et al., equation 1)."""
        first, second = two_views(batch, self.name)
        patients = batch.patients if self.options.negatives == "patients" else ()
        criterion = partial(nt_xent, temperature=self.options.temperature, patients=patients)
        return compare(criterion, self.embed(first), self.embed(second))

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> projections [B, out]."""
        projection: Tensor = self.projector(self.encoder(x))
        return projection
