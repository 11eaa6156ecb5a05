"""Volumes in memory, handed over as the harness does: some at a time, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from voxbench.methods.base import Labelled, Volumes


class InMemory(Volumes):
    def __init__(self, volumes: Tensor, batch: int = 7) -> None:
        self.volumes = volumes
        self.batch = batch

    def __len__(self) -> int:
        return len(self.volumes)

    def batches(self) -> Iterator[Tensor]:
        for first in range(0, len(self.volumes), self.batch):
            yield self.volumes[first : first + self.batch].clone()


def labelled(volumes: Tensor, labels: list[int], batch: int = 7, seed: int = 0) -> Labelled:
    """Two volumes a patient, as of two sinuses, and none unlabelled."""
    return Labelled(
        volumes=InMemory(volumes, batch),
        labels=np.array(labels),
        patients=np.arange(len(labels)) // 2,
        classes=max(labels) + 1,
        pool=InMemory(volumes[:0]),
        seed=seed,
    )


def balls(n: int, classes: int, shape: tuple[int, int, int, int], seed: int = 0) -> tuple[Tensor, list[int]]:
    """Masks of one ball each, anywhere, the larger the higher the label; and the labels, two volumes each in turn."""
    rng = np.random.default_rng(seed)
    channels, *size = shape
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
    volumes, labels = [], []
    for i in range(n):
        label = i // 2 % classes
        radius = 3 + 2 * label + rng.uniform(-0.8, 0.8)
        centre = np.array([rng.uniform(radius, side - radius - 1) for side in size]).reshape(3, 1, 1, 1)
        mask = ((grid - centre) ** 2).sum(axis=0) <= radius**2
        volumes.append(np.broadcast_to(mask, (channels, *size)))
        labels.append(label)
    return torch.from_numpy(np.stack(volumes).astype(np.float32)), labels
