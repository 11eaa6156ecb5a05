"""Findings of the maxillary sinus, grown on the wall of a cavity that is given as a signed distance.

Nothing here knows the phantom: any cavity will do whose signed distance to its wall is known (mm, negative
inside). Air is all that a finding displaces; walls and healthy lining stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from voxbench.datasets.sinus.anatomy import Array, Vector, ellipsoid, soft

Finding = Literal["normal", "mucosal thickening", "polyp", "retention cyst", "fully opacified"]

# Shares of the findings. The classes are the seed paper's; its counts by class we could not find.
# They lean on the MRI of 982 adults by Hansen et al. (BMC Ear Nose Throat Disord 2014, 14:13): in
# the maxillary sinuses thickening in 29 %, polyps and cysts in 32 %; fluid in any sinus in 6 %.
SHARES: Mapping[Finding, float] = {
    "mucosal thickening": 0.44,
    "polyp": 0.18,
    "retention cyst": 0.30,
    "fully opacified": 0.08,
}


@dataclass(frozen=True)
class Lesion:
    """Where a finding is and what it looks like; arrays are [D, H, W]."""

    share: Array  # of the voxel's air that the finding takes, in [0, 1]
    brightness: Array  # signal relative to healthy mucosa


def draw_finding(rng: np.random.Generator) -> Finding:
    """One of the findings, by its share."""
    kinds = tuple(SHARES)
    return kinds[int(rng.choice(len(kinds), p=np.array([SHARES[kind] for kind in kinds])))]


def grow(
    finding: Finding,
    cavity: Array,
    grid: Sequence[Array],
    texture: Array,
    rng: np.random.Generator,
    *,
    voxel: float,
    extent: float = 1.0,
) -> Lesion:
    """Let a finding grow in `cavity` ([D, H, W], mm). `grid`: the voxels' x, y, z; `extent` scales it."""
    if finding == "mucosal thickening":
        return _thickening(cavity, grid, texture, rng, voxel, extent)
    if finding == "polyp":
        return _polyp(cavity, grid, texture, rng, voxel, extent)
    if finding == "retention cyst":
        return _cyst(cavity, grid, rng, voxel, extent)
    if finding == "fully opacified":
        return _opacified(cavity, grid, texture, rng, voxel)
    return Lesion(np.zeros_like(cavity), np.ones_like(cavity))


def _thickening(
    cavity: Array,
    grid: Sequence[Array],
    texture: Array,
    rng: np.random.Generator,
    voxel: float,
    extent: float,
) -> Lesion:
    """A swollen stretch of lining, deepest around one place of the wall and fading out around it."""
    centre = wall_point(cavity, grid, _direction(rng, down=0.8))
    spread = extent * rng.uniform(9.5, 17.5)
    depth = extent * rng.uniform(3.6, 8.2)
    reach = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
    swelling = depth * np.exp(-reach / (2 * spread**2)) * (1.0 + 0.25 * texture) - 0.3
    share = 1.0 - soft((cavity + swelling).astype(np.float32), voxel)
    return Lesion(share.astype(np.float32), rng.uniform(0.75, 1.15) * (1.0 + 0.06 * texture))


def _polyp(
    cavity: Array,
    grid: Sequence[Array],
    texture: Array,
    rng: np.random.Generator,
    voxel: float,
    extent: float,
) -> Lesion:
    """A lobed mass: two or three overlapping bodies, the first at the wall and the others further in."""
    towards = _direction(rng, down=0.0)
    start = wall_point(cavity, grid, towards)
    radius = extent * rng.uniform(4.3, 8.6)
    share = np.zeros_like(cavity)
    for lobe in range(int(rng.integers(2, 4))):
        inward = radius * (0.35 + 0.55 * lobe)
        centre = start - inward * towards + rng.normal(scale=0.25 * radius, size=3)
        radii = radius * rng.uniform(0.7, 1.1, size=3) * 0.88**lobe
        share = np.maximum(share, soft(ellipsoid(grid, centre, radii), voxel))
    return Lesion(share, rng.uniform(0.5, 1.05) * (1.0 + 0.12 * texture))


def _cyst(cavity: Array, grid: Sequence[Array], rng: np.random.Generator, voxel: float, extent: float) -> Lesion:
    """A smooth dome on the wall, mostly on the floor; its fluid is bright with protein, else suppressed."""
    towards = _direction(rng, down=1.6)
    radius = extent * rng.uniform(5.0, 10.0)
    centre = wall_point(cavity, grid, towards) - rng.uniform(0.1, 0.6) * radius * towards
    body = ellipsoid(grid, centre, radius * rng.uniform(0.88, 1.12, size=3))
    fluid, rim = rng.uniform(0.3, 1.2), rng.uniform(0.7, 1.0)
    brightness = rim + soft(body + 0.8, voxel) * (fluid - rim)
    return Lesion(soft(body, voxel), brightness.astype(np.float32))


def _opacified(cavity: Array, grid: Sequence[Array], texture: Array, rng: np.random.Generator, voxel: float) -> Lesion:
    """No air left, or next to none: swollen lining around secretions of any brightness."""
    core = soft((cavity + rng.uniform(3.0, 6.0)).astype(np.float32), voxel)
    lining, secretion = rng.uniform(0.8, 1.1), rng.uniform(0.25, 1.0)
    brightness = (lining + core * (secretion - lining)) * (1.0 + 0.1 * texture)
    deepest = _deepest(cavity, grid)
    bubble = ellipsoid(grid, deepest + np.array([0.0, 3.0, 5.0]), rng.uniform(0.5, 3.0, size=3))
    return Lesion(1.0 - soft(bubble, voxel), brightness.astype(np.float32))


def _direction(rng: np.random.Generator, *, down: float) -> Vector:
    """A unit vector; with a larger `down` it points to the floor more often."""
    vector = rng.normal(size=3) - np.array([0.0, 0.0, down])
    return np.asarray(vector / np.linalg.norm(vector))


def _deepest(cavity: Array, grid: Sequence[Array]) -> Vector:
    index = int(np.argmin(cavity))
    return np.array([float(axis.flat[index]) for axis in grid])


def wall_point(cavity: Array, grid: Sequence[Array], towards: Vector) -> Vector:
    """Where a ray from the deepest point of the cavity meets its wall: x, y, z in mm on a regular `grid`."""
    start = np.unravel_index(int(np.argmin(cavity)), cavity.shape)
    step = float(grid[0][1, 0, 0] - grid[0][0, 0, 0])
    steps = np.arange(0.0, sum(cavity.shape), 0.25)
    path = np.rint(np.array(start) + steps[:, None] * towards).astype(int)  # [S, 3]
    path = path[np.all((path >= 0) & (path < np.array(cavity.shape)), axis=1)]
    outside = np.flatnonzero(cavity[tuple(path.T)] > 0)
    last = int(outside[0]) if outside.size else len(path) - 1
    return np.asarray(_deepest(cavity, grid) + steps[last] * step * towards)
