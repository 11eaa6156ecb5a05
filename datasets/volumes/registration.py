"""Similarity registration of small volumes, many at a time: seven parameters, and how alike the two then are.

Inverse compositional Gauss-Newton (Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 56, 2004), begun at the shift
of the highest cross-correlation: what is to be inverted depends on the fixed volume alone, so several moving volumes
share it. From there 15 degrees and a factor of 1.25 are within reach in a few steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from voxbench.datasets.volumes.poses import coordinates, posed, sampled, standardised, window

DAMPING = 1e-3  # of Gauss-Newton, relative to the diagonal
STEP = 0.3  # the largest change of a parameter in one step
REACH = 2  # voxels that a smoothed gradient looks at to either side
OVERLAP = 0.4  # of the window: in less, likeness is luck


def register(
    fixed: Tensor, moving: Tensor, steps: int, begin: Tensor | None = None, aspect: Sequence[float] = (1, 1, 1)
) -> tuple[Tensor, Tensor]:
    """The poses [n, k, 3, 4] from which `moving` [n, k, D, H, W] looks most like `fixed` [n, D, H, W].

    Also the correlation [n, k] that is reached there. Without `begin` ([n, k, 3, 4]) the start is a shift.
    """
    n, k, *shape = moving.shape
    points = _points(shape)
    places = coordinates(shape).flatten(1)[:, points]  # [3, V]
    target = standardised(fixed, window(shape))
    generators = _generators(aspect)
    solver = _solver(target, places, points, generators)  # [n, 7, V]
    poses = (_shifts(fixed, moving) if begin is None else begin).reshape(n * k, 3, 4)
    wanted = target.flatten(1)[:, points].repeat_interleave(k, 0)
    best, best_poses = torch.full((n * k,), -1.0), poses
    for step in range(steps + 1):
        at = poses[:, :, :3] @ places + poses[:, :, 3:]  # [P, 3, V]
        inside = (at.abs() < 1).all(1)
        seen, hoped = _level(sampled(moving.flatten(0, 1), at), inside), _level(wanted, inside)
        reached = (seen * hoped).sum(1) / inside.sum(1).clamp(min=1)
        better = reached > best
        best, best_poses = torch.where(better, reached, best), torch.where(better[:, None, None], poses, best_poses)
        if step < steps:
            change = torch.einsum("npv,nkv->nkp", solver, (seen - hoped).reshape(n, k, -1))
            change = change.reshape(n * k, 7).clamp(-STEP, STEP)
            poses = poses @ torch.linalg.matrix_exp(-torch.einsum("mp,pij->mij", change, generators))
    return best_poses.reshape(n, k, 3, 4), best.reshape(n, k)


def edge_likeness(fixed: Tensor, moving: Tensor, poses: Tensor) -> Tensor:
    """Correlation of the two volumes' gradients where both are seen, [P]; `moving` [P, D, H, W] from `poses` [P, 3, 4].

    Gradients tell two people of one anatomy apart better than intensities, and no change of brightness alters them.
    """
    shape = fixed.shape[1:]
    weights = window(shape)
    inside = ((poses[:, :, :3] @ coordinates(shape).reshape(3, -1) + poses[:, :, 3:]).abs() < 1).all(1)
    inside = inside.reshape(-1, *shape)
    enough = (weights * inside).sum((1, 2, 3)) >= OVERLAP * weights.sum()
    shared = (weights * _clear(inside))[:, None]
    one, other = gradients(_smooth(fixed)), gradients(_smooth(posed(moving, poses)))
    lengths = [(field**2 * shared).sum((1, 2, 3, 4)).sqrt() for field in (one, other)]
    alike = (one * other * shared).sum((1, 2, 3, 4)) / (lengths[0] * lengths[1]).clamp(min=1e-6)
    return torch.where(enough, alike, 0.0)


def gradients(volumes: Tensor) -> Tensor:
    """Along x, y and z, [P, 3, D, H, W], in steps of a voxel."""
    return torch.stack(torch.gradient(volumes, dim=(1, 2, 3)), 1)


def _smooth(volumes: Tensor) -> Tensor:
    """By 1/4, 1/2, 1/4 along each axis, which takes the voxels' own noise out of the gradients."""
    out = volumes
    for axis in (1, 2, 3):
        size = out.shape[axis]
        first, last = out.narrow(axis, 0, 1), out.narrow(axis, size - 1, 1)
        wide = torch.cat([first, out, last], axis)
        out = wide.narrow(axis, 0, size) / 4 + out / 2 + wide.narrow(axis, 2, size) / 4
    return out


