"""Affine registration of a reference head to a scan, from any starting position.

SimpleITK does the optimisation: it is one wheel for every platform without further dependencies, maintained by the ITK
community, takes images in memory, and is deterministic for a seed and one thread. ANTsPy has the same metric behind a
heavier installation.

The way: (1) the tissue masks of both heads are laid upon each other in `TURNS` orientations, by a fast Fourier transform
for all translations at once, on 8 mm voxels; (2) the best few, and the position that the affine states, are refined
rigidly with mutual information; (3) the best two are refined as affine maps at 4 mm, the better at 2 mm. Candidates are
ranked by *total* information: points that fall outside the scan count as zero, so that a small overlap cannot win.

Transforms are [4, 4], reference world mm -> scan world mm (RAS+).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.fft import irfftn, rfftn
from scipy.spatial.transform import Rotation

from voxbench.datasets.prepare.volume import (
    Array,
    Grid,
    Matrix,
    nearest_rotation,
    rotation_angle,
)

TURNS = 160  # orientations tried; nearest neighbours are then some 35 degrees apart, within reach of step 2
BINS = 32  # of the joint histogram
COARSE_MM = 8.0
STAGES_MM = (4.0, 2.0)
KEPT_COARSE = 5
KEPT_FINE = 2


@dataclass(frozen=True)
class Registration:
    """The map of the reference head onto a scan, and how good it is."""

    transform: Matrix  # [4, 4]
    information: float  # mutual information in nats over the part of the reference that the scan covers
    covered: float  # share of the reference head that lies inside the scan


@dataclass(frozen=True)
class Pyramid:
    """One head on grids of 8, 4 and 2 mm, clipped to its own range, with its tissue threshold."""

    levels: tuple[Grid, ...]
    threshold: float

    @property
    def coarse(self) -> Grid:
        """The 8 mm level."""
        return self.levels[0]


def tissue_threshold(data: Array) -> float:
    """A value between air and tissue: Otsu's threshold of the values below their 99th percentile, halved towards air.

    Otsu's (1979) alone separates bright from dark tissue in many scans; half-way to the air's mode takes in dark tissue.
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
    """Grids of 8, 4 and 2 mm from one of 2 mm; the values are clipped to the 0.5-99.5 percentiles."""
    low, high = np.percentile(fine.data, (0.5, 99.5))
    base = Grid(np.clip(fine.data, low, high), fine.origin, fine.step)
    levels = [base]
    for step in (STAGES_MM[0], COARSE_MM):
        factor = round(step / base.step)
        pad = [(0, -size % factor) for size in base.data.shape]
        data = np.pad(base.data, pad, mode="edge")
        d, h, w = (size // factor for size in data.shape)
        data = data.reshape(d, factor, h, factor, w, factor).mean(axis=(1, 3, 5), dtype=np.float32)
        levels.append(Grid(data, base.origin + (factor - 1) / 2 * base.step, step))
    return Pyramid(tuple(reversed(levels)), tissue_threshold(base.data))


def head_mask(grid: Grid, threshold: float) -> npt.NDArray[np.bool_]:
    """The largest connected piece of tissue, holes filled: a table or head holder beside the head is left out."""
    tissue = ndimage.binary_opening(grid.data > threshold)
    pieces, count = ndimage.label(tissue)
    if count == 0:
        return np.asarray(grid.data > threshold)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(pieces == sizes.argmax()))


def orientations(count: int) -> Matrix:
    """`count` rotations spread evenly over all, [count, 3, 3], the first being none.

    Super-Fibonacci spirals: Alexa, CVPR 2022, equation 6 and table 1 (phi = sqrt 2, psi = 1.533751168755204288118...).
    """
    s = np.arange(count) + 0.5
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118
    r, q = np.sqrt(s / count), np.sqrt(1 - s / count)
    quaternions = np.stack([r * np.sin(alpha), r * np.cos(alpha), q * np.sin(beta), q * np.cos(beta)], axis=1)
    return np.concatenate([np.eye(3)[None], Rotation.from_quat(quaternions).as_matrix()[: count - 1]])


def information(
    reference: Grid, points: Matrix, values: npt.NDArray[np.intp], scan: Grid, transform: Matrix
) -> tuple[float, float]:
    """Mutual information (nats) between reference and scan, and the share of `points` inside the scan.

    `points` are reference world mm [N, 3], `values` their intensities in `BINS` bins.
    """
    del reference
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
    mask: npt.NDArray[np.bool_]  # at 8 mm
    points: Matrix  # of the head and a margin at 8 mm, world mm [N, 3]
    values: npt.NDArray[np.intp]  # their binned intensities [N]


def make_target(fine: Grid) -> Target:
    """Prepare a reference head given on a 2 mm grid."""
    pyramid = make_pyramid(fine)
    grid = pyramid.levels[1]
    mask = head_mask(pyramid.coarse, pyramid.threshold)
    near = ndimage.binary_dilation(head_mask(grid, pyramid.threshold), iterations=3)
    index = np.argwhere(near)[::3]
    low, high = float(grid.data.min()), float(grid.data.max())
    values = np.clip(((grid.data[tuple(index.T)] - low) / (high - low) * BINS).astype(np.intp), 0, BINS - 1)
    return Target(pyramid, mask, index * grid.step + grid.origin, values)


def score(target: Target, scan: Grid, transform: Matrix) -> float:
    """Total information: mutual information times the share of the reference inside the scan."""
    value, share = information(target.pyramid.coarse, target.points, target.values, scan, transform)
    return value * share


