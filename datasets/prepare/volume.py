"""Reading a scan: what is accepted, which affine holds, and the working grid that registration sees.

World coordinates are mm in RAS+: x grows to the patient's right, y to the front, z to the top.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from voxbench.datasets.base import DatasetError
from voxbench.datasets.volumes.reading import Image, NiftiError, opened, unit_mm, unit_name

Array = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Modality = Literal["mr", "ct"]

MIN_SLICES = 8  # along every axis: below that, there is no 3D anatomy to register
MIN_EXTENT_MM = 40.0  # along every axis: less cannot hold a sinus and a neighbourhood to recognise it by
VOXEL_RANGE_MM = (0.1, 12.0)
CT_AIR_HU = -500.0  # a tenth of a scan below this: a CT in Hounsfield units, whose air is -1000
CT_AIR_SHARE = 0.001  # of a scan said to be CT, which may show little air
CT_FLOOR_HU = -1024.0  # air, noise included; scanners write -2000 or -3024 outside the reconstructed circle ...
CT_PADDING_HU = -1500.0  # ... which is below this, and was not scanned


@dataclass(frozen=True)
class Volume:
    """A scan in RAS+ axis order: `data` float32 [D, H, W], `affine` [4, 4] voxel -> world mm."""

    data: Array
    affine: Matrix
    modality: Modality
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes in mm."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(sizes[0]), float(sizes[1]), float(sizes[2])

    @cached_property
    def filled_box(self) -> tuple[Matrix, Matrix]:
        """First and last voxel [3] of the box without outer slices of one exact value: such slices are padding."""
        low, high = np.zeros(3), np.zeros(3)
        for axis in range(3):
            rest = tuple(a for a in range(3) if a != axis)
            full = np.flatnonzero(self.data.max(axis=rest) > self.data.min(axis=rest))
            low[axis], high[axis] = (full[0], full[-1]) if full.size else (0, -1)
        return low, high

    @cached_property
    def hounsfield(self) -> bool:
        """Whether the values are Hounsfield units: in a CT's raw values, none lies as low as air does in them."""
        return self.modality == "ct" and float(np.mean(self.data[::2, ::2, ::2] < CT_AIR_HU)) > CT_AIR_SHARE


