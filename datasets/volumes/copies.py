"""Copies of one volume under two patients: shifted, turned, rescaled, flipped, or changed in contrast.

Every pair is scored by a descriptor (`likeness`); the likeliest few of every volume are registered (`registration`),
and a pair is a copy where their edges then agree. What was looked for and how surely it is found stands in `PROMISE`,
measured by ``docs/measure/copies.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from voxbench.datasets.volumes.likeness import Likeness
from voxbench.datasets.volumes.poses import FLIPS
from voxbench.datasets.volumes.registration import edge_likeness, register

VERSION = 3  # raise it whenever other copies are found: banks keep what was found
BLOCKS = 16  # block means along each axis, from which candidates are found
CANDIDATES = 5  # of every volume, that are registered
FLOOR = 0.85  # edge likeness from which a pair is kept; what counts as a copy is for the audit to say
FINE, COARSE_FLOOR = 32, 0.97  # volumes of fewer voxels along every axis show little, and have to agree better
SPARE = 1000  # registrations that a small cohort affords: it teaches little of what tells volumes apart
ROWS, FEW = 64, 16  # volumes whose candidates are registered, and pairs whose edges are compared, at a time
COARSE_STEPS, FINE_STEPS = 5, 2  # of the registration, on blocks and at each finer size
SIZES = (32, 64)  # voxels along each axis at which edges are compared, the last or the volumes' own deciding
GATE, EDGE_GATE = 0.89, 0.93  # correlation of registered blocks, and of their edges, below which a pair is left
WORTH_REFINING, WORTH_FINER = 0.87, 0.93  # edge likeness before the finer registration, and before a finer size

PROMISE = (
    "shifts of up to 10 % along each axis, rotations of up to 15 degrees, rescaling by 0.8 to 1.25, flips, noise and "
    "other contrast, one at a time: 95 % and more of planted copies were found in 5,000 phantoms and in AdrenalMNIST3D",
    "the same at the limit, shifts along all three axes: 97 % or more",
    "half of all that together: 100 %; all of it together: 92 %",
    "no false alarm in 21 million pairs of phantoms and 2 million of adrenal glands; where two heads are registered to "
    "one template, some of their parts are mistaken for one another",
)

Volumes = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Copy:
    """Two volumes of one origin: rows of the bank, and the correlation of their edges once registered."""

    a: int
    b: int
    likeness: float


def find_copies(blocks: Tensor, patients: Sequence[str], volumes: Volumes, shape: Sequence[int]) -> tuple[Copy, ...]:
    """All pairs of rows a < b of different patients that are copies, by row.

    `blocks` is float32 [N, BLOCKS, BLOCKS, BLOCKS] in [0, 1]; `volumes` gives float32 [n, C, D, H, W] of rows, and
    `shape` is their D, H, W.
    """
    if len(blocks) < 2:
        return ()
    aspect = _aspect(shape)
    best: dict[tuple[int, int], float] = {}  # of a pair's mirror images the likeliest
    for rows, others, flips in _candidates(Likeness(blocks), patients):
        # Of the two the other is turned round: candidates of one volume then share its preparation.
        moving = _mirrored(blocks[others.flatten()], flips.flatten()).reshape(*others.shape, *blocks.shape[1:])
        poses, reached = register(blocks[rows], moving, COARSE_STEPS, aspect=aspect)
        kept = reached > GATE
        fixed = blocks[rows][:, None].expand(moving.shape)
        kept[kept.clone()] = edge_likeness(fixed[kept], moving[kept], poses[kept]) > EDGE_GATE
        pairs = torch.stack([rows[kept.nonzero()[:, 0]], others[kept]], 1)
        for start in range(0, len(pairs), FEW):
            some = slice(start, start + FEW)
            alike = _edges(pairs[some], flips[kept][some], poses[kept][some], volumes, shape)
            for (a, b), likeness in zip(pairs[some].sort(1).values.tolist(), alike.tolist(), strict=True):
                best[a, b] = max(best.get((a, b), 0.0), likeness)
    floor = FLOOR if max(shape) >= FINE else COARSE_FLOOR
    return tuple(Copy(a, b, likeness) for (a, b), likeness in sorted(best.items()) if likeness >= floor)


def _candidates(scores: Likeness, patients: Sequence[str]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows [n], some of their likeliest others [n, k], and how these are flipped [n, k]; no pair twice.

    A pair is there if one of the two is among the likeliest of the other: a copy that is shifted far lies apart from
    all, and where its origin has many that are nearer, it still has none nearer than its origin.
    """
    people = torch.from_numpy(np.unique(np.asarray(patients), return_inverse=True)[1])
    nearest = [_nearest(scores, people, start) for start in range(0, len(people), ROWS)]
    others, flips, allowed = (torch.cat(parts) for parts in zip(*nearest, strict=True))  # [N, k]
    rows = torch.arange(len(people))[:, None].expand_as(others)
    pair = (torch.minimum(rows, others) * len(people) + torch.maximum(rows, others)) * len(FLIPS) + flips
    once = np.unique(pair[allowed].numpy(), return_index=True)[1]
    kept = torch.zeros_like(allowed)
    kept[tuple(allowed.nonzero()[torch.from_numpy(once)].T)] = True
    counts = kept.sum(1)
    for count in range(1, others.shape[1] + 1):  # rows of equally many together, so that nothing is made in vain
        equal = (counts == count).nonzero()[:, 0]
        for start in range(0, len(equal), ROWS):
            some = equal[start : start + ROWS]
            here = kept[some]
            yield some, others[some][here].reshape(-1, count), flips[some][here].reshape(-1, count)


