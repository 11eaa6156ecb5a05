"""Target maps of a stage: made when first asked for, then kept beside the stage."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voxbench.benchmark.records.store import TARGETS
from voxbench.benchmark.settings.errors import ContractError
from voxbench.datasets.volumes.bank import VolumeBank
from voxbench.datasets.volumes.resident import SHARE

_SEAL = hashlib.sha256().digest_size
MAPS_TOGETHER = 32  # on a GPU: more would gain nothing, and a median's windows take memory


class Targets:
    """Maps [len(members), C, D, H, W] in float16, in the order of `members`, made on demand.

    A small budget does not see every volume, and a map can cost more than a training step (the median filter of
    residual-SSL does). On a CPU each is made from its volume alone, so that it does not depend on the batch it came
    in, and kept in a file, under its seal, for a stage that is interrupted. On a GPU those of a batch are made together
    and stay there where they fit.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[[Tensor], Tensor],
        module: nn.Module,
        bank: VolumeBank,
        members: Sequence[int],
        device: torch.device,
        *,
        writes: bool = True,
    ) -> None:
        """`make` is `Stage.targets`; `module` is put in eval mode while it runs. One process alone `writes`."""
        shape = (len(members), *bank.shape)
        self.kept = _OnGpu(shape, device) if _fits(shape, device) else _InFile(folder / TARGETS, shape, writes)
        self.together = MAPS_TOGETHER if device.type == "cuda" else 1
        self.make = make
        self.module = module
        self.bank = bank
        self.members = members
        self.device = device

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """The maps of these rows, float32 [B, C, D, H, W] on the device."""
        maps = self.kept.read(rows)
        missing = [row for row in rows if row not in maps]
        if missing:
            with torch.no_grad(), evaluating(self.module):
                for first in range(0, len(missing), self.together):
                    some = missing[first : first + self.together]
                    made = self._made(some)
                    self.kept.write(some, made)
                    maps |= zip(some, made, strict=True)
        return torch.stack([maps[row] for row in rows]).to(self.device, torch.float32)

    def _made(self, rows: Sequence[int]) -> Tensor:
        """[B, C, D, H, W] float16. Raises MethodError for maps of another shape than their volumes."""
        volumes = self.bank.batch([self.members[row] for row in rows], self.device)
        maps = self.make(volumes)
        if maps.shape != volumes.shape:
            raise ContractError(
                f"its targets give {list(maps.shape)} for volumes {list(volumes.shape)}: give maps of the same shape"
            )
        return maps.to(torch.float16)


class _OnGpu:
    """Maps in one tensor."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.maps = torch.empty(shape, dtype=torch.float16, device=device)
        self.there: set[int] = set()

    def read(self, rows: Sequence[int]) -> dict[int, Tensor]:
        """Those of these rows that are there."""
        return {row: self.maps[row] for row in rows if row in self.there}

    def write(self, rows: Sequence[int], maps: Tensor) -> None:
        """Keeps maps [B, C, D, H, W]."""
        self.maps[list(rows)] = maps
        self.there.update(rows)


class _InFile:
    """Maps in a file, each behind the SHA-256 of its place and content.

    A map that was cut, that a bit of was flipped or that a killed process half wrote counts as absent. Read and
    written, and not mapped into memory: a full disk is then an error and not a crash.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], writes: bool) -> None:
        self.path = path
        self.writes = writes
        self.shape = shape[1:]
        self.size = _SEAL + 2 * math.prod(self.shape)

    def read(self, rows: Sequence[int]) -> dict[int, Tensor]:
        """Those of these rows that are there, whole."""
        maps = {}
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            for row in rows:
                file.seek(row * self.size)
                content = file.read(self.size)
                if content[:_SEAL] == self._seal(row, content[_SEAL:]):
                    map_ = np.frombuffer(content, np.float16, offset=_SEAL).reshape(self.shape)
                    maps[row] = torch.from_numpy(map_.copy())
        return maps

    def write(self, rows: Sequence[int], maps: Tensor) -> None:
        """Keeps maps [B, C, D, H, W], or leaves that to another process, which has made the same."""
        if not self.writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            for row, map_ in zip(rows, maps, strict=True):
                content = map_.cpu().numpy().tobytes()
                file.seek(row * self.size)
                file.write(self._seal(row, content) + content)

    def _seal(self, row: int, content: bytes) -> bytes:
        return hashlib.sha256(row.to_bytes(8, "little") + content).digest()


def _fits(shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether maps may stay on the device: not on a CPU, nor where they would take too much memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * math.prod(shape) <= SHARE * free


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
