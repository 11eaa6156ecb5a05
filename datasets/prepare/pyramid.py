"""Heads on grids of 4 and 2 mm: what registration sees of a scan, and of the reference.

Transforms are [4, 4], reference world mm -> scan world mm (RAS+).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxbench.datasets.prepare.volume import Array, Grid, Matrix, block_mean

BINS = 32  # of the joint histogram
STAGES_MM = (4.0, 2.0)
Candidate = tuple[float, Matrix]  # score, transform


@dataclass(frozen=True)
class Pyramid:
    """One head on grids of 4 and 2 mm, clipped to its own range, with its tissue threshold."""

    levels: tuple[Grid, Grid]
    threshold: float

    @property
    def middle(self) -> Grid:
        """The 4 mm level: noise is averaged out, so that air and tissue come apart."""
        return self.levels[0]

    @property
    def fine(self) -> Grid:
        """The 2 mm level."""
        return self.levels[1]


def tissue_threshold(data: Array) -> float:
    """A value between air and tissue: Otsu's threshold of the values below their 99th percentile, halved towards air.

    Otsu's (1979) alone separates bright from dark tissue in many scans; half-way to air takes in dark tissue.
    """
    low, high = (float(v) for v in np.percentile(data, (1, 99)))
    counts, edges = np.histogram(data, bins=256, range=(low, max(high, low + 1e-6)))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    otsu = float(middles[int(np.nanargmax(between))])
    air = float(middles[int(np.argmax(np.where(middles < otsu, counts, 0)))])
    return air + 0.5 * (otsu - air)


def make_pyramid(fine: Grid) -> Pyramid:
    """Grids of 4 and 2 mm from one of 2 mm; the values are clipped to the 0.5-99.5 percentiles."""
    low, high = np.percentile(fine.data, (0.5, 99.5))
    base = Grid(np.clip(fine.data, low, high), fine.valid, fine.origin, fine.step)
    factor = round(STAGES_MM[0] / base.step)
    valid = padded_mean(base.valid.astype(np.float32), factor, mode="constant") >= 0.5
    origin = base.origin + (factor - 1) / 2 * base.step
    middle = Grid(padded_mean(base.data, factor, mode="edge"), valid, origin, STAGES_MM[0])
    return Pyramid((middle, base), tissue_threshold(middle.data[middle.valid]))


def padded_mean(data: Array, factor: int, mode: Literal["edge", "constant"]) -> Array:
    """Means of cubes of `factor` voxels; the far edges are padded to whole cubes (`constant`: by zeros)."""
    return block_mean(np.pad(data, [(0, -size % factor) for size in data.shape], mode=mode), (factor,) * 3)


def head_mask(grid: Grid, threshold: float) -> npt.NDArray[np.bool_]:
    """The largest connected piece of tissue, holes filled: a table or head holder beside the head is left out."""
    tissue = ndimage.binary_opening(grid.data > threshold)
    pieces, count = ndimage.label(tissue)
    if count == 0:
        return np.asarray(grid.data > threshold)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(pieces == sizes.argmax()))


def information(points: Matrix, values: npt.NDArray[np.intp], scan: Grid, transform: Matrix) -> tuple[float, float]:
    """Mutual information (nats) between reference and scan, and the share of `points` inside the scan.

    `points` are reference world mm [N, 3], `values` their intensities in `BINS` bins.
    """
    moved = points @ transform[:3, :3].T + transform[:3, 3]
    found, inside = scan.sample(moved)
    share = float(inside.mean())
    if inside.sum() < 50:
        return 0.0, share
    low, high = float(scan.data.min()), float(scan.data.max())
    bins = np.clip(((found[inside] - low) / (high - low) * BINS).astype(np.intp), 0, BINS - 1)
    joint = np.bincount(values[inside] * BINS + bins, minlength=BINS * BINS).reshape(BINS, BINS) / inside.sum()
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float(np.sum(joint[filled] * np.log(joint[filled] / expected[filled]))), share


@dataclass(frozen=True)
class Target:
    """The reference head, ready to be laid upon scans."""

    pyramid: Pyramid
    points: Matrix  # of the head and a margin at 4 mm, world mm [N, 3]
    values: npt.NDArray[np.intp]  # their binned intensities [N]
    near: tuple[npt.NDArray[np.bool_], ...]  # head and 10 mm around it, a mask a level


def make_target(fine: Grid) -> Target:
    """Prepare a reference head given on a 2 mm grid."""
    pyramid = make_pyramid(fine)
    grid = pyramid.middle
    near = ndimage.binary_dilation(head_mask(grid, pyramid.threshold), iterations=3)
    index = np.argwhere(near)[::3]
    low, high = float(grid.data.min()), float(grid.data.max())
    values = np.clip(((grid.data[tuple(index.T)] - low) / (high - low) * BINS).astype(np.intp), 0, BINS - 1)
    around = tuple(
        ndimage.binary_dilation(head_mask(level, pyramid.threshold), iterations=max(1, round(10 / level.step)))
        for level in pyramid.levels
    )
    return Target(pyramid, index * grid.step + grid.origin, values, around)