def _nearest(scores: Likeness, people: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of `ROWS` rows from `start` the likeliest others [n, k], how these are flipped, and which are pairs at all."""
    rows, everyone = slice(start, min(start + ROWS, len(people))), slice(0, len(people))
    most = max(CANDIDATES, SPARE // len(people))
    count = min(most, len(people) - 1)
    same = people == people[rows, None]  # [n, N]
    tables = (scores.of(rows, flip, everyone).masked_fill_(same, -torch.inf) for flip in range(len(FLIPS)))
    values, others = (torch.cat(parts, 1) for parts in zip(*(table.topk(count) for table in tables), strict=True))
    top, which = values.topk(min(most, values.shape[1]))
    return others.gather(1, which), which // count, top > -torch.inf


def _edges(pairs: Tensor, flips: Tensor, poses: Tensor, volumes: Volumes, shape: Sequence[int]) -> Tensor:
    """Edge likeness [P] of pairs [P, 2] at the finest size; 0 where they differ plainly at a coarser one."""
    whole = [volumes(pairs[:, side].tolist()).mean(1) for side in (0, 1)]  # [P, D, H, W]
    whole[1] = _mirrored(whole[1], flips)
    alike, going = torch.zeros(len(pairs)), torch.arange(len(pairs))
    for size in sorted({min(size, max(shape)) for size in SIZES}):
        fixed, moving = (_pooled(side[going], size) for side in whole)
        there = poses[going]
        worth = edge_likeness(fixed, moving, there) >= WORTH_REFINING
        going, fixed, moving, there = going[worth], fixed[worth], moving[worth], there[worth]
        if not len(going):
            break
        there = register(fixed, moving[:, None], FINE_STEPS, there[:, None], _aspect(shape))[0][:, 0]
        reached, poses[going] = edge_likeness(fixed, moving, there), there
        if size == min(SIZES[-1], max(shape)):
            alike[going] = reached
        going = going[reached >= WORTH_FINER]
    return alike


def _mirrored(volumes: Tensor, flips: Tensor) -> Tensor:
    """Volumes [P, D, H, W], each with the axes of its flip turned round."""
    made = volumes.clone()
    for number, axes in enumerate(FLIPS):
        made[flips == number] = volumes[flips == number].flip([axis + 1 for axis in axes])
    return made


def _pooled(volumes: Tensor, size: int) -> Tensor:
    """Volumes [P, D, H, W] with at most `size` voxels along each axis."""
    depth, height, width = (min(size, side) for side in volumes.shape[1:])
    if (depth, height, width) == volumes.shape[1:]:
        return volumes
    return F.adaptive_avg_pool3d(volumes[:, None], (depth, height, width))[:, 0]


def _aspect(shape: Sequence[int]) -> list[float]:
    return [side / max(shape) for side in shape]
