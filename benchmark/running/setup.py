"""From a configuration to opened data: what the command line needs once, and every worker process again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from voxbench.benchmark.records.store import Store
from voxbench.benchmark.running.followers import Followers
from voxbench.benchmark.running.places import groups
from voxbench.benchmark.settings.assemble import build_dataset
from voxbench.benchmark.settings.config import Config, Runtime
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.precision import dtype_for
from voxbench.datasets.views.policies import policies
from voxbench.datasets.volumes.bank import VolumeBank, open_bank


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What travels to a worker process; it opens the rest itself."""

    config: Config
    runtime: Runtime
    bank: Path  # folder of the volume bank, complete
    provenance: Mapping[str, Any]
    closed: frozenset[int] = frozenset()  # rows of the bank that nothing may read

    group: tuple[str, ...] = ()  # devices that a stage is divided over, the runtime's first; () = as the runtime says

    def on(self, group: tuple[str, ...]) -> Setup:
        """The same for work on these devices."""
        return replace(self, runtime=self.runtime.model_copy(update={"device": group[0]}), group=group)

    @contextmanager
    def opened(self) -> Iterator[Context]:
        """The context of this process, and with it the processes that share its stages."""
        runtime = self.runtime
        if runtime.gpus_per_stage == 1:
            with self.opened_alone(runtime.device) as context:
                yield context
            return
        group = self.group or groups(runtime.device, 1, runtime.gpus_per_stage)[0]
        followers = Followers(self.opened_alone, group, runtime.threads)
        try:
            with self.opened_alone(group[0]) as context:
                yield replace(context, company=followers)
        finally:
            followers.end()

    @contextmanager
    def opened_alone(self, name: str) -> Iterator[Context]:
        """A process's own context on the device of this name."""
        device = torch.device(name)
        yield Context(
            config=self.config,
            dataset=build_dataset(self.config, self.runtime.data_root),
            bank=VolumeBank(self.bank, self.closed),
            store=Store(self.runtime.out),
            policies=policies(self.config.augmentation),
            device=device,
            precision=dtype_for(self.runtime.precision, device),
            recompute=self.runtime.recompute,
        )


def prepare_bank(config: Config, runtime: Runtime, progress: Callable[[int, int], None]) -> VolumeBank:
    """Checks and reads the whole dataset once; later runs open the same bank. Raises DatasetError."""
    dataset = build_dataset(config, runtime.data_root)
    dataset.progress = progress
    return open_bank(dataset, runtime.cache, progress)


def resolve_device(name: str) -> str:
    """``auto`` is a GPU where there is one. Raises BenchError for a device that PyTorch does not have."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BenchError(f"--device {name}: not a device: choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise BenchError(f"--device {name}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BenchError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs: use --device cpu")
    return name
