"""A whole cohort in a GPU's memory, where it fits: a batch is then an index there, and no step waits for a file."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

SHARE = 0.25  # of the GPU's free memory that volumes may take: the rest is for training, and for other processes
BLOCK = 2**28  # bytes copied at a time: a memory map is read as it goes, not held twice


class Resident:
    """Copies of one stored array [N, C, D, H, W], one a GPU, made when first asked for."""

    def __init__(self, volumes: npt.NDArray[Any]) -> None:
        self.volumes = volumes
        self.copies: dict[torch.device, Tensor | None] = {}

    def on(self, device: torch.device) -> Tensor | None:
        """The array on `device`, as stored; None on a CPU, and where it would take too much memory."""
        if device.type != "cuda":
            return None
        if device not in self.copies:
            free, _ = torch.cuda.mem_get_info(device)
            self.copies[device] = self._copied(device) if self.volumes.nbytes <= SHARE * free else None
        return self.copies[device]

    def _copied(self, device: torch.device) -> Tensor:
        rows = max(1, BLOCK // max(1, self.volumes[:1].nbytes))
        parts = (self.volumes[first : first + rows] for first in range(0, len(self.volumes), rows))
        return torch.cat([torch.from_numpy(part.copy()).to(device) for part in parts])
