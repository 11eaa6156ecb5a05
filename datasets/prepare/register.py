"""Affine registration of a reference head to a scan, from any starting position.

SimpleITK does the optimisation: it is one wheel for every platform without further dependencies, maintained by the ITK
community, takes images in memory, and is deterministic for a seed and one thread. ANTsPy has the same metric behind a
heavier installation.

The way: (1) the outlines of both heads are laid upon each other on 8 mm voxels, for all translations at once (by a fast
Fourier transform), in the orientation that the affine states; (2) the best few are refined with mutual information at
8 mm, and the best of those at 4 mm; (3) while the winner is in doubt, the neighbourhood is combed more densely, then
`TURNS` and 24 other orientations are tried; (4) the winner is refined at 2 mm.
Candidates are ranked by `score`.

Transforms are [4, 4], reference world mm -> scan world mm (RAS+).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)
from scipy import ndimage
from scipy.fft import irfftn, next_fast_len, rfftn
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
SHELL_MM = 24  # of air around the reference head that counts when outlines are laid upon each other
STAGES_MM = (4.0, 2.0)
SCHEDULE = ((40, 0.5), (100, 0.4), (60, 0.15))  # steps, and share of the voxels sampled, at 8, 4 and 2 mm
SETTLED_MM = 2.0
TRIES = 4
PUSH = (8.0, 8.0)  # degrees and mm
Candidate = tuple[float, Matrix]  # score, transform

STATED, STATED_FINE = 8, 3  # translations refined at 8 and at 4 mm in the orientation that the affine states
RAW = 2  # of the best, so many also go to 4 mm as they are: 8 mm can lead astray where little of the head is seen
SQUEEZED = 0.8  # smallest over largest principal stretch below which an affine map is not followed
COMB_MM, COMB_SCALES, COMB_PITCHES = 10.0, (0.87, 0.96), (-12.0, 0.0, 12.0)  # mm, factors, degrees
COMB_POINTS, COMB_KEPT = 6, 16  # every sixth point is enough to rank by; positions refined
PEAKS = 4  # translations looked at in every other orientation; of all these positions ...
TURNED, TURNED_FINE = 60, 16  # ... so many are refined at 8 and at 4 mm
CERTAIN_NATS, CERTAIN_SHARE = 0.48, 0.25  # no wrong position had both in our trials, every right one had
START_SCALE = 0.93  # MNI152 is larger than most heads; the first refinement corrects it for any reference


@dataclass(frozen=True)
class Registration:
    """The map of the reference head onto a scan, and how good it is."""

    transform: Matrix  # [4, 4]
    information: float  # mutual information in nats over the part of the reference that the scan covers
    covered: float  # share of the reference head that lies inside the scan
    apart: tuple[float, ...]  # mm between two registrations at each place asked for


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
    """Grids of 8, 4 and 2 mm from one of 2 mm; the values are clipped to the 0.5-99.5 percentiles."""
    low, high = np.percentile(fine.data, (0.5, 99.5))
    base = Grid(np.clip(fine.data, low, high), fine.valid, fine.origin, fine.step)
    levels = [base]
    for step in (STAGES_MM[0], COARSE_MM):
        factor = round(step / base.step)
        pad = [(0, -size % factor) for size in base.data.shape]
        data = np.pad(base.data, pad, mode="edge")
        d, h, w = (size // factor for size in data.shape)
        data = data.reshape(d, factor, h, factor, w, factor).mean(axis=(1, 3, 5), dtype=np.float32)
        valid = np.pad(base.valid, pad)
        valid = valid.reshape(d, factor, h, factor, w, factor).mean(axis=(1, 3, 5)) >= 0.5
        levels.append(Grid(data, valid, base.origin + (factor - 1) / 2 * base.step, step))
    middle = levels[1]  # noise is averaged out there, so that air and tissue come apart
    return Pyramid((*levels[:0:-1], base), tissue_threshold(middle.data[middle.valid]))


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
    """The 24 quarter turns and `count` rotations spread evenly over all, [24 + count, 3, 3].

    Super-Fibonacci spirals: Alexa, CVPR 2022, equation 6 and table 1 (phi = sqrt 2, psi = 1.533751168755204288118...).
    """
    s = np.arange(count) + 0.5
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118
    r, q = np.sqrt(s / count), np.sqrt(1 - s / count)
    quaternions = np.stack([r * np.sin(alpha), r * np.cos(alpha), q * np.sin(beta), q * np.cos(beta)], axis=1)
    quarters = Rotation.create_group("O").as_matrix()  # the 24 ways of laying a cube: axes stored in another order
    return np.concatenate([quarters, Rotation.from_quat(quaternions).as_matrix()])


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
    shape: Array  # at 8 mm: 1 in the head, -1 in the air around it, 0 further away and where nothing is known
    points: Matrix  # of the head and a margin at 8 mm, world mm [N, 3]
    values: npt.NDArray[np.intp]  # their binned intensities [N]
    near: tuple[npt.NDArray[np.bool_], ...]  # head and 10 mm around it, a mask a level


def make_target(fine: Grid) -> Target:
    """Prepare a reference head given on a 2 mm grid."""
    pyramid = make_pyramid(fine)
    grid = pyramid.levels[1]
    mask = head_mask(pyramid.coarse, pyramid.threshold)
    shell = ndimage.binary_dilation(mask, iterations=round(SHELL_MM / COARSE_MM))
    shape = np.where(mask, 1.0, np.where(shell, -1.0, 0.0)).astype(np.float32)
    near = ndimage.binary_dilation(head_mask(grid, pyramid.threshold), iterations=3)
    index = np.argwhere(near)[::3]
    low, high = float(grid.data.min()), float(grid.data.max())
    values = np.clip(((grid.data[tuple(index.T)] - low) / (high - low) * BINS).astype(np.intp), 0, BINS - 1)
    around = tuple(
        ndimage.binary_dilation(head_mask(level, pyramid.threshold), iterations=max(1, round(10 / level.step)))
        for level in pyramid.levels
    )
    return Target(pyramid, shape, index * grid.step + grid.origin, values, around)


def score(target: Target, scan: Grid, transform: Matrix) -> float:
    """What candidates are ranked by: mutual information times the root of the share of the reference in the scan.

    The root lets a scan of the face alone (40 % of a head) lie where it belongs and not where it covers most, while a
    small corner that happens to agree does not win.
    """
    value, share = information(target.points, target.values, scan, transform)
    return value * float(np.sqrt(share))


def coarse_starts(target: Target, scan: Pyramid, rotations: Matrix, count: int) -> list[Candidate]:
    """Starting positions, best first: the best `count` translations for each of the rotations [N, 3, 3]."""
    grid = scan.coarse
    mask = head_mask(grid, scan.threshold)
    home = np.argwhere(target.shape != 0).mean(axis=0)
    index = np.argwhere(target.shape != 0)
    radius = int(np.ceil(np.linalg.norm(index - home, axis=1).max() * START_SCALE)) + 1
    side = 2 * radius + 1
    shape = [next_fast_len(size + side, real=True) for size in mask.shape]
    signed = np.where(grid.valid, 2.0 * mask - 1.0, 0.0)  # like upon like counts for, unlike against
    spectrum = rfftn(signed, shape)
    home_mm = home * target.pyramid.coarse.step + target.pyramid.coarse.origin
    starts: list[Candidate] = []
    for rotation in rotations:
        # output voxel o of the turned reference looks up R^T (o - radius) / scale + home
        back = rotation.T / START_SCALE
        turned = ndimage.affine_transform(target.shape, back, home - back @ np.full(3, radius), (side,) * 3, order=1)
        overlap = irfftn(spectrum * np.conj(rfftn(turned, shape)), shape)
        for peak in peaks(overlap, count):
            shift = np.where(peak > np.array(shape) - side, peak - shape, peak)  # negative shifts wrap around
            transform = np.eye(4)
            transform[:3, :3] = rotation * START_SCALE
            transform[:3, 3] = (shift + radius) * grid.step + grid.origin - transform[:3, :3] @ home_mm
            starts.append((score(target, grid, transform), transform))
    return sorted(starts, key=lambda start: -start[0])


def peaks(values: npt.NDArray[np.float64], count: int, apart: int = 3) -> list[Matrix]:
    """The indices of the `count` highest values that lie more than `apart` voxels from one another, [3] each."""
    rest = values.copy()
    found = []
    for _ in range(count):
        peak = np.array(np.unravel_index(int(rest.argmax()), rest.shape))
        found.append(peak.astype(np.float64))
        rest[tuple(slice(max(0, p - apart), p + apart + 1) for p in peak)] = -np.inf
    return found


def to_sitk(grid: Grid, data: Array | npt.NDArray[np.uint8]) -> sitk.Image:
    """`data` on the grid as an ITK image whose coordinates are the world's (RAS+; ITK itself does not mind which)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    image.SetSpacing((grid.step,) * 3)
    image.SetOrigin([float(v) for v in grid.origin])
    return image


