"""Principal components of more volumes than fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

OVERSAMPLED = 10  # directions beside those that are wanted
PASSES = 3  # over the volumes; each takes the directions nearer to the components

Batches = Callable[[], Iterator[Tensor]]


class Components:
    """The mean of rows [N, F], and the directions in which they vary most, the first one most.

    By subspace iteration from random directions (Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4), of
    which each step is one pass over batches: no more than F x (components + 10) numbers are kept.
    """

    def __init__(self, rows: Batches, count: int, seed: int) -> None:
        """`rows` gives all rows again at each call, in batches [B, F]; of fewer rows there are fewer components."""
        self.mean, n = _mean(rows)
        count = min(count, n - 1, len(self.mean))
        if count < 1:
            raise ValueError(f"{n} rows have no principal component: at least two are needed")
        start = np.random.default_rng(seed).standard_normal((len(self.mean), min(count + OVERSAMPLED, len(self.mean))))
        basis = _orthonormal(torch.from_numpy(start).float())
        for _ in range(PASSES):
            basis = _orthonormal(sum((one.T @ (one @ basis) for one in self._centred(rows)), torch.zeros_like(basis)))
        # What is left of the problem is small: the directions within the subspace, by how much rows vary along them.
        along = [(one @ basis).double() for one in self._centred(rows)]
        spread = torch.stack([part.T @ part for part in along]).sum(dim=0) / (n - 1)
        variances, directions = torch.linalg.eigh(spread)  # ascending
        self.variances = variances.flip(0)[:count]
        self.directions = basis @ directions.flip(1)[:, :count].float()  # [F, components]

    def of(self, rows: Tensor) -> Tensor:
        """Rows [B, F] as [B, components]."""
        weights: Tensor = (rows.float().cpu() - self.mean) @ self.directions
        return weights

    def _centred(self, rows: Batches) -> Iterator[Tensor]:
        return (batch.float().cpu() - self.mean for batch in rows())


def _mean(rows: Batches) -> tuple[Tensor, int]:
    total, n = torch.zeros(1, dtype=torch.float64), 0
    for batch in rows():
        total = total + batch.cpu().double().sum(dim=0)
        n += len(batch)
    return (total / max(n, 1)).float(), n


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis
