"""Batched 3D augmentation, shared by all methods: sample, then apply.

`Policy.sample` draws every random number of a batch from a CPU generator; `Policy.apply` does the
arithmetic on the tensor's own device. Parameters are kept apart from their use, so a view can be replayed:
the same parameters on the same volumes give the same bits on a CPU.

The spatial part (crop, scale, rotation, shift, flip) moves an input and its target alike. The intensity
part changes the input only: a target is what a method is to predict, and noise on it would be noise in the
label.

Volumes are float32 ``[B, C, D, H, W]`` in [0, 1], RAS+: D = x (left to right), H = y (back to front), W = z
(up).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from voxbench.datasets.views.resample import Placement, along_axis, resample_aligned, resample_rotated

Chance = Annotated[float, Field(ge=0, le=1)]
Axis = Literal["x", "y", "z"]
AXES: tuple[Axis, ...] = ("x", "y", "z")


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("give (lowest, highest)")
    return bounds


Nonnegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Nonnegative, Nonnegative], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
FractionRange = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], AfterValidator(_ordered)
]


class Strengths(BaseModel):
    """How strong each part is, and how often it is applied (`--set augmentation.POLICY.KEY=VALUE`).

    Lengths are fractions of the volume's side, so that a policy means the same at 32^3 and at 64^3.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: Chance = 1.0  # that a volume is augmented at all
    crop_probability: Chance = 0.0
    crop: FractionRange = (1.0, 1.0)  # share of the volume kept by a random resized crop
    crop_stretch: PositiveRange = (0.9, 1.1)  # how far one axis of that crop may differ from the others
    affine_probability: Chance = 0.0
    scale: PositiveRange = (1.0, 1.0)  # magnification
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, about each axis, either way
    shift: Annotated[float, Field(ge=0, le=1)] = 0.0  # along each axis, either way
    flip_probability: Chance = 0.0  # of each axis in flip_axes
    flip_axes: tuple[Axis, ...] = ("x",)  # anatomy is about symmetric left to right only
    intensity_probability: Chance = 0.0  # of brightness, contrast and gamma together
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0  # added, either way
    contrast: PositiveRange = (1.0, 1.0)  # factor about the volume's mean
    gamma: PositiveRange = (1.0, 1.0)
    blur_probability: Chance = 0.0
    blur: Range = (0.0, 0.0)  # Gaussian sigma
    noise_probability: Chance = 0.0
    noise: Range = (0.0, 0.0)  # Gaussian standard deviation, in units of intensity


@dataclass(frozen=True)
class Params:
    """What was drawn for B volumes; all tensors are on the CPU."""

    crop_size: Tensor  # [B, 3] fraction of each axis that is kept
    crop_centre: Tensor  # [B, 3] in [-1, 1], 0 = the volume's centre
    scale: Tensor  # [B]
    angles: Tensor  # [B, 3] radians
    shift: Tensor  # [B, 3] fraction of each axis
    flip: Tensor  # [B, 3] bool
    brightness: Tensor  # [B]
    contrast: Tensor  # [B]
    gamma: Tensor  # [B]
    blur: Tensor  # [B] sigma as a fraction of the side; 0 = none
    noise: Tensor  # [B] standard deviation; 0 = none
    seed: int  # of the noise

    @property
    def rotated(self) -> Tensor:
        """Which volumes need sampling off the axes, bool [B]."""
        return (self.angles != 0).any(dim=1)

    @property
    def aligned(self) -> Tensor:
        """Which volumes move along their axes only, bool [B]."""
        moved = (self.crop_size != 1) | (self.crop_centre != 0) | (self.shift != 0) | self.flip
        return (moved.any(dim=1) | (self.scale != 1)) & ~self.rotated


_DRAWS = 28  # uniform numbers a volume; fixed, so that a changed strength leaves the other draws alone


