"""In which type forward passes compute: float32, or bfloat16 where that is faster and its numbers hold."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from voxbench.benchmark.settings.config import Precision
from voxbench.benchmark.settings.errors import BenchError
from voxbench.methods.parts.autocast import autocast

AS_FAR_AS = 0.05  # of a gradient's length: bfloat16 keeps 8 bits, and a small network is off by a hundredth or two


def dtype_for(precision: Precision, device: torch.device) -> torch.dtype:
    """What `precision` means on `device`. ``auto`` is bfloat16 on a GPU, and on a CPU with AMX that passes `holds`.

    Raises BenchError where bfloat16 is asked for and this processor computes something else with it.
    """
    if precision == "float32":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    if precision == "auto":
        return torch.bfloat16 if has_amx() and holds() else torch.float32
    if not holds():
        raise BenchError(
            "--precision bfloat16: this processor's gives gradients that are not those of float32: take auto"
        )
    return torch.bfloat16


def has_amx() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in hardware. Others convert, and gain nothing."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux: no PyTorch there uses AMX
        return False


@cache
def holds() -> bool:
    """Whether a training step in bfloat16 has the gradients of one in float32, here: on one AMD they were NaN."""
    exact, rough = (_gradients(kind) for kind in (torch.float32, torch.bfloat16))
    return bool((exact - rough).norm() <= AS_FAR_AS * exact.norm())  # False for NaN


def _gradients(kind: torch.dtype) -> torch.Tensor:
    """Of one step of a small encoder's layers, in one vector."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.Conv3d(16, 32, 3, 2, padding=1),
            nn.BatchNorm3d(32), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 2),
        ).to(memory_format=torch.channels_last_3d)  # fmt: skip
        volumes = torch.rand(8, 1, 16, 16, 16)
    with autocast(torch.device("cpu"), kind):
        scores = network(volumes)
    functional.cross_entropy(scores.float(), torch.arange(8) % 2).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
