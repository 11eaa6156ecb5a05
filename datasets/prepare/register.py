"""Affine registration of a reference head to a scan, from any starting position.

The way: (1) mutual information ranks positions near the orientation that the affine states (`starts`); (2) the best are
refined quickly at 4 mm, and the best of those with care (`optimise`); (3) while the winner is in doubt, the quarter
turns, and then `TURNS` other orientations, are tried likewise; (4) the winner is refined at 2 mm, then pushed off and
found again; (5) at last it is shifted by some millimetres to where the faces agree best.

Transforms are [4, 4], reference world mm -> scan world mm (RAS+).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)
from scipy.spatial.transform import Rotation

from voxbench.datasets.prepare.optimise import QUICK, careful, descend, finish
from voxbench.datasets.prepare.pyramid import Candidate, Pyramid, Target, information
from voxbench.datasets.prepare.starts import (
    distinct,
    near_orientations,
    quarter_orientations,
    spread_orientations,
    starts,
)
from voxbench.datasets.prepare.volume import Matrix

SCALES = (0.87, 0.96)  # MNI152 is larger than most heads; the refinement corrects it for any reference
STEP_MM, WIDE_MM = 6.0, 8.0  # 6 mm voxels still show the sinuses' bone in CT
PEAKS = 2  # translations kept in each orientation
TURNS = 160  # orientations besides the quarter turns; nearest neighbours are then some 35 degrees apart
NEAR, NEAR_FINE = 12, 3  # positions refined quickly and with care about the stated orientation
TURNED, TURNED_FINE = 16, 4  # the same for quarter turns, and for the other orientations
CERTAIN_NATS, CERTAIN_SHARE = 0.48, 0.25  # no wrong position had both in our trials, every right one had
SETTLED_MM = 2.0
TRIES = 3
HOPELESS_NATS = 0.40  # below it, a second opinion is not sought again and again: the head is refused anyway
PUSH = (8.0, 8.0)  # degrees and mm
FACE_MM = 50.0  # half a cube around each sinus, in which the face is shifted to its best place ...
FACE_SHIFTS = np.arange(-6.0, 7.0, 2.0)  # ... by so many mm along each axis of the scan's world


@dataclass(frozen=True)
class Registration:
    """The map of the reference head onto a scan, and how good it is."""

    transform: Matrix  # [4, 4]
    information: float  # mutual information in nats where the scan covers the reference, before the face was followed
    covered: float  # share of the reference head that lies inside the scan
    apart: tuple[float, ...]  # mm between two registrations at each place asked for


def score(target: Target, scan: Pyramid, transform: Matrix) -> float:
    """What candidates are ranked by: mutual information times the root of the share of the reference in the scan.

    The root lets a scan of the face alone (40 % of a head) lie where it belongs and not where it covers most, while a
    small corner that happens to agree does not win.
    """
    value, share = information(target.points, target.values, scan.middle, transform)
    return value * float(np.sqrt(share))


def is_certain(target: Target, scan: Pyramid, transform: Matrix) -> bool:
    """Whether no better position need be sought."""
    value, share = information(target.points, target.values, scan.middle, transform)
    return value >= CERTAIN_NATS and share >= CERTAIN_SHARE


def search(target: Target, scan: Pyramid, seed: int) -> Matrix:
    """The best position of the reference on a scan, to some millimetres.

    First about the orientation that the affine states; quarter turns and then all others where that leaves doubt.
    """
    stages = (
        (near_orientations(), STEP_MM, SCALES, NEAR, NEAR_FINE),
        (quarter_orientations(), STEP_MM, SCALES, TURNED, TURNED_FINE),
        (spread_orientations(TURNS), WIDE_MM, (sum(SCALES) / 2,), TURNED, TURNED_FINE),
    )
    best: Candidate = (-1.0, np.eye(4))
    for rotations, step, scales, quick, fine in stages:
        found = starts(target, scan, rotations, step=step, scales=scales, peaks=PEAKS)
        kept = distinct(found, quick, target.points.mean(axis=0))
        best = max(best, compete(target, scan, kept, fine, seed), key=lambda candidate: candidate[0])
        if is_certain(target, scan, best[1]):
            break
    return best[1]


def compete(target: Target, scan: Pyramid, candidates: Sequence[Candidate], fine: int, seed: int) -> Candidate:
    """Refine all quickly, then the best `fine` with care until one is certain; return the winner."""
    moved = [descend(target, scan, start, QUICK, affine=False, seed=seed) for _, start in candidates]
    ranked = sorted(((score(target, scan, t), t) for t in moved), key=lambda candidate: -candidate[0])
    best = ranked[0]
    for _, start in distinct(ranked, fine, target.points.mean(axis=0)):
        transform = careful(target, scan, start, seed)
        best = max(best, (score(target, scan, transform), transform), key=lambda candidate: candidate[0])
        if is_certain(target, scan, best[1]):
            break
    return best


def register(target: Target, scan: Pyramid, places: Matrix, seed: int) -> Registration:
    """Lay the reference upon a scan. Deterministic for a seed.

    The result is pushed off and found again, until both agree to `SETTLED_MM` at `places` (reference mm [N, 3]) or
    `TRIES` are used up; the better one is kept each time. The last disagreement is a figure of quality.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums in one order; heads run in parallel instead
    best = finish(target, scan, search(target, scan, seed), seed)
    apart = np.full(len(places), np.inf)
    for attempt in range(TRIES):
        other = again(target, scan, best, seed + attempt)
        moved = [places @ t[:3, :3].T + t[:3, 3] for t in (best, other)]
        apart = np.linalg.norm(moved[0] - moved[1], axis=1)
        if score(target, scan, other) > score(target, scan, best):
            best = other
        value, share = information(target.points, target.values, scan.middle, best)
        if apart.max() <= SETTLED_MM or value < HOPELESS_NATS:
            break
    return Registration(follow_face(target, scan, best, places), value, share, tuple(float(a) for a in apart))


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


def follow_face(target: Target, scan: Pyramid, found: Matrix, places: Matrix) -> Matrix:
    """The transform shifted to where the faces agree best: of a whole head, the brain decides, and faces differ.

    In eight trials (the five heads, and three changed copies of one) it took 2 to 6 mm off the largest errors.
    """
    near = np.any([np.all(np.abs(target.points - place) <= FACE_MM, axis=1) for place in places], axis=0)
    points, values = target.points[near], target.values[near]
    best: Candidate = (-1.0, found)
    for shift in sorted(product(FACE_SHIFTS, repeat=3), key=np.linalg.norm):  # of equals, the smallest
        moved = found.copy()
        moved[:3, 3] += shift
        value, share = information(points, values, scan.middle, moved)
        if value * np.sqrt(share) > best[0]:
            best = (value * float(np.sqrt(share)), moved)
    return best[1]
