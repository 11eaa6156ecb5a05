"""NIfTI in, RAS+ arrays on a common grid out: what `manifest` knows of files and of resampling."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from voxbench.datasets.files import cause, remedy

Float = npt.NDArray[np.float32]


class NiftiError(Exception):
    """A file cannot be used as a volume; the message says what is wrong and what to do, without the file's
    name."""


@dataclass(frozen=True)
class Scan:
    """A 3D volume in RAS+ order, and its voxel size."""

    data: Float  # [D, H, W] = x (left to right), y (back to front), z (up); the file's own units
    spacing: tuple[float, float, float]  # mm

    def content(self) -> str:
        """A hash of the voxels: the same for one volume under two names, orientations or compressions."""
        digest = hashlib.blake2b(repr(self.data.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.data).tobytes())
        return digest.hexdigest()


def load(path: Path, *, stored_axes: bool = False) -> Scan:
    """Read a NIfTI file and turn its axes to the nearest RAS+ order (no resampling: an oblique scan stays
    oblique). `stored_axes`: leave them as they are; mirrored crops, for one, must stay mirrored.

    Raises NiftiError where it is missing, unreadable, not 3D, without a usable affine, has NaN or infinite
    voxels, or is constant.
    """
    _check_reach(path)
    try:
        image = nib.load(path)
        shape, affine, dtype = tuple(image.shape), image.affine, image.get_data_dtype()
    except Exception as error:  # whatever a broken header makes the reader raise
        raise NiftiError(f"not a readable NIfTI file ({_short(error)}); export it again") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise NiftiError(f"{type(image).__name__}, not NIfTI; convert it to .nii.gz")
    _check_shape(shape)
    _check_affine(affine)
    if not stored_axes and not image.header["sform_code"] and not image.header["qform_code"]:
        raise NiftiError(
            "neither sform nor qform is set, so left and right are not known; set one (fslorient, nibabel), or write "
            "'stored' in a column 'axes' to take the axes as they are"
        )
    if dtype.kind not in "iufb":
        raise NiftiError(f"voxels are {dtype} (colour or complex), not one number each; export it in grey values")
    try:
        canonical = image if stored_axes else nib.as_closest_canonical(image)
        data = canonical.get_fdata(dtype=np.float32, caching="unchanged").reshape(canonical.shape[:3])
    except Exception as error:  # a file cut short raises EOFError, OSError, zlib.error or ValueError
        raise NiftiError(f"cut short or damaged ({_short(error)}); copy or export it again") from error
    bad = int(data.size - np.count_nonzero(np.isfinite(data)))
    if bad:
        raise NiftiError(f"{bad} of {data.size} voxels are NaN or infinite; replace them, e.g. by 0")
    if data.min() == data.max():
        raise NiftiError(f"every voxel is {data.flat[0]:g}: an empty volume; leave it out")
    x, y, z = (float(size) for size in np.linalg.norm(canonical.affine[:3, :3], axis=0))
    return Scan(data, (x, y, z))


def _check_reach(path: Path) -> None:
    try:
        if path.is_file():
            with path.open("rb"):
                return
    except OSError as error:
        raise NiftiError(f"{cause(error)}; {remedy(error)}") from error
    raise NiftiError("there is no such file; correct the path (it is relative to the folder of the CSV)")


def _check_shape(shape: tuple[int, ...]) -> None:
    size = "x".join(str(n) for n in shape)
    if any(n > 1 for n in shape[3:]):
        raise NiftiError(f"{len(shape)}D ({size}), not 3D; give one 3D volume a file")
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise NiftiError(f"2D ({size}), not 3D; give a volume of several slices")


def _check_affine(affine: npt.NDArray[np.float64]) -> None:
    if not np.isfinite(affine).all():
        raise NiftiError("the affine has NaN or infinite entries, so left and right are not known; export it again")
    # relative to the voxel size, so that volumes in micrometres pass
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise NiftiError("the affine is zero or flat, so left and right are not known; export it again")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def scaled(data: Float, percentiles: tuple[float, float]) -> Float:
    """Intensities to [0, 1]: the two percentiles of the volume become 0 and 1, what lies beyond is clipped.

    Where both percentiles fall on one value (a mask, a volume that is mostly air) minimum and maximum take
    their place.
    """
    low, high = (float(value) for value in np.percentile(data, percentiles))
    if high <= low:
        low, high = float(data.min()), float(data.max())
    out: Float = np.clip((data.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    return out


def to_cube(
    data: Float,
    spacing: tuple[float, float, float],
    size: int,
    fit: Literal["resize", "pad"],
    target_spacing: float | None,
) -> Float:
    """Resample [D, H, W] to [size, size, size], linear in between and averaging where it shrinks.

    "resize" stretches each axis to the cube. "pad" keeps proportions: voxels of `target_spacing` mm (None:
    such that the longest side just fits), centred; what lies beyond is cut, and what is missing is 0.
    """
    lengths = [n * mm for n, mm in zip(data.shape, spacing, strict=True)]
    isotropic = target_spacing if target_spacing is not None else max(lengths) / size
    for axis in range(3):
        n = data.shape[axis]
        step = n / size if fit == "resize" else isotropic / spacing[axis]  # input voxels to an output voxel
        weights = _weights(n, size, step)  # [size, n]
        data = np.moveaxis(np.tensordot(weights, data, axes=(1, axis)), 0, axis)
    out: Float = np.clip(np.ascontiguousarray(data, dtype=np.float32), 0, 1)
    return out


def _weights(n: int, size: int, step: float) -> Float:
    """Row i: what output voxel i takes of n input voxels, centre on centre; rows sum to 1 (outside: 0).

    A tent one input voxel wide on either side is linear interpolation; where the grid gets coarser it is
    widened by as much, so that fine detail is averaged and does not alias (as common image libraries do).
    """
    place = (np.arange(size) - (size - 1) / 2) * step + (n - 1) / 2  # in input voxels
    width = max(step, 1.0)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(n)) / width, 0, None)
    inside = (place > -0.5 - 1e-6) & (place < n - 0.5 + 1e-6)
    weights[~inside] = 0
    total = weights.sum(axis=1, keepdims=True)
    out: Float = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0).astype(np.float32)
    return out
