"""NIfTI in, RAS+ arrays on a common grid out: what `manifest` knows of files and of resampling."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from voxbench.datasets.volumes.reading import Image, NiftiError, opened, unit_mm, unit_name

Float = npt.NDArray[np.float32]
Fit = Literal["resize", "pad"]

FIELD_MM = (1.0, 10_000.0)  # the longest side of what was scanned; beyond, the header's units are wrong
SUITS = 4.0  # times as large as the cube, or as small: a wrong unit makes it a thousand
FEW = 27  # voxels: a block of 3 x 3 x 3, less than which shows nothing
FLAT = 0.005  # of the range [0, 1]: less from one voxel to another is all but constant
SPARSE = 0.02  # of the voxels: where more than this differ from the rest, averaging cannot wipe them all out


@dataclass(frozen=True)
class Scan:
    """A 3D volume in RAS+ order, and its voxel size."""

    data: Float  # [D, H, W] = x (left to right), y (back to front), z (up); the file's own units
    spacing: tuple[float, float, float]  # mm
    units: str = ""  # of the file's header, where they are others than mm

    def content(self) -> str:
        """A hash of the voxels: the same for one volume under two names, orientations or compressions."""
        digest = hashlib.blake2b(repr(self.data.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.data).tobytes())
        return digest.hexdigest()


def load(path: Path, *, stored_axes: bool = False) -> Scan:
    """Read a NIfTI file and turn its axes to the nearest RAS+ order (no resampling: an oblique scan stays
    oblique). `stored_axes`: leave them as they are; mirrored crops, for one, must stay mirrored.

    Raises NiftiError where it is missing, unreadable, damaged anywhere, not 3D, without a usable affine, has NaN
    or infinite voxels, or is constant.
    """
    with opened(path) as image:
        _check_shape(image.shape)
        _check_affine(image.affine)
        if not stored_axes and not image.header["sform_code"] and not image.header["qform_code"]:
            raise NiftiError(
                "neither sform nor qform is set, so left and right are not known; set one (fslorient, nibabel), or "
                "write 'stored' in a column 'axes' to take the axes as they are"
            )
        if image.dtype.kind not in "iufb":
            kind = "colours" if image.dtype.fields else f"{image.dtype}"
            raise NiftiError(f"voxels are {kind}, not one number each; export it in grey values")
        data, affine = _as_stored(image) if stored_axes else _to_ras(image)
    data = data.reshape(data.shape[:3])
    bad = int(data.size - np.count_nonzero(np.isfinite(data)))
    if bad:
        raise NiftiError(f"{bad} of {data.size} voxels are NaN or infinite; replace them, e.g. by 0")
    if data.min() == data.max():
        raise NiftiError(f"every voxel is {data.flat[0]:g}: an empty volume; leave it out")
    mm, units = unit_mm(image.header), unit_name(image.header)
    x, y, z = (float(size) * mm for size in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(data, (x, y, z), units)


def _as_stored(image: Image) -> tuple[Float, npt.NDArray[np.float64]]:
    return np.asarray(image.voxels, dtype=np.float32), image.affine


def _to_ras(image: Image) -> tuple[Float, npt.NDArray[np.float64]]:
    """Voxels and affine with their axes in the nearest RAS+ order."""
    turn = nib.orientations.io_orientation(image.affine)
    if np.array_equal(turn, [[0, 1], [1, 1], [2, 1]]):
        return _as_stored(image)
    data = nib.orientations.apply_orientation(np.asarray(image.voxels), turn)
    affine = image.affine @ nib.orientations.inv_ornt_aff(turn, image.shape[:3])
    return np.asarray(data, dtype=np.float32), affine


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
    fit: Fit,
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
    place = _places(n, size, step)
    width = max(step, 1.0)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(n)) / width, 0, None)
    weights[~_inside(n, size, step)] = 0
    total = weights.sum(axis=1, keepdims=True)
    out: Float = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0).astype(np.float32)
    return out


def _places(n: int, size: int, step: float) -> npt.NDArray[np.floating[Any]]:
    """Where the centres of `size` output voxels lie, in input voxels."""
    return (np.arange(size) - (size - 1) / 2) * step + (n - 1) / 2


def _inside(n: int, size: int, step: float) -> npt.NDArray[np.bool_]:
    """Which output voxels have their centre within the n input voxels."""
    place = _places(n, size, step)
    inside: npt.NDArray[np.bool_] = (place > -0.5 - 1e-6) & (place < n - 0.5 + 1e-6)
    return inside


def lost(scan: Scan, percentiles: tuple[float, float], size: int, fit: Fit, target_spacing: float | None) -> str | None:
    """Why nothing of a volume would be left in its cube, and what to do; None where something is.

    Without `target_spacing` the cube shows the whole volume, and only a few odd voxels can get lost.
    """
    if target_spacing is not None:
        return _lost_by_spacing(scan, percentiles, size, fit, target_spacing)
    if not _mostly_one_value(scan.data) or not _flat(
        to_cube(scaled(scan.data, percentiles), scan.spacing, size, fit, None)
    ):
        return None
    return f"averaged onto {size}x{size}x{size} voxels it is all but constant; raise dataset.size, or leave it out"


def _lost_by_spacing(
    scan: Scan, percentiles: tuple[float, float], size: int, fit: Fit, target_spacing: float
) -> str | None:
    voxel = " x ".join(f"{mm:.3g}" for mm in scan.spacing)
    header = f"by its header, its voxels are {voxel} mm" + (f" (told in {scan.units})" if scan.units else "")
    remedy = "correct the header's voxel size or units (pixdim, xyzt_units), or set dataset.spacing to suit"
    widest = max(n * mm for n, mm in zip(scan.data.shape, scan.spacing, strict=True))
    steps = [target_spacing / mm for mm in scan.spacing]
    filled = [_inside(n, size, step) for n, step in zip(scan.data.shape, steps, strict=True)]
    seen = [min(n, size * step) for n, step in zip(scan.data.shape, steps, strict=True)]
    where = f"at dataset.spacing={target_spacing:g} and size={size}"
    meant = 1 / SUITS <= widest / (size * target_spacing) <= SUITS  # microscopy is small, and its spacing, too
    if not meant and not FIELD_MM[0] <= widest <= FIELD_MM[1]:
        why = f"which makes it {widest:.3g} mm wide"
    elif math.prod(int(axis.sum()) for axis in filled) < FEW:
        why = f"and {where} it would fill next to none of the cube"
    elif math.prod(seen) < FEW:
        why = f"and {where} the cube would show next to none of them"
    else:
        cube = to_cube(scaled(scan.data, percentiles), scan.spacing, size, fit, target_spacing)
        if not _flat(cube[np.ix_(*filled)]):
            return None
        why = f"and {where} the {size * target_spacing:g} mm that the cube shows are all but constant"
    return f"{header}, {why}: an empty volume; {remedy}"


def _flat(data: Float) -> bool:
    return float(data.max() - data.min()) < FLAT


def _mostly_one_value(data: Float) -> bool:
    """As in a mask of something small."""
    usual = np.median(data[::4, ::4, ::4])
    return int(np.count_nonzero(data != usual)) < SPARSE * data.size
