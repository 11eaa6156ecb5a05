"""From a registered head to crops: where they lie, how they are resampled, and how intensities are scaled.

A crop's axes are the head's own (left-right, back-front, up), also where the patient lay otherwise in the scanner; its
voxels keep true millimetres. Its affine maps voxels to the scan's world, so that a crop laid over its scan fits.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxbench.datasets.prepare.pyramid import Target
from voxbench.datasets.prepare.quality import Side, apply
from voxbench.datasets.prepare.volume import (
    Array,
    Matrix,
    Volume,
    box_corners,
    clean,
    inside_scan,
    nearest_rotation,
    to_voxel,
)

CT_WINDOW_HU = (-1000.0, 1000.0)  # air to dense bone
MR_PERCENTILES = (1.0, 99.0)  # Bhattacharya et al., IJCARS 2024: 1st to 99th percentile to [0, 1]


@dataclass(frozen=True)
class Box:
    """A cubic crop: `affine` [4, 4] maps its voxels to the scan's world mm; `size` voxels along each side."""

    affine: Matrix
    size: int
    mirrored: bool

    @property
    def corners(self) -> Matrix:
        """World mm of the eight corner voxels, [8, 3]."""
        return apply(self.affine, box_corners((self.size,) * 3))


def sample_centres(centroid: Matrix, count: int, spread_mm: float, rng: np.random.Generator) -> Matrix:
    """Centres in the reference's mm, [count, 3]: the mean centroid itself, then Gaussian draws around it."""
    jitter = rng.normal(0.0, spread_mm, size=(count, 3))
    jitter[0] = 0.0
    return centroid + jitter


def box_at(transform: Matrix, centre: Matrix, crop_mm: float, size: int, *, mirrored: bool) -> Box:
    """The crop around one centre (reference mm [3]); mirrored: its first axis runs right to left."""
    spacing = crop_mm / size
    axes = nearest_rotation(transform[:3, :3]) * spacing
    if mirrored:
        axes = axes * np.array([-1.0, 1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = apply(transform, centre[None])[0] - axes @ np.full(3, (size - 1) / 2)
    return Box(affine, size, mirrored)


def intensity_window(scan: Volume, target: Target, transform: Matrix) -> tuple[float, float, str]:
    """The values that become 0 and 1, and the rule in words.

    CT in Hounsfield units: a fixed window. Everything else (MR; CT with raw values): percentiles of the scan within the
    head and 10 mm around it, so that neck, table and empty margins do not count.
    """
    if scan.hounsfield:
        return (*CT_WINDOW_HU, f"CT in HU: {CT_WINDOW_HU[0]:.0f} to {CT_WINDOW_HU[1]:.0f} HU")
    points = apply(transform, target.points)
    index = np.rint(to_voxel(scan, points[inside_scan(scan, points)])).astype(np.intp)
    index = np.clip(index, 0, np.array(scan.data.shape) - 1)
    values = scan.data[tuple(index.T)] if len(index) else scan.data  # registered beyond the scan: refused anyway
    low, high = (float(v) for v in np.percentile(values, MR_PERCENTILES))
    if high <= low:
        high = float(scan.data.max())
    kind = "CT, raw values" if scan.modality == "ct" else "MR (or CT without Hounsfield units)"
    return low, high, f"{kind}: percentiles {MR_PERCENTILES[0]:.0f} to {MR_PERCENTILES[1]:.0f} of the head"


def cut(scan: Volume, box: Box, window: tuple[float, float]) -> Array:
    """The crop [size, size, size] in [0, 1]; what lies outside the scan becomes 0."""
    to_scan = np.linalg.inv(scan.affine) @ box.affine
    corners = apply(to_scan, box_corners((box.size,) * 3))
    limit = np.array(scan.data.shape)
    first = np.clip(np.floor(corners.min(axis=0)).astype(int) - 4, 0, limit - 1)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 5, 1, limit)
    block = tuple(slice(a, b) for a, b in zip(first, np.maximum(last, first + 1), strict=True))
    part = clean(scan.data[block], hounsfield=scan.hounsfield)
    scaled = np.clip((part - window[0]) / (window[1] - window[0]), 0.0, 1.0).astype(np.float32)
    coarser = np.linalg.norm(box.affine[:3, 0]) / np.array(scan.spacing)
    sigma = 0.5 * np.sqrt(np.maximum(coarser**2 - 1.0, 0.0))  # what finer voxels show and the crop cannot
    if sigma.max() > 0:
        scaled = ndimage.gaussian_filter(scaled, sigma, mode="nearest")
    out = ndimage.affine_transform(
        scaled,
        to_scan[:3, :3],
        to_scan[:3, 3] - first,
        output_shape=(box.size,) * 3,
        order=1,
        mode="grid-constant",
    )
    return np.clip(out, 0.0, 1.0).astype(np.float32)


def encode(data: npt.NDArray[np.float32], affine: Matrix) -> bytes:
    """A .nii.gz of image and affine alone: a fresh header, no text, no time stamp. 16 bit, a step of 1/65535."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def is_mirrored(side: Side, mirror: str) -> bool:
    """Whether crops of a side are mirrored."""
    return side == mirror