@dataclass(frozen=True)
class Policy:
    """A named set of strengths."""

    name: str
    strengths: Strengths

    @property
    def mirrors(self) -> tuple[tuple[int, ...], ...]:
        """The mirror images that the policy makes a volume look like, itself first: axes of [B, C, D, H, W]."""
        s = self.strengths
        axes = [2 + AXES.index(axis) for axis in s.flip_axes] if s.probability * s.flip_probability > 0 else []
        return tuple(chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count))

    def sample(self, batch: int, rng: torch.Generator) -> Params:
        """Draw the parameters of `batch` volumes from `rng`, a generator on the CPU."""
        if rng.device.type != "cpu":
            raise ValueError("augmentation draws from a CPU generator, so that every device sees the same parameters")
        s = self.strengths
        draws = torch.rand(_DRAWS, batch, generator=rng)  # in [0, 1)
        seed = int(torch.randint(2**62, (), generator=rng))
        rows = iter(draws)
        on = next(rows) < s.probability

        def chosen(probability: float) -> Tensor:  # [B] bool
            drawn: Tensor = next(rows)
            return torch.logical_and(on, drawn < probability)

        def three() -> Tensor:  # [B, 3]
            return torch.stack([next(rows) for _ in range(3)], dim=1)

        crop, affine = chosen(s.crop_probability), chosen(s.affine_probability)
        flip = torch.stack([chosen(s.flip_probability * (axis in s.flip_axes)) for axis in AXES], dim=1)
        tone, blur = chosen(s.intensity_probability), chosen(s.blur_probability)
        noise = chosen(s.noise_probability)
        stretch = _between(three(), s.crop_stretch)
        stretch = stretch / stretch.prod(dim=1, keepdim=True) ** (1 / 3)  # keeps the crop's volume
        size = _between(next(rows), s.crop)[:, None] ** (1 / 3) * stretch  # [B, 3]
        size = size.clamp(max=1.0).where(crop[:, None], 1.0)
        return Params(
            crop_size=size,
            crop_centre=(2 * three() - 1) * (1 - size),
            scale=_between(next(rows), s.scale).where(affine, 1.0),
            angles=((2 * three() - 1) * math.radians(s.rotation)).where(affine[:, None], 0.0),
            shift=((2 * three() - 1) * s.shift).where(affine[:, None], 0.0),
            flip=flip,
            brightness=((2 * next(rows) - 1) * s.brightness).where(tone, 0.0),
            contrast=_factor(next(rows), s.contrast).where(tone, 1.0),
            gamma=_factor(next(rows), s.gamma).where(tone, 1.0),
            blur=_between(next(rows), s.blur).where(blur, 0.0),
            noise=_between(next(rows), s.noise).where(noise, 0.0),
            seed=seed,
        )

    def apply(self, x: Tensor, params: Params, *, target: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Augment `x` [B, C, D, H, W]; move `target` [B, T, D, H, W] along with it. Both come back in [0, 1].

        Raises ValueError if the batch or the spatial size of x, params and target disagree.
        """
        _check(x, params, target)
        with torch.no_grad():
            channels = x.shape[1]
            moved = _move(x if target is None else torch.cat((x, target), dim=1), params)  # [B, C + T, D, H, W]
            out = _blur(_tone(moved[:, :channels], params), params)
            out = _noise(out, params)
            return out.clamp(0, 1), None if target is None else moved[:, channels:].clamp(0, 1)


def _between(u: Tensor, bounds: tuple[float, float]) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _factor(u: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Uniform in the logarithm: x and 1/x are equally likely."""
    return bounds[0] * (bounds[1] / bounds[0]) ** u


def _check(x: Tensor, params: Params, target: Tensor | None) -> None:
    if x.ndim != 5 or x.shape[0] != len(params.scale):
        raise ValueError(f"parameters of {len(params.scale)} volumes for a batch of shape {tuple(x.shape)}")
    if target is not None and (target.shape[0], target.shape[2:]) != (x.shape[0], x.shape[2:]):
        raise ValueError(f"a target of {tuple(target.shape)} does not lie on volumes of {tuple(x.shape)}")


def _rows(x: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` applied to the chosen volumes (bool [B], on the CPU), the others as they are."""
    index = chosen.nonzero().flatten()
    if len(index) == 0:
        return x
    if len(index) == len(x):
        return change(x)
    index = index.to(x.device)
    return x.index_copy(0, index, change(x.index_select(0, index)))


def _column(values: Tensor, like: Tensor) -> Tensor:
    """[b] -> [b, 1, 1, 1, 1] on the device of `like`."""
    return values.to(like.device, like.dtype).view(-1, 1, 1, 1, 1)


# --- spatial --------------------------------------------------------------


def _move(x: Tensor, params: Params) -> Tensor:
    for chosen, change in ((params.aligned, resample_aligned), (params.rotated, resample_rotated)):
        part = _placement(params, chosen, x.device)
        x = _rows(x, chosen, lambda rows, change=change, part=part: change(rows, part))  # type: ignore[misc]
    return x


def _placement(params: Params, chosen: Tensor, device: torch.device) -> Placement:
    sign = torch.where(params.flip[chosen], -1.0, 1.0)
    zoom = params.crop_size[chosen] * sign / params.scale[chosen, None]
    offset = params.crop_centre[chosen] + 2 * params.shift[chosen]
    return Placement(*(part.to(device) for part in (zoom, params.angles[chosen], offset)))


# --- intensity ------------------------------------------------------------


def _tone(x: Tensor, params: Params) -> Tensor:
    """Brightness, contrast about the volume's mean, gamma."""
    linear = (params.brightness != 0) | (params.contrast != 1)

    def line(rows: Tensor) -> Tensor:
        mean = rows.mean(dim=(1, 2, 3, 4), keepdim=True)
        factor, added = _column(params.contrast[linear], rows), _column(params.brightness[linear], rows)
        return torch.addcmul(mean * (1 - factor) + added, rows, factor).clamp(0, 1)

    curved = params.gamma != 1
    x = _rows(x, linear, line)
    return _rows(x, curved, lambda rows: rows.clamp(0, 1).pow(_column(params.gamma[curved], rows)))


def _blur(x: Tensor, params: Params) -> Tensor:
    """A Gaussian of each volume's own sigma, axis by axis; at the border the kernel is cut and rescaled."""
    chosen = params.blur > 0

    def blurred(rows: Tensor) -> Tensor:
        sigma = params.blur[chosen].to(rows.device).double() * min(rows.shape[2:])  # [b] voxels
        for axis in range(3):
            index = torch.arange(rows.shape[2 + axis], dtype=torch.float64, device=rows.device)
            distance = (index[:, None] - index) / sigma[:, None, None]  # [b, n, n]
            kernel = torch.exp(-0.5 * distance**2).where(
                distance.abs() < 6, 0.0
            )  # denormal weights take ten times as long
            rows = along_axis(rows, kernel / kernel.sum(dim=2, keepdim=True), axis)
        return rows

    return _rows(x, chosen, blurred)


def _noise(x: Tensor, params: Params) -> Tensor:
    chosen = params.noise > 0
    # On the tensor's device: drawing on the CPU and copying would cost more than all the rest on a GPU.
    generator = torch.Generator(device=x.device).manual_seed(params.seed)

    def noisy(rows: Tensor) -> Tensor:
        drawn = torch.randn(rows.shape, generator=generator, device=rows.device, dtype=rows.dtype)
        return torch.addcmul(rows, drawn, _column(params.noise[chosen], rows))

    return _rows(x, chosen, noisy)
