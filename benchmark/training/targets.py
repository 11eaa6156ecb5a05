"""Target maps of a stage: made when first asked for, then kept beside the stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from voxbench.datasets.volumes.bank import VolumeBank


class Targets:
    """Maps [len(members), C, D, H, W] in float16, in the order of `members`, made on demand.

    A small budget does not see every volume, and a map can cost more than a training step (the median filter of
    residual-SSL does). Each is made from its volume alone, so that it does not depend on the batch it came in.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[[Tensor], Tensor],
        module: nn.Module,
        bank: VolumeBank,
        members: Sequence[int],
        device: torch.device,
    ) -> None:
        """`make` is `Stage.targets`; `module` is put in eval mode while it runs."""
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(members), *bank.shape)
        maps = _array(folder / "targets.npy", np.float16, shape)
        made = _array(folder / "targets-made.npy", np.bool_, (len(members),))
        if maps is None or made is None:  # new, or one of the two was cut short by a kill
            maps = open_memmap(folder / "targets.npy", mode="w+", dtype=np.float16, shape=shape)
            made = open_memmap(folder / "targets-made.npy", mode="w+", dtype=np.bool_, shape=(len(members),))
        self.maps, self.made = maps, made
        self.make = make
        self.module = module
        self.bank = bank
        self.members = members
        self.device = device

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """The maps of these rows, float32 [B, C, D, H, W] on the device."""
        missing = [row for row in rows if not self.made[row]]
        if missing:
            with torch.no_grad(), evaluating(self.module):
                for row in missing:
                    self.maps[row] = self.make(self.bank.batch([self.members[row]], self.device))[0].cpu().numpy()
                    self.made[row] = True
        return torch.from_numpy(self.maps[list(rows)]).to(self.device, torch.float32)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for a block."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap | None:
    """The array in `path`; None if there is none, or not a whole one of this shape."""
    try:
        found = open_memmap(path, mode="r+")
    except (FileNotFoundError, ValueError):
        return None
    return found if found.shape == shape and found.dtype == dtype else None
