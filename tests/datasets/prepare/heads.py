"""The five real heads, what is known of their sinuses, and ways of spoiling them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from voxbench.datasets.prepare.volume import Array, Matrix, Volume, read_volume, to_voxel

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("VOXBENCH_TEST_DATA", ROOT.parent / "shared" / "data")) / "heads"
WHY_ABSENT = f"the real heads are not at {DATA} (set VOXBENCH_TEST_DATA)"
REFERENCE = DATA / "mni-reference" / "MNI152_T1_2mm.nii.gz"
CENTROIDS = np.array([[-25.0, 38.0, -66.0], [25.0, 38.0, -66.0]])  # left, right; mm in the reference


@dataclass(frozen=True)
class Head:
    """A scan and its approximate sinus centroids (from the NOTICE file beside it), world mm, left then right."""

    path: str
    centroids: tuple[tuple[float, float, float], tuple[float, float, float]]
    whole: bool = True  # both sinuses fully inside the scan

    def read(self) -> Volume:
        return read_volume(DATA / self.path)


HEADS = {
    "t1": Head("fnndsc-adi/adi_T1w_memprage.nii.gz", ((-15.5, 75.8, -26.2), (28.8, 73.3, -22.6))),
    "t2": Head("fnndsc-adi/adi_T2w_axfse_half_inplane.nii.gz", ((-15.5, 78.3, -20.8), (29.0, 75.3, -19.7))),
    "ct": Head("vtkjs-headsq-ct/headsq_ct.nii.gz", ((-20.7, 41.3, 19.3), (26.2, 39.7, 24.6))),
    "colin27": Head("debian-mricron-colin27/ch2.nii.gz", ((-25.0, 39.8, -59.0), (25.2, 41.6, -60.2)), whole=False),
    "flair": Head("open_ms_data/patient19_study1_FLAIR.nii.gz", ((-28.5, 69.2, -3.2), (25.9, 68.2, -2.6)), whole=False),
}


def world(volume: Volume) -> Array:
    """World mm of every voxel, [D, H, W, 3]."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.data.shape], indexing="ij"), axis=-1)
    return np.asarray(index @ volume.affine[:3, :3].T + volume.affine[:3, 3], dtype=np.float32)


def turned(volume: Volume, degrees: tuple[float, float, float]) -> Volume:
    """The patient lies otherwise in the scanner: the affine turns, by Euler angles about x, y, z."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return replace(volume, affine=turn @ volume.affine)


def cut_below(volume: Volume, place: Matrix) -> Volume:
    """Slices below a place (world mm) were not scanned."""
    first = max(0, int(np.ceil(to_voxel(volume, place[None])[0, 2])))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    return replace(volume, data=volume.data[:, :, first:], affine=affine)


def blanked_below(volume: Volume, place: Matrix) -> Volume:
    """As `cut_below`, but the slices are filled with the lowest value."""
    first = max(0, int(np.ceil(to_voxel(volume, place[None])[0, 2])))
    data = volume.data.copy()
    data[:, :, :first] = data.min()
    return replace(volume, data=data)


def defaced(volume: Volume, centre: Matrix) -> Volume:
    """Everything in front of and below the eyes is set to the lowest value, as defacing tools do."""
    place = world(volume)
    face = (place[..., 1] > centre[1] - 10) & (place[..., 2] < centre[2] + 30)
    return replace(volume, data=np.where(face, volume.data.min(), volume.data))


def stripped(volume: Volume, transform: Matrix) -> Volume:
    """Only the brain is left: an ellipsoid in the reference's space, carried over by `transform`."""
    back = np.linalg.inv(transform)
    place = world(volume) @ back[:3, :3].T + back[:3, 3]
    brain = np.sum(((place - [0, -18, 8]) / [68, 86, 66]) ** 2, axis=-1) < 1
    return replace(volume, data=np.where(brain, volume.data, volume.data.min()))


def with_table(volume: Volume) -> Volume:
    """A slab and a post beside the head, of a brightness between tissue and bone."""
    data = volume.data.copy()
    bright = float(np.percentile(data, 90))
    data[:, : max(2, data.shape[1] // 20), :] = bright
    data[: data.shape[0] // 10, : data.shape[1] // 2, : data.shape[2] // 3] = bright
    return replace(volume, data=data)


def noisy(volume: Volume, share: float, seed: int = 0) -> Volume:
    """Gaussian noise of `share` of the 99th percentile."""
    scale = share * float(np.percentile(volume.data, 99))
    noise = np.random.default_rng(seed).normal(0, scale, volume.data.shape)
    return replace(volume, data=(volume.data + noise).astype(np.float32))


def thick(volume: Volume, slices: int) -> Volume:
    """`slices` slices averaged into one along z."""
    count = volume.data.shape[2] // slices
    data = volume.data[:, :, : count * slices]
    data = data.reshape(*data.shape[:2], count, slices).mean(axis=3, dtype=np.float32)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (slices - 1) / 2
    affine[:3, 2] *= slices
    return replace(volume, data=data, affine=affine)


def no_head(seed: int = 0) -> Volume:
    """A smooth random body: tissue, but nobody's head."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(80, 80, 80)), 4)
    data = np.where(noise > 0, 400 + 3000 * noise, 5).astype(np.float32)
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = -100
    return Volume(data, affine, "mr")
