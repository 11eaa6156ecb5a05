"""The common data loader: batches that depend on (seed, step) alone, so a stage can resume at any step, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from voxbench.datasets.views.augment import Policy
from voxbench.datasets.volumes.bank import VolumeBank


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one step is given."""

    views: tuple[Tensor, ...]  # each [B, C, D, H, W], on the device
    target: Tensor | None  # [B, C, D, H, W]: the map moved as views[0] was
    labels: Tensor | None  # [B] int64
    rng: torch.Generator  # CPU generator of this step
    rows: tuple[int, ...] = ()  # [B] positions among the members
    clean: Tensor | None = None  # [B, C, D, H, W]: the volumes moved as views[0] was


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one view is made."""

    policy: Policy
    size: float = 1.0  # of each side, as a share of the volume's

    def resized(self, x: Tensor) -> Tensor:
        """x [B, C, D, H, W] at this look's size: means of the voxels that fall together."""
        if self.size == 1.0:
            return x
        depth, height, width = (max(1, round(self.size * side)) for side in x.shape[2:])
        return functional.adaptive_avg_pool3d(x, (depth, height, width))


class Plain:
    """Volumes of a loader's bank as they are, in batches [B, C, D, H, W], each time that they are gone through."""

    def __init__(self, loader: Loader, members: Sequence[int]) -> None:
        self.loader, self.members = loader, members

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.members), self.loader.batch):
            members = self.members[start : start + self.loader.batch]
            self.loader.seen.update(members)
            yield self.loader.bank.batch(members, self.loader.device)


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
        looks: Sequence[Look] = (),
        targets: Callable[[Sequence[int]], Tensor] | None = None,
        labelled: bool = False,
        clean: bool = False,
    ) -> None:
        """`targets` gives the maps [B, C, D, H, W] of rows of `members`, on the device.

        `looks`, where given, are made in place of as many `views` by one `policy`.
        """
        self.bank = bank
        self.members = tuple(members)
        self.batch = min(batch, len(self.members))
        self.looks = tuple(looks) or (Look(policy=policy),) * views
        self.seed = seed
        self.device = device
        self.targets = targets
        self.clean = clean
        self.labelled = labelled
        self.seen: set[int] = set()

    @cached_property
    def patients(self) -> tuple[int, ...]:
        """A number a patient, for each of `members`."""
        names = [self.bank.items[i].patient for i in self.members]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return tuple(numbers[name] for name in names)

    @property
    def volumes_per_step(self) -> float:
        """Volumes that its views are: two count as two, and a small one by its share of voxels."""
        return self.batch * sum(look.size**3 for look in self.looks)

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
        along = {} if self.targets is None else {"target": self.targets(rows)}
        along |= {"clean": volumes} if self.clean else {}
        views, moved = self._views(volumes, along, rng)
        labels = torch.tensor([self.bank.items[i].label for i in chosen], device=self.device) if self.labelled else None
        return Draw(views=views, labels=labels, rng=rng, rows=tuple(rows), **{"target": None, **moved})

    def _views(
        self, volumes: Tensor, along: Mapping[str, Tensor], rng: torch.Generator
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """The views, and the maps of `along` moved as the first of them."""
        views: list[Tensor] = []
        moved: dict[str, Tensor] = {}
        for number, look in enumerate(self.looks):
            params = look.policy.sample(len(volumes), rng)
            maps = torch.cat([*along.values()], dim=1) if along and number == 0 else None
            image, maps = look.policy.apply(volumes, params, target=maps)
            views.append(look.resized(image))
            if maps is not None:
                parts = torch.split(maps, [one.shape[1] for one in along.values()], dim=1)
                moved = {name: look.resized(part) for name, part in zip(along, parts, strict=True)}
        return tuple(views), moved

    def plain(self, members: Sequence[int] | None = None) -> Plain:
        """All of its members, or others, without augmentation, in order, in batches."""
        return Plain(self, self.members if members is None else members)

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        # Mixed so that neighbouring seeds, purposes and steps have unrelated streams (Knuth's and Weyl's constants).
        mixed = (self.seed * 6364136223846793005 + purpose * 1442695040888963407 + number * 0x9E3779B97F4A7C15) % 2**63
        return torch.Generator().manual_seed(mixed)