@dataclass(frozen=True)
class Grid:
    """A volume on a regular grid along the world's axes: voxel i is at `origin + i * step`, mm.

    `valid` marks the voxels that the scan really covers (an oblique scan leaves corners free, a CT's circle too).
    """

    data: Array
    valid: npt.NDArray[np.bool_]
    origin: Matrix
    step: float

    def to_index(self, points: Matrix) -> Matrix:
        """World mm [N, 3] -> voxel coordinates [N, 3]."""
        return (points - self.origin) / self.step

    def sample(self, points: Matrix) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Linear interpolation at world points [N, 3], and which of them lie inside the scan."""
        index = self.to_index(points)
        limit = np.array(self.data.shape) - 1
        inside = np.all((index >= 0) & (index <= limit), axis=1)
        nearest = np.clip(np.rint(index), 0, limit).astype(np.intp)
        inside &= self.valid[tuple(nearest.T)]
        values = ndimage.map_coordinates(self.data, index.T, order=1, mode="nearest", output=np.float32)
        return values, inside


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def header_affine(image: Any) -> tuple[Matrix, tuple[str, ...]]:
    """The affine that holds, and notes on it; raises DatasetError where left and right cannot be known.

    sform where its code is set, else qform where its code is set (as nibabel does it); neither:
    refused, for the orientation is then unknown. Both set but of opposite handedness: refused, for left and right are
    then contradictory. Both set and more than 10 degrees apart: sform holds, and a note says so.
    """
    sform, s_code = image.header.get_sform(coded=True)
    try:
        qform, q_code = image.header.get_qform(coded=True)
    except (ValueError, HeaderDataError):  # a quaternion that is none
        if not s_code:
            raise DatasetError("the qform is no rotation, so left and right are unknown; convert it again") from None
        qform, q_code = None, 0
    if not s_code and not q_code:
        raise DatasetError(
            "neither sform nor qform is set, so left and right are unknown; set one (fslorient, nibabel)"
        )
    affine = np.asarray(sform if s_code else qform, dtype=np.float64).copy()
    affine[:3] *= unit_mm(image.header)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or sizes.min() == 0 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.1:
        raise DatasetError("the affine is zero, singular or not finite; convert the scan again")
    low, high = VOXEL_RANGE_MM
    if sizes.min() < low or sizes.max() > high:
        told = unit_name(image.header)
        raise DatasetError(
            f"voxel sizes {np.round(sizes, 6).tolist()} mm{f' (told in {told})' if told else ''} are outside "
            f"{low}-{high} mm; mind the unit: correct the header's voxel size or units (pixdim, xyzt_units)"
        )
    if s_code and q_code and np.isfinite(qform).all() and np.linalg.det(qform[:3, :3]) != 0:
        if np.linalg.det(qform[:3, :3]) * np.linalg.det(affine[:3, :3]) < 0:
            raise DatasetError(
                "sform and qform contradict each other on left and right; remove the wrong one (fslorient)"
            )
        turn = rotation_angle(nearest_rotation(affine[:3, :3]) @ nearest_rotation(qform[:3, :3]).T)
        if turn > 10:
            return affine, (f"sform and qform differ by {turn:.0f} degrees; sform was used",)
    return affine, ()


def read_volume(path: Path, modality: Literal["auto", "mr", "ct"] = "auto") -> Volume:
    """A NIfTI scan; raises DatasetError with one clear line (without the file's name) if it cannot be used."""
    try:
        with opened(path) as image:
            shape = image.shape[:3] if image.shape[3:] == (1,) else image.shape
            affine, notes = usable_header(image, shape)
            data = np.asarray(image.voxels, dtype=np.float32).reshape(shape)
    except NiftiError as error:
        raise DatasetError(str(error)) from error
    if not np.isfinite(data).all():
        raise DatasetError("NaN or infinite values; replace them by the background value")
    if data.min() == data.max():
        raise DatasetError("all voxels have one value; export the scan again")
    if np.ptp(np.percentile(data[::2, ::2, ::2], (0.5, 99.5))) == 0:
        raise DatasetError("99 % of the voxels have one value: a mask, no scan; leave it out")
    to_ras = nib.orientations.io_orientation(affine)
    affine = affine @ nib.orientations.inv_ornt_aff(to_ras, shape)
    data = np.ascontiguousarray(nib.orientations.apply_orientation(data, to_ras), dtype=np.float32)
    return Volume(data, affine, modality if modality != "auto" else guess_modality(data), notes)


def usable_header(image: Image, shape: tuple[int, ...]) -> tuple[Matrix, tuple[str, ...]]:
    """`header_affine` of an image that is large enough; raises DatasetError where it cannot show a head."""
    if len(shape) != 3:
        raise DatasetError(f"the image is {len(shape)}D {tuple(shape)}, not a 3D volume; export one 3D volume")
    if image.dtype.kind not in "iufb":
        raise DatasetError("colour or complex values; export plain intensities")
    if min(shape) < MIN_SLICES:
        raise DatasetError(
            f"{min(shape)} slices along one axis, at least {MIN_SLICES} are needed; export a whole volume"
        )
    affine, notes = header_affine(image)
    extent = np.linalg.norm(affine[:3, :3], axis=0) * shape
    if extent.min() < MIN_EXTENT_MM:
        raise DatasetError(
            f"the scan is {extent.min():.0f} mm thick, at least {MIN_EXTENT_MM:.0f} mm are needed; export it whole"
        )
    return affine, notes


def guess_modality(data: Array) -> Modality:
    """ "ct" where at least a tenth of the voxels lies below -500, as air does in Hounsfield units; else "mr"."""
    return "ct" if float(np.mean(data[::2, ::2, ::2] < CT_AIR_HU)) > 0.1 else "mr"


def clean(data: Array, *, hounsfield: bool) -> Array:
    """Values with padding below CT air lifted to it; others as they are."""
    return np.maximum(data, np.float32(CT_FLOOR_HU)) if hounsfield else data


def to_grid(volume: Volume, step: float) -> Grid:
    """The scan on a grid of `step` mm along the world's axes, so that any affine (oblique, sheared) is treated alike.

    Outside the scan the value is the lowest one, and `valid` is false.
    """
    data, affine = clean(volume.data, hounsfield=volume.hounsfield), volume.affine.copy()
    known = (volume.data > CT_PADDING_HU).astype(np.float32) if volume.hounsfield else None
    blocks = [max(1, int(step / size * 0.75)) for size in volume.spacing]  # averaging = anti-aliasing
    if max(blocks) > 1:
        data, known = block_mean(data, blocks), None if known is None else block_mean(known, blocks)
        affine[:3, 3] += affine[:3, :3] @ ((np.array(blocks) - 1) / 2)
        affine[:3, :3] = affine[:3, :3] * np.array(blocks)
    corners = box_corners(data.shape) @ affine[:3, :3].T + affine[:3, 3]
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape = tuple(int(size) for size in np.floor((high - low) / step) + 1)
    inverse = np.linalg.inv(affine)
    matrix = inverse[:3, :3] * step
    offset = inverse[:3, :3] @ low + inverse[:3, 3]
    out = ndimage.affine_transform(
        data, matrix, offset, output_shape=shape, order=1, mode="constant", cval=float(data.min())
    )
    axes = [np.arange(size, dtype=np.float32) for size in shape]
    valid = np.ones(shape, dtype=bool)
    for row in range(3):  # the source voxel coordinate of every grid voxel, one axis at a time
        i, j, k = (axis * np.float32(matrix[row, column]) for column, axis in enumerate(axes))
        source = i[:, None, None] + j[None, :, None] + k[None, None, :] + np.float32(offset[row])
        valid &= (source >= -0.5) & (source <= data.shape[row] - 0.5)
    if known is not None:
        valid &= ndimage.affine_transform(known, matrix, offset, output_shape=shape, order=1, mode="nearest") > 0.99
    return Grid(out.astype(np.float32), valid, low, step)


def block_mean(data: Array, blocks: Sequence[int]) -> Array:
    """Means of blocks of so many voxels along each axis; what is left over at the far edges is dropped."""
    keep = tuple(slice(0, size // block * block) for size, block in zip(data.shape, blocks, strict=True))
    d, h, w = (size // block for size, block in zip(data.shape, blocks, strict=True))
    cells = data[keep].reshape(d, blocks[0], h, blocks[1], w, blocks[2])
    return np.asarray(cells.mean(axis=(1, 3, 5), dtype=np.float32))


def inside_scan(volume: Volume, points: Matrix, *, filled: bool = False) -> npt.NDArray[np.bool_]:
    """Which world points [N, 3] lie inside the scan's box (voxel edges included); `filled`: inside `filled_box`."""
    index = to_voxel(volume, points)
    low, high = volume.filled_box if filled else (np.zeros(3), np.array(volume.data.shape) - 1.0)
    return np.asarray(np.all((index >= low - 0.5) & (index <= high + 0.5), axis=1))


def to_voxel(volume: Volume, points: Matrix) -> Matrix:
    """World mm [N, 3] -> voxel coordinates [N, 3]."""
    inverse = np.linalg.inv(volume.affine)
    return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3])


def box_corners(shape: tuple[int, ...]) -> Matrix:
    """The eight corner voxels of an array, [8, 3]."""
    ends = [(0.0, float(size - 1)) for size in shape]
    return np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T


def nearest_rotation(matrix: Matrix) -> Matrix:
    """The orthogonal matrix nearest to [3, 3] (polar decomposition); proper if the determinant is positive."""
    u, _, v = np.linalg.svd(matrix)
    return np.asarray(u @ v)


def rotation_angle(rotation: Matrix) -> float:
    """Degrees by which a proper rotation turns; of an improper one, its negative is taken."""
    proper = rotation if np.linalg.det(rotation) > 0 else -rotation
    return float(np.degrees(np.arccos(np.clip((np.trace(proper) - 1) / 2, -1, 1))))