def coarse_starts(target: Target, scan: Pyramid) -> list[tuple[float, Matrix]]:
    """The best translation for each of `TURNS` orientations, as (score, transform), best first."""
    grid = scan.coarse
    mask = head_mask(grid, scan.threshold)
    index = np.argwhere(target.mask)
    centre = index.mean(axis=0)
    radius = int(np.ceil(np.linalg.norm(index - centre, axis=1).max())) + 1
    side = 2 * radius + 1
    shape = [size + side for size in mask.shape]
    spectrum = rfftn(2.0 * mask - 1.0, shape)  # tissue upon tissue counts for, tissue upon air against
    starts = []
    for rotation in orientations(TURNS):
        # output voxel o of the turned reference looks up R^T (o - radius) + centre
        turned = ndimage.affine_transform(
            target.mask.astype(np.float32), rotation.T, centre - rotation.T @ np.full(3, radius), (side,) * 3, order=1
        )
        overlap = irfftn(spectrum * np.conj(rfftn(turned, shape)), shape)
        peak = np.array(np.unravel_index(int(overlap.argmax()), overlap.shape), dtype=np.float64)
        peak = np.where(peak > np.array(shape) - side, peak - shape, peak)  # negative shifts wrap around
        landing = (peak + radius) * grid.step + grid.origin  # where the reference's centre comes to lie
        home = centre * target.pyramid.coarse.step + target.pyramid.coarse.origin
        transform = np.eye(4)
        transform[:3, :3] = rotation
        transform[:3, 3] = landing - rotation @ home
        starts.append((score(target, grid, transform), transform))
    return sorted(starts, key=lambda start: -start[0])


def to_sitk(grid: Grid) -> sitk.Image:
    """The grid as an ITK image whose coordinates are the world's (RAS+; ITK itself does not mind which)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(grid.data.transpose(2, 1, 0)))
    image.SetSpacing((grid.step,) * 3)
    image.SetOrigin([float(v) for v in grid.origin])
    return image


def optimise(
    reference: Grid, mask: Grid, scan: Grid, start: Matrix, *, affine: bool, steps: int, share: float, seed: int
) -> Matrix:
    """One run of ITK's gradient descent on Mattes mutual information; returns the refined transform."""
    fixed, moving = to_sitk(reference), to_sitk(scan)
    region = sitk.Cast(to_sitk(mask), sitk.sitkUInt8)
    centre = [float(v) for v in np.argwhere(mask.data > 0).mean(axis=0) * mask.step + mask.origin]
    model: sitk.Transform
    moved = start[:3, :3] @ np.array(centre) + start[:3, 3]
    if affine:
        model = sitk.AffineTransform(3)
        model.SetMatrix([float(v) for v in start[:3, :3].ravel()])
    else:
        model = sitk.Euler3DTransform()
        model.SetMatrix([float(v) for v in nearest_rotation(start[:3, :3]).ravel()], 1e-5)
    model.SetCenter(centre)
    model.SetTranslation([float(v) for v in moved - np.array(centre)])
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # deterministic; heads run in parallel instead
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(region)
    method.SetMetricSamplingStrategy(method.REGULAR if share >= 1 else method.RANDOM)
    method.SetMetricSamplingPercentage(min(share, 1.0), seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.02, numberOfIterations=steps, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(model, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # ITK: too few samples map into the scan; the candidate is worth nothing, not the head
        return start
    result = np.eye(4)
    result[:3, :3] = np.array(model.GetMatrix()).reshape(3, 3)
    centre_to = np.array(centre) + np.array(model.GetTranslation())
    result[:3, 3] = centre_to - result[:3, :3] @ np.array(centre)
    return result


def distinct(starts: Sequence[tuple[float, Matrix]], count: int, degrees: float = 25.0) -> list[Matrix]:
    """The first `count` transforms whose rotations differ by more than `degrees` from those before."""
    kept: list[Matrix] = []
    for _, transform in starts:
        turns = [rotation_angle(nearest_rotation(transform[:3, :3]) @ nearest_rotation(k[:3, :3]).T) for k in kept]
        if all(turn > degrees for turn in turns):
            kept.append(transform)
        if len(kept) == count:
            break
    return kept


def register(target: Target, scan: Pyramid, seed: int) -> Registration:
    """Lay the reference upon a scan. Deterministic for a seed."""
    near = [
        Grid(
            ndimage.binary_dilation(
                head_mask(level, target.pyramid.threshold), iterations=round(10 / level.step)
            ).astype(np.float32),
            level.origin,
            level.step,
        )
        for level in target.pyramid.levels
    ]
    starts = coarse_starts(target, scan)
    stated = next(t for _, t in starts if np.array_equal(t[:3, :3], np.eye(3)))
    candidates = distinct([(np.inf, stated), *starts], KEPT_COARSE)
    for step, (keep, affine, steps, share) in enumerate(
        ((KEPT_FINE, False, 60, 1.0), (1, True, 80, 0.5), (1, True, 60, 0.15))
    ):
        reference, level = target.pyramid.levels[step], scan.levels[step]
        refined = [
            optimise(reference, near[step], level, t, affine=affine, steps=steps, share=share, seed=seed)
            for t in candidates
        ]
        ranked = sorted(((score(target, scan.levels[min(step, 1)], t), t) for t in refined), key=lambda s: -s[0])
        candidates = distinct(ranked, keep, degrees=8.0)
    best = candidates[0]
    value, share = information(target.pyramid.coarse, target.points, target.values, scan.levels[1], best)
    return Registration(best, value, share)
