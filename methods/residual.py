"""Residual-SSL: Bhattacharya et al., IJCARS 2024, arXiv 2404.18599.

"Self-supervised learning for classifying paranasal anomalies in the maxillary sinus". An autoencoder learns
normal anatomy; what it fails to redraw, |x - CAE(x)|, is a map of suspicion. The common encoder then learns
to draw that map from the volume alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods.base import Batch, Choice, Encoder, Method, MethodError, Options, Stage, Tunable, View
from voxbench.methods.parts.autoencoder import Autoencoder
from voxbench.methods.parts.decoder import UNetDecoder
from voxbench.methods.parts.median import median_filter
from voxbench.methods.parts.median_image import MedianImage

_COHORTS: Mapping[str, Literal["all", "normal", "all+normal"]] = {
    "normal": "normal",
    "pool": "all",
    "pool+normal": "all+normal",
}
# Neither mirrored nor changed in tone: those would be other normals than there are.
_MOVED = View(
    augmentation="geometric",
    strengths={"flip_probability": 0, "intensity_probability": 0, "blur_probability": 0, "noise_probability": 0},
)
_BINS = 8192  # of the histogram of residuals in [0, 1]: percentiles to 0.00012


class ResidualOptions(Options):
    """The defaults are those of the paper's code, but for `rescale` and `held_out`."""

    # What normal volumes look like: an autoencoder's drawing of the volume, or their median, which needs no training.
    prior: Literal["autoencoder", "median-image"] = "autoencoder"
    # Whom it is learnt from: normals spend labels; the unlabelled pool does not, and has findings in it.
    prior_cohort: Literal["normal", "pool", "pool+normal"] = "normal"
    augment: bool = False  # whether the autoencoder's volumes are moved, turned and scaled a little, tone as it is
    held_out: float = Field(0.2, ge=0, le=0.5)  # of these patients: the scale is measured on them. 0, as the paper
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field((16, 32, 64), min_length=1)  # of the autoencoder
    kernel: Literal[3, 5] = 5
    bottleneck: int = Field(4, ge=1)  # channels before the latent vector
    latent: int = Field(512, ge=1)
    # "normals": one fixed scale from those volumes, each unseen. "volume", as in the paper's code:
    # percentiles of each volume's own residual, which stretch a normal sinus's faint residual to full range.
    rescale: Literal["normals", "volume"] = "normals"
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (
        1.0,
        99.0,
    )
    median: Literal[0, 3, 5, 7] = 5  # 0 = none; 5 with "bce" is the paper's best combination
    loss: Literal["bce", "l1", "l2"] = "bce"


class Residual(Method):
    """Two stages: `autoencoder` on normal volumes, then `residual` on all, with its residuals as targets."""

    Options: ClassVar[type[Options]] = ResidualOptions
    name: ClassVar[str] = "residual"
    about: ClassVar[str] = (
        "residual-SSL: draws what an autoencoder of normals cannot (Bhattacharya et al., IJCARS 2024)"
    )
    tunable: ClassVar[Tunable] = {  # what the paper's own ablations vary
        "median": Choice((0, 3, 5, 7)),
        "loss": Choice(("bce", "l1", "l2")),
    }

    def __init__(self, encoder: Encoder, options: ResidualOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        if options.percentiles[0] >= options.percentiles[1]:
            raise MethodError(f"residual: percentiles must rise, got {options.percentiles}")
        self.prior = Prior(shape, options)
        self.decoder = UNetDecoder(encoder.widths, encoder.strides, shape[0])

    def stages(self) -> Sequence[Stage]:
        """What knows normal anatomy, by default from the labels that say "normal", and the pretraining proper."""
        return (
            self._prior_stage(),
            Stage(
                name="residual",
                module=nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder}),
                loss=self.loss,
                augmentation="geometric",
                targets=self.prior.target,
                reconstruct=lambda volumes, _: self.logits(volumes).sigmoid(),
            ),
        )

    def _prior_stage(self) -> Stage:
        trained = self.options.prior == "autoencoder"
        measured = self.options.rescale == "normals"
        return Stage(
            name=self.options.prior,
            module=self.prior,
            loss=self.prior.loss if trained else None,
            views=(_MOVED if self.options.augment and trained else View(augmentation="none"),),
            cohort=_COHORTS[self.options.prior_cohort],
            held_out=self.options.held_out if trained and measured else 0.0,
            budget="prior",
            finish=self.prior.finish if measured or not trained else None,
            reconstruct=lambda volumes, _: self.prior.target(volumes),
        )

    def logits(self, volumes: Tensor) -> Tensor:
        """[B, C, D, H, W] -> the residual's logits, of the same shape."""
        logits: Tensor = self.decoder(self.encoder.pyramid(volumes), volumes.shape[2:])
        return logits

    def loss(self, batch: Batch) -> Tensor:
        """Distance of the predicted residual, sigmoid(logits), to the target residual."""
        if batch.target is None:
            raise ValueError("the residual stage needs the targets that Stage.targets made")
        logits = self.logits(batch.views[0]).float()
        if self.options.loss == "bce":
            return functional.binary_cross_entropy_with_logits(logits, batch.target)
        distance = functional.l1_loss if self.options.loss == "l1" else functional.mse_loss
        return distance(logits.sigmoid(), batch.target)


