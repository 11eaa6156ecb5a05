"""Target maps of a stage: made when first asked for, then kept beside the stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from voxbench.benchmark.settings.errors import ContractError
from voxbench.datasets.volumes.bank import VolumeBank
from voxbench.datasets.volumes.resident import SHARE

MAPS_TOGETHER = 32  # on a GPU: more would gain nothing, and a median's windows take memory


class Targets:
    """Maps [len(members), C, D, H, W] in float16, in the order of `members`, made on demand.

    A small budget does not see every volume, and a map can cost more than a training step (the median filter of
    residual-SSL does). On a CPU each is made from its volume alone, so that it does not depend on the batch it came
    in, and kept in a file for a stage that is interrupted. On a GPU those of a batch are made together and stay there
    where they fit.
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
        shape = (len(members), *bank.shape)
        self.maps, self.made = _on_gpu(shape, device) or _in_files(folder, shape)
        self.together = MAPS_TOGETHER if device.type == "cuda" else 1
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
                for first in range(0, len(missing), self.together):
                    some = missing[first : first + self.together]
                    volumes = self.bank.batch([self.members[row] for row in some], self.device)
                    maps = self.make(volumes)
                    if maps.shape != volumes.shape:
                        raise ContractError(
                            f"its targets give {list(maps.shape)} for volumes {list(volumes.shape)}: give maps of the "
                            "same shape"
                        )
                    self.maps[some] = maps.to(self.maps.device, torch.float16)
                    self.made[some] = True
        return self.maps[list(rows)].to(self.device, torch.float32)


def _on_gpu(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Room for maps, and which are made; None on a CPU, and where they would take too much memory."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if 2 * math.prod(shape) > SHARE * free:
        return None
    return torch.empty(shape, dtype=torch.float16, device=device), torch.zeros(shape[0], dtype=torch.bool)


def _in_files(folder: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The same in memory maps of two files, kept from a stage that was interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    maps = _array(folder / "targets.npy", np.float16, shape)
    made = _array(folder / "targets-made.npy", np.bool_, shape[:1])
    if maps is None or made is None:  # new, or one of the two was cut short by a kill
        maps = open_memmap(folder / "targets.npy", mode="w+", dtype=np.float16, shape=shape)
        made = open_memmap(folder / "targets-made.npy", mode="w+", dtype=np.bool_, shape=shape[:1])
    return torch.from_numpy(maps), torch.from_numpy(made)  # they share the files' memory


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for a block."""
    with in_mode(module, training=False):
        yield


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or eval mode for a block; then each part is as it was."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap | None:
    """The array in `path`; None if there is none, or not a whole one of this shape."""
    try:
        found = open_memmap(path, mode="r+")
    except (FileNotFoundError, ValueError):
        return None
    return found if found.shape == shape and found.dtype == dtype else None
