"""Which volumes may be copies of one another: a score for every pair, cheap enough to be taken of all.

A volume's block means become features that a shift leaves as they are (magnitudes of low frequencies of the volume and
of its six directions of gradient) or hardly changes (coarse histograms of gradients; Dalal and Triggs, CVPR 2005).
Which combinations of them tell volumes of this cohort apart and survive a pose is learnt from the cohort itself: some
of its volumes are shifted, turned, scaled and changed in contrast, and probabilistic linear discriminant analysis
(Ioffe, ECCV 2006) weighs how far two volumes are apart. Of its log-likelihood ratio only the part of their difference
is taken: the part of their sum makes neighbours of all that is far from the mean. Mirror images have their features by
rearrangement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from voxbench.datasets.volumes.poses import FLIPS, draw_poses, posed, standardised, window
from voxbench.datasets.volumes.registration import gradients

LEARN_FROM = 600  # volumes
ALL: dict[str, Any] = {"shift": 0.12, "degrees": 17.0, "scale": 1.28}
FAR_OFF: dict[str, Any] = {"shift": 0.11, "extreme": True}
VIEWS: tuple[tuple[dict[str, Any], str], ...] = (  # a pose, a little more than is promised, and what lies outside
    (ALL, "zeros"),
    (ALL, "border"),
    (FAR_OFF, "zeros"),
    (FAR_OFF, "border"),
    ({"degrees": 16.0, "extreme": True}, "border"),
    ({"scale": 1.27, "extreme": True}, "border"),
)
GAMMA, NOISE = 1.7, 0.03
COMPONENTS, DIRECTIONS = 300, 100  # principal components, and discriminant directions of them
SHRINKAGE = 0.02  # of the covariance within a volume's views towards a multiple of the identity
LOW, LOW_SLOPES = 5, 3  # highest frequency of the volume and of its gradients, in periods across
CHUNK = 256  # volumes at a time


class Likeness:
    """Scores of all pairs of a cohort's volumes, from their blocks [N, K, K, K]; K is a multiple of 4."""

    def __init__(self, blocks: Tensor, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        chosen = torch.from_numpy(np.sort(rng.choice(len(blocks), min(len(blocks), LEARN_FROM), replace=False)))
        some = blocks[chosen]
        plain = _Features(some).rows()
        views = torch.stack([_Features(_view(some, rng, *view)).rows() for view in VIEWS])  # [R, M, F]
        self._learn(plain.numpy(), views.numpy())
        described = [self._described(blocks[start : start + CHUNK]) for start in range(0, len(blocks), CHUNK)]
        self._described_rows = torch.cat(described, 1)  # [8, N, DIRECTIONS]
        self._length = (self._described_rows**2).sum(2)  # [8, N]

    def of(self, rows: slice, flip: int, others: slice) -> Tensor:
        """Of `rows`, mirrored as ``FLIPS[flip]`` has it, to `others` as they are: [rows, others]; 0 where equal."""
        table: Tensor = 2 * self._described_rows[flip, rows] @ self._described_rows[0, others].T
        return table - self._length[flip, rows, None] - self._length[0, others]

    def _learn(self, plain: np.ndarray, views: np.ndarray) -> None:
        """The discriminant, from features of volumes [M, F] and of views of each [R, M, F]."""
        from sklearn.decomposition import PCA  # late: it takes a second, and a bank whose copies are known needs none

        count, members, _ = views.shape
        stacked = np.concatenate([plain, views.reshape(count * members, -1)])
        size = min(COMPONENTS, len(stacked) - 1, stacked.shape[1])
        reduce = PCA(size, svd_solver="randomized", random_state=0).fit(stacked)
        seen = reduce.transform(views.reshape(count * members, -1)).reshape(count, members, size).astype(np.float64)
        centres = seen.mean(0)
        within = (seen - centres).reshape(-1, size)
        within = within.T @ within / (members * (count - 1))
        within += (SHRINKAGE * np.trace(within) / size + 1e-12) * np.eye(size)
        between = np.cov(centres.T, bias=True).reshape(size, size)
        strength, directions = scipy.linalg.eigh(between, within, subset_by_index=(max(size - DIRECTIONS, 0), size - 1))
        strength = np.clip(strength - 1 / count, 1e-3, None)  # the centres hold a share of the spread within
        self._mean = torch.from_numpy(reduce.mean_.astype(np.float32))
        weighed = reduce.components_.T @ (directions * np.sqrt(strength / (1 + strength)))
        self._project = torch.from_numpy(weighed.astype(np.float32))

    def _described(self, blocks: Tensor) -> Tensor:
        features = _Features(blocks)
        return torch.stack([(features.rows(flip) - self._mean) @ self._project for flip in FLIPS])


class _Features:
    """Of blocks [n, K, K, K] and of their mirror images."""

    def __init__(self, blocks: Tensor) -> None:
        shape = blocks.shape[1:]
        weights = window(shape, 0.75, 4)
        volume = standardised(blocks, weights) * weights
        slopes = gradients(volume)
        slopes = torch.stack([slopes.clamp(min=0), (-slopes).clamp(min=0)], 1)  # [n, 2, 3, K, K, K]
        self.volume = _magnitudes(volume, LOW)
        self.slopes = _magnitudes(slopes, LOW_SLOPES)
        self.histogram = F.avg_pool3d(slopes.flatten(0, 2), 4)
        self.histogram = self.histogram.reshape(*slopes.shape[:3], *self.histogram.shape[1:])

    def rows(self, flip: tuple[int, ...] = ()) -> Tensor:
        """[n, F], of the volumes with the axes of `flip` turned round."""
        volume, slopes, histogram = self.volume, self.slopes, self.histogram
        if flip:
            volume, slopes = _mirrored(volume, flip), _mirrored(slopes, flip)
            histogram = histogram.flip([axis - 3 for axis in flip])
            order = [[1 if axis in flip else 0 for axis in range(3)], [0 if axis in flip else 1 for axis in range(3)]]
            pick, axes = torch.tensor(order), torch.arange(3)  # rising slopes become falling ones
            slopes, histogram = slopes[:, pick, axes], histogram[:, pick, axes]
        return torch.cat([F.normalize(part.flatten(1), dim=1) for part in (volume, slopes, histogram)], 1)


def _magnitudes(fields: Tensor, highest: int) -> Tensor:
    """Log magnitudes of the frequencies from -highest to highest, of the last axis from 0, of [..., K, K, K]."""
    keep = torch.tensor([*range(highest + 1), *range(-highest, 0)])
    spectrum = torch.fft.rfftn(fields, dim=(-3, -2, -1))
    return torch.log1p(spectrum[..., keep, :, :][..., keep, :][..., : highest + 1].abs())


def _mirrored(magnitudes: Tensor, flip: tuple[int, ...]) -> Tensor:
    """Of the mirror image. Turning the last axis round is, for magnitudes, turning round the other two."""
    for axis in (0, 1):
        if (axis in flip) != (2 in flip):
            count = magnitudes.shape[axis - 3]
            magnitudes = magnitudes.index_select(axis - 3, -torch.arange(count) % count)
    return magnitudes


def _view(blocks: Tensor, rng: np.random.Generator, pose: Mapping[str, Any], padding: str) -> Tensor:
    """Blocks [M, K, K, K] in another pose, contrast and noise."""
    seen = posed(blocks, draw_poses(len(blocks), rng, **pose), padding).clamp(0, 1)
    gamma = GAMMA ** rng.uniform(-1, 1, len(blocks))
    noise = NOISE * rng.standard_normal(seen.shape, dtype=np.float32)
    return seen ** torch.from_numpy(gamma.astype(np.float32))[:, None, None, None] + torch.from_numpy(noise)
