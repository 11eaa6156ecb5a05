"""What a worker process has open: the configuration, the volumes, the store and the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.records.store import Store
from voxbench.benchmark.settings.config import Config, Recompute
from voxbench.benchmark.training.ranks import ALONE, Ranks
from voxbench.datasets.base import Dataset
from voxbench.datasets.views.augment import Policy
from voxbench.datasets.volumes.bank import VolumeBank

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all); raises StoppedError where the job is to be left at this step."""


class StoppedError(BaseException):
    """The run is to end, and this job with it: no failure, and nothing that catches failures may keep it."""


Company = Callable[[StagePlan, Recompute], AbstractContextManager[Ranks]]
"""For the span of a ``with``: the processes that take a stage's steps together, of which this one leads."""


@contextmanager
def alone(plan: StagePlan, recompute: Recompute) -> Iterator[Ranks]:
    """This process by itself."""
    del plan, recompute
    yield ALONE


@dataclass(frozen=True, kw_only=True)
class Context:
    """Opened once a process."""

    config: Config
    dataset: Dataset
    bank: VolumeBank
    store: Store
    policies: Mapping[str, Policy]
    device: torch.device
    precision: torch.dtype = torch.float32  # of forward passes in training
    recompute: Recompute = "auto"
    large: set[str] = field(default_factory=set)  # kinds of job that were seen not to fit in memory as they are
    company: Company = alone