def _clear(inside: Tensor) -> Tensor:
    """Where all that makes a smoothed gradient is `inside`, [P, D, H, W]: black beyond a rim is an edge as well."""
    for axis in (1, 2, 3):
        size, clear = inside.shape[axis], inside.clone()
        for step in range(1, min(REACH, size - 1) + 1):
            clear.narrow(axis, step, size - step).logical_and_(inside.narrow(axis, 0, size - step))
            clear.narrow(axis, 0, size - step).logical_and_(inside.narrow(axis, step, size - step))
        inside = clear
    return inside


def _generators(aspect: Sequence[float]) -> Tensor:
    """Of rotations, scale and shifts, [7, 4, 4]."""
    made = torch.zeros(7, 4, 4)
    for number, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        made[number, i, j] = -aspect[j] / aspect[i]
        made[number, j, i] = aspect[i] / aspect[j]
    made[3, :3, :3] = torch.eye(3)
    for axis in range(3):
        made[4 + axis, axis, 3] = 1
    return made


def _points(shape: Sequence[int]) -> Tensor:
    """Which voxels registration looks at: every fourth in the window suffices for 7 numbers."""
    x, y, z = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    return ((window(shape) > 0.2) & ((x + 2 * y + 3 * z) % 4 == 0)).flatten().nonzero()[:, 0]


def _level(values: Tensor, inside: Tensor) -> Tensor:
    """Values [P, V] of mean 0 and spread 1 where they are `inside`, and 0 elsewhere."""
    count = inside.sum(1, keepdim=True).clamp(min=1)
    centred = (values - (values * inside).sum(1, keepdim=True) / count) * inside
    return centred / ((centred**2).sum(1, keepdim=True) / count).sqrt().clamp(min=1e-4)


def _solver(target: Tensor, places: Tensor, points: Tensor, generators: Tensor) -> Tensor:
    """What turns a residual into a change of the seven parameters, [n, 7, V]; blind to gain and offset."""
    shape = target.shape[1:]
    places = torch.cat([places, torch.ones_like(places[:1])])
    motion = torch.einsum("pij,jv->piv", generators[:, :3], places)  # [7, 3, V]
    slope = gradients(target) * torch.tensor([size / 2 for size in shape]).reshape(3, 1, 1, 1)
    jacobian = torch.einsum("niv,piv->npv", slope.flatten(2)[:, :, points], motion)
    values = target.flatten(1)[:, points]
    tone = torch.stack([torch.ones_like(values), values], 1)  # [n, 2, V]
    mixed = tone @ tone.transpose(1, 2) + 1e-6 * torch.eye(2)
    jacobian = jacobian - jacobian @ tone.transpose(1, 2) @ torch.linalg.solve(mixed, tone)
    normal = jacobian @ jacobian.transpose(1, 2)
    normal = normal + DAMPING * torch.diag_embed(torch.diagonal(normal, dim1=1, dim2=2)) + 1e-4 * torch.eye(7)
    solver: Tensor = torch.linalg.solve(normal, jacobian)
    return solver


def _shifts(fixed: Tensor, moving: Tensor) -> Tensor:
    """Poses [n, k, 3, 4] that only shift, by the highest cross-correlation within a quarter of the extent.

    Of the volumes at half their size: the steps that follow do the rest.
    """
    n, k = moving.shape[:2]
    one, other = (F.avg_pool3d(part[:, None], 2)[:, 0] for part in (fixed, moving.flatten(0, 1)))
    shape = one.shape[1:]
    weights = window(shape)
    spectra = [torch.fft.rfftn(standardised(part, weights) * weights, dim=(1, 2, 3)) for part in (one, other)]
    product = (spectra[0].conj()[:, None] * spectra[1].unflatten(0, (n, k))).flatten(0, 1)
    table = torch.fft.irfftn(product, s=shape, dim=(1, 2, 3))
    reach = [torch.tensor([*range(size // 4 + 1), *range(-(size // 4), 0)]) for size in shape]
    near = table[:, reach[0]][:, :, reach[1]][:, :, :, reach[2]]
    at = torch.unravel_index(near.flatten(1).argmax(1), near.shape[1:])
    shift = torch.stack([2 * reach[axis][at[axis]] / shape[axis] for axis in range(3)], 1)
    return torch.cat([torch.eye(3).expand(n * k, 3, 3), shift[:, :, None]], 2).reshape(n, k, 3, 4)
