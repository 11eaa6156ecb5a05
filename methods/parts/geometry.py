"""Numbers that say what shape a mask has, in voxels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

NUMBERS = (
    "volume",
    "surface",
    "sphericity",  # surface of the ball of the same volume, over the surface
    "surface_to_volume",
    "depth_mean",  # distance of its voxels from the surface: of a plate a quarter of its thickness
    "depth_max",  # radius of the largest ball that fits
    "depth_spread",
    "axis_1",  # semi-axes of the ellipsoid with the same inertia, the longest first
    "axis_2",
    "axis_3",
    "elongation",
    "flatness",
    "extent_x",
    "extent_y",
    "extent_z",
    "filling",  # of its bounding box
    "largest_piece",  # share of it that hangs together
)
SMOOTHED = 1.0  # voxels, of the surface: less than a step of the grid, and its corners would count


def shape_numbers(mask: Mask) -> Floats:
    """`NUMBERS` of a mask [D, H, W]; all 0 where it is empty."""
    if not mask.any():
        return np.zeros(len(NUMBERS))
    box = mask[ndimage.find_objects(mask.astype(np.int8))[0]]
    padded = np.pad(box, 4)  # so that the surface is closed where the mask touches the border
    volume, surface = float(box.sum()), _surface(padded)
    inner = np.s_[1:-1, 1:-1, 1:-1]
    depth = ndimage.distance_transform_edt(np.pad(box, 1))[inner][box] - 0.5  # a voxel's face is half of one away
    long, middle, short = _axes(box)
    pieces = np.bincount(ndimage.label(box)[0][box])
    return np.array(
        [
            volume,
            surface,
            math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface,
            surface / volume,
            depth.mean(),
            depth.max(),
            depth.std(),
            long,
            middle,
            short,
            middle / long,
            short / long,
            *map(float, box.shape),
            volume / box.size,
            pieces.max() / volume,
        ]
    )


def _surface(mask: Mask) -> float:
    """The integral of the gradient of the smoothed mask, which is the area of its level sets on the average.

    (Co-area formula; Federer, Geometric measure theory, 1969.) Of a ball, the faces of its voxels are half as much
    again.
    """
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTHED, mode="constant", truncate=3.0)
    return float(np.sqrt(sum(slope**2 for slope in np.gradient(smooth))).sum(dtype=np.float64))


def _axes(mask: Mask) -> tuple[float, float, float]:
    """Semi-axes of a full ellipsoid whose voxels lie about its centre as those of the mask do, the longest first."""
    places = np.argwhere(mask).astype(np.float64)
    # A voxel is no point: it adds 1/12 along each axis, and a single one is as wide as a voxel.
    spread = np.cov(places.T, bias=True) + np.eye(3) / 12
    short, middle, long = np.sqrt(5 * np.linalg.eigvalsh(spread).clip(min=1e-12))
    return float(long), float(middle), float(short)
