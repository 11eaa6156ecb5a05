"""Volumes of a bank as a predictor is handed them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from voxbench.datasets.volumes.bank import VolumeBank
from voxbench.methods.base import Volumes

BATCH = 64
SAMPLE = 32  # volumes that tell what those of a data set look like


class BankVolumes(Volumes):
    """Rows of a bank, some at a time; `seen` holds those that were served, for the leak audit."""

    def __init__(self, bank: VolumeBank, members: Sequence[int], device: torch.device) -> None:
        self.bank = bank
        self.members = members
        self.device = device
        self.seen: set[int] = set()

    def __len__(self) -> int:
        return len(self.members)

    def batches(self) -> Iterator[Tensor]:
        """All of them in order."""
        for first in range(0, len(self.members), BATCH):
            rows = self.members[first : first + BATCH]
            self.seen.update(rows)
            yield self.bank.batch(rows, self.device)

    @property
    def seen_hashes(self) -> list[str]:
        """Of the volumes that were served, sorted."""
        return sorted(self.bank.hashes[i] for i in self.seen)


def sample(bank: VolumeBank) -> BankVolumes:
    """Some volumes from all over a bank, none that is closed."""
    rows = [i for i in range(len(bank)) if i not in bank.closed]
    return BankVolumes(bank, rows[:: max(1, len(rows) // SAMPLE)], torch.device("cpu"))