def optimise(
    reference: Grid,
    mask: npt.NDArray[np.bool_],
    scan: Grid,
    start: Matrix,
    *,
    affine: bool,
    steps: int,
    share: float,
    seed: int,
) -> Matrix:
    """One run of ITK's gradient descent on Mattes mutual information; returns the refined transform."""
    fixed, moving = to_sitk(reference, reference.data), to_sitk(scan, scan.data)
    centre = [float(v) for v in np.argwhere(mask).mean(axis=0) * reference.step + reference.origin]
    model: sitk.Transform
    moved = start[:3, :3] @ np.array(centre) + start[:3, 3]
    if affine:
        model = sitk.AffineTransform(3)
        model.SetMatrix([float(v) for v in start[:3, :3].ravel()])
    else:
        model = sitk.Similarity3DTransform()
        nearest = nearest_rotation(start[:3, :3]) * np.cbrt(abs(np.linalg.det(start[:3, :3])))
        model.SetMatrix([float(v) for v in nearest.ravel()], 1e-4)
    model.SetCenter(centre)
    model.SetTranslation([float(v) for v in moved - np.array(centre)])
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(to_sitk(reference, mask.astype(np.uint8)))
    if not scan.valid.all():
        method.SetMetricMovingMask(to_sitk(scan, scan.valid.astype(np.uint8)))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, seed + 1)  # 0 would mean: by the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,
        minStep=0.02,
        numberOfIterations=steps,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
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


def distinct(starts: Sequence[Candidate], count: int, centre: Matrix) -> list[Candidate]:
    """The first `count` candidates that lie 15 degrees or 15 mm (at `centre`) from those before."""
    kept: list[Candidate] = []
    for value, transform in starts:
        here = transform[:3, :3] @ centre + transform[:3, 3]
        new = True
        for _, other in kept:
            turn = rotation_angle(nearest_rotation(transform[:3, :3]) @ nearest_rotation(other[:3, :3]).T)
            move = float(np.linalg.norm(other[:3, :3] @ centre + other[:3, 3] - here))
            new &= turn > 15 or move > 15
        if new:
            kept.append((value, transform))
        if len(kept) == count:
            break
    return kept


def search(target: Target, scan: Pyramid, seed: int) -> Matrix:
    """The best position of the reference on a scan, to some millimetres.

    First from the orientation that the affine states; all others are tried where that leaves doubt.
    """
    stated = coarse_starts(target, scan, np.eye(3)[None], STATED)
    found = compete(target, scan, stated, STATED_FINE, seed)
    if not is_certain(target, scan, found[1]):
        dense = distinct(comb(target, scan), COMB_KEPT, target.points.mean(axis=0))
        found = max(found, first_certain(target, scan, dense, seed), key=lambda candidate: candidate[0])
    if is_certain(target, scan, found[1]):
        return found[1]
    turned = distinct(coarse_starts(target, scan, orientations(TURNS), PEAKS), TURNED, target.points.mean(axis=0))
    other = compete(target, scan, turned, TURNED_FINE, seed)
    return max(found, other, key=lambda candidate: candidate[0])[1]


def comb(target: Target, scan: Pyramid) -> list[Candidate]:
    """Positions in about the stated orientation on a dense lattice, ranked by information alone, best first.

    Where the scan shows a part of the head (sinus CT), outlines say little about how high the head must lie.
    """
    grid, points, values = scan.coarse, target.points[::COMB_POINTS], target.values[::COMB_POINTS]
    head = np.argwhere(head_mask(grid, scan.threshold)) * grid.step + grid.origin
    middle, low, high = target.points.mean(axis=0), head.min(axis=0), head.max(axis=0)
    reach = np.ptp(target.points, axis=0) / 3
    sideways = [float(head[:, 0].mean())]
    others = [np.arange(low[a] - reach[a], high[a] + reach[a], COMB_MM) for a in (1, 2)]
    places = np.stack(np.meshgrid(sideways, *others, indexing="ij"), axis=-1).reshape(-1, 3)
    found: list[Candidate] = []
    for scale in COMB_SCALES:
        for pitch in COMB_PITCHES:
            transform = np.eye(4)
            transform[:3, :3] = Rotation.from_euler("x", pitch, degrees=True).as_matrix() * scale
            for place in places:
                transform[:3, 3] = place - transform[:3, :3] @ middle
                value, share = information(points, values, grid, transform)
                found.append((value * float(np.sqrt(share)), transform.copy()))
    return sorted(found, key=lambda candidate: -candidate[0])


