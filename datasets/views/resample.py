"""Volumes read at other places, with linear interpolation: crop, zoom, rotation, shift and flip in one.

`grid_sample` of a volume vectorises over nothing on a CPU, and took half of all augmentation. So a move along the axes
is a product with a small matrix an axis, and a rotation is three rotations of planes, whose third axis comes along as
the channels over which `grid_sample` of planes shares its weights: a twentieth of the time each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

PLANES = ((1, 2), (0, 2), (0, 1))  # that a rotation about x, y, z turns
TURNS = (1.0, -1.0, 1.0)  # about y, z goes to x: the other way round than the order of the axes
FIRST, LAST = (1, 0, 0), (2, 2, 1)  # which of the planes is the first, and the last, to hold axis x, y, z


@dataclass(frozen=True)
class Placement:
    """Where an output place is read: R @ (`zoom` * place) + `offset`, in [-1, 1] an axis; past the border it goes on.

    R turns about z, then y, then x, and is rigid in voxels.
    """

    zoom: Tensor  # [b, 3] below 1 magnifies; a flip is negative
    angles: Tensor  # [b, 3] radians
    offset: Tensor  # [b, 3]


def resample_aligned(x: Tensor, placement: Placement) -> Tensor:
    """x [b, C, D, H, W] moved along its axes only (the angles are not looked at), one axis after another."""
    for axis in range(3):
        n = x.shape[2 + axis]
        place = (2 * torch.arange(n, dtype=torch.float64, device=x.device) + 1) / n - 1  # [n] voxel centres in [-1, 1]
        source = placement.zoom[:, axis, None] * place + placement.offset[:, axis, None]  # [b, n]
        voxel = (((source + 1) * n - 1) / 2).clamp(0, n - 1)  # the border goes on
        here = torch.arange(n, device=x.device)
        weights = (1 - (voxel[..., None] - here).abs()).clamp(min=0)  # [b, n, n] tent function
        weights = weights.where((weights - weights.round()).abs() > 1e-6, weights.round())  # a pure flip is exact
        x = along_axis(x, weights, axis)
    return x


def along_axis(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply each volume [C, D, H, W] by its own matrix, [b, n, n], along a spatial axis (0 = D)."""
    b, c, d, h, w = x.shape
    matrix = matrix.to(x.device, x.dtype)
    if axis == 0:
        return (matrix[:, None] @ x.reshape(b, c, d, h * w)).view(x.shape)
    if axis == 1:
        return matrix[:, None, None] @ x
    return (x.reshape(b, c * d * h, w) @ matrix.transpose(1, 2)).view(x.shape)


def resample_rotated(x: Tensor, placement: Placement) -> Tensor:
    """x [b, C, D, H, W] rotated and moved, in three passes over planes.

    A pass can zoom and shift the axes of its plane besides. Where a volume gets smaller that is done in the first pass
    that holds an axis, else in the last, so that hardly anything that will be read is cut off between the passes.
    """
    shrunk = placement.zoom.abs().amax(dim=1, keepdim=True).clamp(min=1)  # [b, 1]; axes alike, to pass the rotation
    early = shrunk > 1
    outer = placement.offset.where(early, 0.0)
    inner = _turned_back(placement, x).where(~early, 0.0)
    one, zero = torch.ones_like(outer), torch.zeros_like(outer)
    for number, plane in enumerate(PLANES):
        first, last = ([order[axis] == number for axis in plane] for order in (FIRST, LAST))
        x = _turn_planes(
            x,
            plane,
            TURNS[number] * placement.angles[:, number],
            zoom=_when(last, plane, placement.zoom / shrunk, one),
            inner=_when(last, plane, inner, zero),
            shrunk=_when(first, plane, shrunk.expand(-1, 3), one),
            outer=_when(first, plane, outer, zero),
        )
    return x


def _when(chosen: list[bool], plane: tuple[int, int], values: Tensor, neutral: Tensor) -> Tensor:
    """[b, 3] -> [b, 2]: of the plane's axes, `values` for the chosen ones."""
    return torch.stack([(values if on else neutral)[:, axis] for on, axis in zip(chosen, plane, strict=True)], dim=1)


def _turn_planes(
    x: Tensor, plane: tuple[int, int], angle: Tensor, *, zoom: Tensor, inner: Tensor, shrunk: Tensor, outer: Tensor
) -> Tensor:
    """Planes of x [b, C, D, H, W] read at shrunk * (R @ (zoom * place + inner)) + outer; all but the angle [b, 2]."""
    b = len(x)
    along = 3 - sum(plane)  # the axis that comes along
    order = (0, 1, 2 + along, 2 + plane[0], 2 + plane[1])
    planes = x.permute(order)
    p, q = planes.shape[3:]
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack((cos, -sin * q / p, sin * p / q, cos), dim=1).view(b, 2, 2)  # rigid in voxels
    matrix = shrunk[:, :, None] * turn * zoom[:, None, :]
    offset = shrunk * (turn @ inner[:, :, None])[:, :, 0] + outer
    read = torch.cat((matrix.flip(1, 2), offset.flip(1)[:, :, None]), dim=2)  # grid_sample wants the last axis first
    grid = F.affine_grid(read, [b, 1, p, q], align_corners=False)
    out = F.grid_sample(planes.reshape(b, -1, p, q), grid, padding_mode="border", align_corners=False)
    back = sorted(range(5), key=order.__getitem__)
    return out.view(planes.shape).permute(back)


def _turned_back(placement: Placement, x: Tensor) -> Tensor:
    """R^-1 @ offset, [b, 3]: the offset as a shift of the place that is read."""
    side = torch.tensor(x.shape[2:], dtype=x.dtype, device=x.device)
    return ((placement.offset * side)[:, None, :] @ _rotation(placement.angles))[:, 0] / side


def _rotation(angles: Tensor) -> Tensor:
    """Angles about x, y and z, in radians [b, 3] -> rotation matrices [b, 3, 3]."""
    identity = torch.eye(3, device=angles.device)
    out = identity.expand(len(angles), 3, 3)
    for axis, (first, second) in enumerate(PLANES):
        turn = identity.repeat(len(angles), 1, 1)
        cos, sin = angles[:, axis].cos(), TURNS[axis] * angles[:, axis].sin()
        turn[:, first, first], turn[:, second, second] = cos, cos
        turn[:, first, second], turn[:, second, first] = -sin, sin
        out = out @ turn
    return out
