"""The common data loader: batches that depend on (seed, step) alone, so a stage can resume at any step, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from voxbench.datasets.views.augment import Policy
from voxbench.datasets.volumes.bank import VolumeBank


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one step is given."""

    views: tuple[Tensor, ...]  # each [B, C, D, H, W], on the device
    target: Tensor | None  # [B, C, D, H, W]: the map moved as views[0] was
    labels: Tensor | None  # [B] int64
    rng: torch.Generator  # CPU generator of this step


class Loader:
    """Augmented batches of `members` (positions in the bank), each epoch a fresh permutation.

    `seen` collects what was really served: the leak audit reads it.
    """

    def __init__(
        self,
        bank: VolumeBank,
        members: Sequence[int],
        *,
        batch: int,
        policy: Policy,
        seed: int,
        device: torch.device,
        views: int = 1,
        targets: Callable[[Sequence[int]], Tensor] | None = None,
        labelled: bool = False,
    ) -> None:
        """`targets` gives the maps [B, C, D, H, W] of rows of `members`, on the device."""
        self.bank = bank
        self.members = tuple(members)
        self.batch = min(batch, len(self.members))
        self.policy = policy
        self.seed = seed
        self.device = device
        self.views = views
        self.targets = targets
        self.labelled = labelled
        self.seen: set[int] = set()

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass; the volumes left over differ from epoch to epoch."""
        return len(self.members) // self.batch

    def rows(self, step: int) -> list[int]:
        """Which of `members` are in batch number `step`, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.members), generator=self._generator(0, epoch))
        rows: list[int] = order[place * self.batch : (place + 1) * self.batch].tolist()
        return rows

    def draw(self, step: int) -> Draw:
        """Batch number `step`, counted from 0."""
        rows = self.rows(step)
        chosen = [self.members[row] for row in rows]
        self.seen.update(chosen)
        rng = self._generator(1, step)
        volumes = self.bank.batch(chosen, self.device)  # [B, C, D, H, W]
        target = None if self.targets is None else self.targets(rows)
        views: list[Tensor] = []
        moved: Tensor | None = None
        for view in range(self.views):
            params = self.policy.sample(len(chosen), rng)
            image, maps = self.policy.apply(volumes, params, target=target if view == 0 else None)
            views.append(image)
            moved = maps if view == 0 else moved
        labels = torch.tensor([self.bank.items[i].label for i in chosen], device=self.device) if self.labelled else None
        return Draw(views=tuple(views), target=moved, labels=labels, rng=rng)

    def plain(self) -> Iterator[Tensor]:
        """All members without augmentation, in order, in batches."""
        for start in range(0, len(self.members), self.batch):
            members = self.members[start : start + self.batch]
            self.seen.update(members)
            yield self.bank.batch(members, self.device)

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        # Mixed so that neighbouring seeds, purposes and steps have unrelated streams (Knuth's and Weyl's constants).
        mixed = (self.seed * 6364136223846793005 + purpose * 1442695040888963407 + number * 0x9E3779B97F4A7C15) % 2**63
        return torch.Generator().manual_seed(mixed)
