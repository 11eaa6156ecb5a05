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

from voxbench.datasets.volumes.poses import coordinates, posed, standardised, window

DAMPING = 1e-3  # of Gauss-Newton, relative to the diagonal
STEP = 0.3  # the largest change of a parameter in one step
OVERLAP = 0.4  # of the window: in less, likeness is luck


def register(fixed: Tensor, moving: Tensor, steps: int, begin: Tensor | None = None, aspect: Sequence[float] = (1, 1, 1)) -> tuple[Tensor, Tensor]:
    """The poses [n, k, 3, 4] from which `moving` [n, k, D, H, W] looks most like `fixed` [n, D, H, W].

    Also the correlation [n, k] that is reached there. Without `begin` ([n, k, 3, 4]) the start is a shift.
    """
    n, k = moving.shape[:2]
    shape = fixed.shape[1:]
    weights, places = window(shape), coordinates(shape).reshape(3, -1)
    target = standardised(fixed, weights)
    generators = _generators(aspect)
    solver = _solver(target, weights, generators)  # [n, 7, V]
    poses = (_shifts(target, moving, weights) if begin is None else begin).reshape(n * k, 3, 4)
    moving = moving.reshape(n * k, *shape)
    target = target.repeat_interleave(k, 0)
    best, best_poses = torch.full((n * k,), -1.0), poses
    for step in range(steps + 1):
        inside = ((poses[:, :, :3] @ places + poses[:, :, 3:]).abs() < 1).all(1).reshape(-1, *shape)
        shared = weights * inside
        seen, wanted = standardised(posed(moving, poses), shared), standardised(target, shared)
        reached = (seen * wanted * shared).sum((1, 2, 3)) / shared.sum((1, 2, 3)).clamp(min=1e-6)
        better = reached > best
        best, best_poses = torch.where(better, reached, best), torch.where(better[:, None, None], poses, best_poses)
        if step < steps:
            residual = ((seen - wanted) * inside).reshape(n, k, -1)
            change = torch.einsum("npv,nkv->nkp", solver, residual).reshape(n * k, 7).clamp(-STEP, STEP)
            back = torch.linalg.matrix_exp(-torch.einsum("mp,pij->mij", change, generators))
            poses = poses @ back
    return best_poses.reshape(n, k, 3, 4), best.reshape(n, k)


def edge_likeness(fixed: Tensor, moving: Tensor, poses: Tensor) -> Tensor:
    """Correlation of the two volumes' gradients where both are seen, [P]; `moving` [P, D, H, W] from `poses` [P, 3, 4].

    Gradients tell two people of one anatomy apart better than intensities, and no change of brightness alters them.
    """
    shape = fixed.shape[1:]
    weights = window(shape)
    inside = ((poses[:, :, :3] @ coordinates(shape).reshape(3, -1) + poses[:, :, 3:]).abs() < 1).all(1)
    shared = weights * inside.reshape(-1, *shape)
    one, other = gradients(_smooth(fixed)), gradients(_smooth(posed(moving, poses)))
    shared = shared[:, None]
    lengths = [(field**2 * shared).sum((1, 2, 3, 4)).sqrt() for field in (one, other)]
    alike = (one * other * shared).sum((1, 2, 3, 4)) / (lengths[0] * lengths[1]).clamp(min=1e-6)
    return torch.where(shared.sum((1, 2, 3, 4)) >= OVERLAP * weights.sum(), alike, 0.0)


def gradients(volumes: Tensor) -> Tensor:
    """Along x, y and z, [P, 3, D, H, W], in steps of a voxel."""
    return torch.stack(torch.gradient(volumes, dim=(1, 2, 3)), 1)


def _smooth(volumes: Tensor) -> Tensor:
    """By 1/4, 1/2, 1/4 along each axis, which takes the voxels' own noise out of the gradients."""
    out = volumes[:, None]
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 3
        padding = [side for a in (2, 1, 0) for side in ((1, 1) if a == axis else (0, 0))]
        kernel = torch.tensor([0.25, 0.5, 0.25]).reshape(1, 1, *shape)
        out = F.conv3d(F.pad(out, padding, mode="replicate"), kernel)
    return out[:, 0]


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


def _solver(target: Tensor, weights: Tensor, generators: Tensor) -> Tensor:
    """What turns a residual into a change of the seven parameters, [n, 7, V]; blind to gain and offset."""
    n, *shape = target.shape
    places = coordinates(shape).reshape(3, -1)
    places = torch.cat([places, torch.ones_like(places[:1])])
    motion = torch.einsum("pij,jv->piv", generators[:, :3], places)  # [7, 3, V]
    slope = gradients(target) * torch.tensor([size / 2 for size in shape]).reshape(3, 1, 1, 1)
    jacobian = torch.einsum("niv,piv->npv", slope.reshape(n, 3, -1), motion)
    flat = weights.reshape(-1)
    tone = torch.stack([torch.ones_like(target), target], 1).reshape(n, 2, -1)
    weighed = (tone * flat).transpose(1, 2)
    explained = torch.linalg.solve(tone @ weighed + 1e-6 * torch.eye(2), tone)
    jacobian = jacobian - (jacobian @ weighed) @ explained
    weighted = jacobian * flat
    normal = weighted @ jacobian.transpose(1, 2)
    normal = normal + DAMPING * torch.diag_embed(torch.diagonal(normal, dim1=1, dim2=2)) + 1e-4 * torch.eye(7)
    solver: Tensor = torch.linalg.solve(normal, weighted)
    return solver


def _shifts(target: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Poses [n, k, 3, 4] that only shift, by the highest cross-correlation within a quarter of the extent."""
    n, k, *shape = moving.shape
    flat = moving.reshape(n * k, *shape)
    fixed = torch.fft.rfftn(target * weights, dim=(1, 2, 3)).conj().repeat_interleave(k, 0)
    spectrum = fixed * torch.fft.rfftn(standardised(flat, weights) * weights, dim=(1, 2, 3))
    table = torch.fft.irfftn(spectrum, s=shape, dim=(1, 2, 3))
    reach = [torch.tensor([*range(size // 4 + 1), *range(-(size // 4), 0)]) for size in shape]
    near = table[:, reach[0]][:, :, reach[1]][:, :, :, reach[2]]
    at = torch.unravel_index(near.reshape(n * k, -1).argmax(1), near.shape[1:])
    shift = torch.stack([2 * reach[a][at[a]] / shape[a] for a in range(3)], 1)
    poses = torch.cat([torch.eye(3).expand(n * k, 3, 3), shift[:, :, None]], 2)
    return poses.reshape(n, k, 3, 4)