def careful(target: Target, scan: Pyramid, start: Matrix, seed: int) -> Matrix:
    """At 4 mm, first as a similarity, then as an affine map; the latter is dropped where it squeezes the head flat.

    Where a scan shows a part of the head only, an affine map may squeeze the reference into that part.
    """
    rigid = descend(target, scan, start, level=1, affine=False, seed=seed)
    free = descend(target, scan, rigid, level=1, affine=True, seed=seed)
    return rigid if is_squeezed(free) else free


def finish(target: Target, scan: Pyramid, start: Matrix, seed: int) -> Matrix:
    """At 2 mm as an affine map, or as a similarity where that squeezes the head."""
    free = descend(target, scan, start, level=2, affine=True, seed=seed)
    return descend(target, scan, start, level=2, affine=False, seed=seed) if is_squeezed(free) else free


def is_squeezed(transform: Matrix) -> bool:
    """Whether the head would be much shorter in one direction than in another."""
    stretches = np.linalg.svd(transform[:3, :3], compute_uv=False)
    return bool(stretches[2] < SQUEEZED * stretches[0])


def is_certain(target: Target, scan: Pyramid, transform: Matrix) -> bool:
    """Whether no better position need be sought."""
    value, share = information(target.points, target.values, scan.levels[1], transform)
    return value >= CERTAIN_NATS and share >= CERTAIN_SHARE


def compete(target: Target, scan: Pyramid, starts: Sequence[Candidate], fine: int, seed: int) -> Candidate:
    """Refine all at 8 mm, then the best `fine`, and the best `RAW` as they were, at 4 mm; return the winner."""
    moved = [descend(target, scan, t, level=0, affine=False, seed=seed) for _, t in starts]
    ranked = sorted(((score(target, scan.coarse, t), t) for t in moved), key=lambda candidate: -candidate[0])
    return first_certain(target, scan, [*distinct(ranked, fine, target.points.mean(axis=0)), *starts[:RAW]], seed)


def first_certain(target: Target, scan: Pyramid, starts: Sequence[Candidate], seed: int) -> Candidate:
    """Refine one after the other at 4 mm, until one is certain; return the best."""
    best: Candidate = (-1.0, starts[0][1])
    for _, start in starts:
        transform = careful(target, scan, start, seed)
        best = max(best, (score(target, scan.levels[1], transform), transform), key=lambda candidate: candidate[0])
        if is_certain(target, scan, best[1]):
            break
    return best


def descend(target: Target, scan: Pyramid, start: Matrix, *, level: int, affine: bool, seed: int) -> Matrix:
    """One optimisation at one level of both pyramids."""
    steps, share = SCHEDULE[level]
    reference, near, grid = target.pyramid.levels[level], target.near[level], scan.levels[level]
    return optimise(reference, near, grid, start, affine=affine, steps=steps, share=share, seed=seed)


def register(target: Target, scan: Pyramid, places: Matrix, seed: int) -> Registration:
    """Lay the reference upon a scan. Deterministic for a seed.

    The result is pushed off and found again, until both agree to `SETTLED_MM` at `places` (reference mm [N, 3]) or
    `TRIES` are used up; the better one is kept each time. The last disagreement is a figure of quality.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums in one order; heads run in parallel instead
    best = finish(target, scan, search(target, scan, seed), seed)
    grid = scan.levels[1]
    apart = np.full(len(places), np.inf)
    for attempt in range(TRIES):
        other = again(target, scan, best, seed + attempt)
        moved = [places @ t[:3, :3].T + t[:3, 3] for t in (best, other)]
        apart = np.linalg.norm(moved[0] - moved[1], axis=1)
        if score(target, grid, other) > score(target, grid, best):
            best = other
        if apart.max() <= SETTLED_MM:
            break
    value, share = information(target.points, target.values, grid, best)
    return Registration(best, value, share, tuple(float(a) for a in apart))


def again(target: Target, scan: Pyramid, found: Matrix, seed: int) -> Matrix:
    """A second opinion: pushed off by `PUSH`, with other samples, the optimisation should find the same place."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    turn = Rotation.from_rotvec(np.radians(PUSH[0]) * axis / np.linalg.norm(axis)).as_matrix()
    middle = target.points.mean(axis=0)
    there = found[:3, :3] @ middle + found[:3, 3]
    direction = rng.normal(size=3)
    start = np.eye(4)
    start[:3, :3] = turn @ found[:3, :3]
    start[:3, 3] = there + PUSH[1] * direction / np.linalg.norm(direction) - start[:3, :3] @ middle
    return finish(target, scan, careful(target, scan, start, seed + 1), seed + 1)
