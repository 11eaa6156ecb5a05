"""What a worker process has open: the configuration, the volumes, the store and the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from voxbench.benchmark.config import Config
from voxbench.benchmark.store import Store
from voxbench.datasets.augment import Policy
from voxbench.datasets.bank import VolumeBank
from voxbench.datasets.base import Dataset

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Opened once a process."""

    config: Config
    dataset: Dataset
    bank: VolumeBank
    store: Store
    policies: Mapping[str, Policy]
    device: torch.device