class Prior(nn.Module):
    """Draws a volume as it would be without a finding; with the scale of what is left of volumes it has not seen."""

    scale: Tensor  # [2]: the residual that becomes 0, and the one that becomes 1; (0, 0) until measured

    def __init__(self, shape: tuple[int, int, int, int], options: ResidualOptions) -> None:
        super().__init__()
        self.options = options
        self.redraw: nn.Module
        if options.prior == "median-image":
            self.redraw = MedianImage(shape)
        else:
            self.redraw = Autoencoder(shape, options.widths, options.kernel, options.bottleneck, options.latent)
        self.register_buffer("scale", torch.zeros(2))

    def loss(self, batch: Batch) -> Tensor:
        """L1, as in the paper."""
        volumes = batch.views[0]
        return functional.l1_loss(self.redraw(volumes).float(), volumes)

    @torch.no_grad()
    def residual(self, volumes: Tensor) -> Tensor:
        """|x - redrawn x| [B, C, D, H, W], in evaluation mode."""
        training = self.redraw.training
        self.redraw.eval()
        try:
            redrawn: Tensor = self.redraw(volumes)
            return (volumes - redrawn.float()).abs()
        finally:
            self.redraw.train(training)

    def finish(self, volumes: Iterable[Tensor]) -> None:
        """With the volumes that the autoencoder was not trained on, or all that the median image is to be made of."""
        if isinstance(self.redraw, MedianImage):
            self.redraw.learn(volumes)
            without = self.redraw.without
            self.measure((x - without(x)).abs() for x in volumes)
        else:
            self.measure(self.residual(x) for x in volumes)

    def measure(self, residuals: Iterable[Tensor]) -> None:
        """Set `scale` to percentiles over all voxels of the residuals [B, C, D, H, W] of unseen volumes."""
        counts = torch.zeros(_BINS, dtype=torch.int64)
        for residual in residuals:
            bins = (residual * _BINS).long().clamp(max=_BINS - 1)
            counts += torch.bincount(bins.flatten(), minlength=_BINS).cpu()
        if not counts.any():
            raise MethodError("residual: there are no normal volumes to learn from; give more labels")
        share = counts.cumsum(0).double() / counts.sum()
        low, high = (int(torch.searchsorted(share, share.new_tensor(p / 100))) for p in self.options.percentiles)
        self.scale.copy_(torch.tensor([low / _BINS, (min(high, _BINS - 1) + 1) / _BINS]))

    @torch.no_grad()
    def target(self, volumes: Tensor) -> Tensor:
        """The target maps [B, C, D, H, W] in [0, 1]: residual, rescaled, clamped, median-filtered."""
        residual = self.residual(volumes)
        if self.options.rescale == "normals":
            low, high = self.scale
            if high <= low:
                raise MethodError("residual: the prior stage is not finished, its scale is not measured")
        else:
            low, high = (
                torch.quantile(residual.flatten(1), p / 100, dim=1).view(-1, 1, 1, 1, 1)
                for p in self.options.percentiles
            )
        span = (high - low).clamp(min=1.0 / _BINS)  # a volume redrawn perfectly has a residual of 0, not 0 / 0
        return median_filter(((residual - low) / span).clamp(0.0, 1.0), self.options.median)
