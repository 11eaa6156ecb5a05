"""Where a search begins: mutual information of reference and scan for all translations at once, by orientation.

Both heads become a few classes (air; dark, middling and bright tissue). Their joint histogram for every translation is
a set of correlations, which fast Fourier transforms give in one go (Öfverstedt, Lindblad and Sladoje, Pattern
Recognition Letters 159, 2022). Voxels that the scan does not cover do not count, so a scan of the face alone, or of
half a head, is laid where its tissue agrees and not where its outline does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.fft import irfftn, next_fast_len, rfftn
from scipy.spatial.transform import Rotation

from voxbench.datasets.prepare.pyramid import Candidate, Pyramid, Target, padded_mean
from voxbench.datasets.prepare.volume import Array, Matrix, nearest_rotation, rotation_angle

TISSUES = 3  # classes besides air
SHELL_MM = 24.0  # of air around the reference head that counts
SHARE_POWER = 0.25
REACH_MM = 45.0  # by which the middle of the head may lie outside the scan
MIN_SHARE = 0.12  # of the reference head that the scan must cover: a small scan of the sinuses has so much
LEAN = 20.0  # degrees by which a head may nod, tilt or turn in the scanner
APART_DEGREES, APART_MM = 15.0, 15.0  # candidates nearer than both are one


@dataclass(frozen=True)
class Classes:
    """A head as shares of classes on a coarse grid."""

    shares: Array  # [K, D, H, W]: air, then tissues from dark to bright; all 0 where nothing is known
    origin: Matrix  # world mm of voxel (0, 0, 0)
    step: float  # mm

    @property
    def middle(self) -> Matrix:
        """World mm of the middle of all that counts."""
        return np.asarray(np.argwhere(self.shares.sum(axis=0) > 0).mean(axis=0) * self.step + self.origin)


def classes(head: Pyramid, counts: npt.NDArray[np.bool_], step: float) -> Classes:
    """Classes of the 2 mm level where `counts` holds, averaged to voxels of `step` mm (a multiple of 2)."""
    grid = head.fine
    tissue = grid.data[counts & (grid.data > head.threshold)]
    edges = [head.threshold, *split(tissue, TISSUES)] if tissue.size else [head.threshold]
    kind = np.digitize(grid.data, edges)
    factor = round(step / grid.step)
    shares = [
        padded_mean(((kind == value) & counts).astype(np.float32), factor, mode="constant")
        for value in range(TISSUES + 1)
    ]
    return Classes(np.stack(shares), grid.origin + (factor - 1) / 2 * grid.step, grid.step * factor)


def split(values: Array, count: int) -> list[float]:
    """Edges between `count` groups of values, by k-means."""
    centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(12):
        edges = (centres[1:] + centres[:-1]) / 2
        group = np.digitize(values, edges)
        sizes = np.bincount(group, minlength=count)
        sums = np.bincount(group, weights=values, minlength=count)
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
    return [float(edge) for edge in (centres[1:] + centres[:-1]) / 2]


def near_orientations() -> Matrix:
    """The orientation that the affine states, and those that a patient in a head coil may take, [15, 3, 3]."""
    corners = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    faces = [tuple(sign * (axis == at) for axis in range(3)) for at in range(3) for sign in (-1, 1)]
    vectors = np.array([(0, 0, 0), *faces, *(np.array(corners) / np.sqrt(3))]) * np.radians(LEAN)
    return np.asarray(Rotation.from_rotvec(vectors).as_matrix())


def quarter_orientations() -> Matrix:
    """The 24 ways of laying a cube, [24, 3, 3]: on the side, face down, axes stored in another order."""
    return np.asarray(Rotation.create_group("O").as_matrix())


def spread_orientations(count: int) -> Matrix:
    """`count` rotations spread evenly over all, [count, 3, 3].

    Super-Fibonacci spirals: Alexa, CVPR 2022, equation 6 and table 1 (phi = sqrt 2, psi = 1.533751168755204288118...).
    """
    s = np.arange(count) + 0.5
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118
    r, q = np.sqrt(s / count), np.sqrt(1 - s / count)
    quaternions = np.stack([r * np.sin(alpha), r * np.cos(alpha), q * np.sin(beta), q * np.cos(beta)], axis=1)
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())


def starts(
    target: Target, scan: Pyramid, rotations: Matrix, *, step: float, scales: Sequence[float], peaks: int
) -> list[Candidate]:
    """Positions, best first: the best `peaks` translations for each of the rotations [N, 3, 3] and each scale."""
    shell = ndimage.binary_dilation(target.near[-1], iterations=round((SHELL_MM - 10) / target.pyramid.fine.step))
    reference = classes(target.pyramid, shell, step)
    body = classes(scan, scan.fine.valid, step)
    middle = reference.middle
    index = np.argwhere(reference.shares.sum(axis=0) > 0)
    home = (middle - reference.origin) / step
    radius = int(np.ceil(np.linalg.norm(index - home, axis=1).max() * max(scales))) + 1
    side = 2 * radius + 1
    sizes, reach = np.array(body.shares.shape[1:]), round(REACH_MM / step)
    shape = [next_fast_len(max(int(size) + radius + reach, side), real=True) for size in sizes]
    shifts = [
        np.where(np.arange(n) < size + reach - radius, 0, -n) + np.arange(n)
        for n, size in zip(shape, sizes, strict=True)
    ]
    beyond = [shift < -reach - radius for shift in shifts]
    spectra = rfftn(body.shares, shape, axes=(1, 2, 3))
    whole = float(reference.shares.sum())
    found: list[Candidate] = []
    for rotation in rotations:
        for scale in scales:
            # output voxel o of the turned reference looks up R^T (o - radius) / scale + home
            back = rotation.T / scale
            offset = home - back @ np.full(3, radius)
            turned = np.stack(
                [ndimage.affine_transform(m, back, offset, (side,) * 3, order=1) for m in reference.shares]
            )
            value = likeness(turned, spectra, shape, MIN_SHARE * whole * scale**3)
            for axis, out in enumerate(beyond):
                value[(slice(None),) * axis + (out,)] = 0
            for peak in highest(value, peaks, apart=max(1, round(24 / step))):
                shift = np.array([along[at] for along, at in zip(shifts, peak, strict=True)])
                transform = np.eye(4)
                transform[:3, :3] = rotation * scale
                transform[:3, 3] = (shift + radius) * step + body.origin - transform[:3, :3] @ middle
                found.append((float(value[tuple(peak)]), transform))
    return sorted(found, key=lambda candidate: -candidate[0])


def likeness(turned: Array, spectra: npt.NDArray[np.complex64], shape: Sequence[int], least: float) -> Array:
    """Mutual information (nats) times the root of the share seen, for every translation; 0 where too little is."""
    pairs = np.conj(rfftn(turned, shape, axes=(1, 2, 3)))[:, None] * spectra[None]
    joint = np.maximum(irfftn(pairs, shape, axes=(2, 3, 4)), 0)  # [K, K, ...]: voxels of each pair of classes
    seen = joint.sum(axis=(0, 1))
    kept = seen > least
    joint = joint[:, :, kept] / seen[kept]
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    ratio = np.log(np.maximum(joint, 1e-6) / np.maximum(expected, 1e-6))
    value = np.zeros(seen.shape, np.float32)
    value[kept] = np.sum(joint * ratio, axis=(0, 1)) * (seen[kept] / turned.sum()) ** SHARE_POWER
    return value


def highest(values: Array, count: int, apart: int) -> list[tuple[int, ...]]:
    """The indices of the `count` highest values that lie more than `apart` voxels from one another."""
    rest = values.copy()
    found = []
    for _ in range(count):
        peak = tuple(int(p) for p in np.unravel_index(int(rest.argmax()), rest.shape))
        found.append(peak)
        rest[tuple(slice(max(0, p - apart), p + apart + 1) for p in peak)] = -np.inf
    return found


def distinct(starts: Sequence[Candidate], count: int, centre: Matrix) -> list[Candidate]:
    """The first `count` candidates that lie `APART_DEGREES` or `APART_MM` (at `centre`) from those before."""
    kept: list[Candidate] = []
    for value, transform in starts:
        here = transform[:3, :3] @ centre + transform[:3, 3]
        new = True
        for _, other in kept:
            turn = rotation_angle(nearest_rotation(transform[:3, :3]) @ nearest_rotation(other[:3, :3]).T)
            move = float(np.linalg.norm(other[:3, :3] @ centre + other[:3, 3] - here))
            new &= turn > APART_DEGREES or move > APART_MM
        if new:
            kept.append((value, transform))
        if len(kept) == count:
            break
    return kept
