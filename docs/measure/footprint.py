"""How much memory a training step takes at its peak, against what it cannot do without; a part of speed.py."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from voxbench.benchmark.records.costs import Meter
from voxbench.benchmark.training import speed
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.train import forward, optimise, start

BATCH = 8
STEPS = 3


def peak_to_needed(context: Context, what: str) -> float:
    """Peak of `what`, a method's first stage or "fine-tuning", to the sum of what a step needs at once.

    That is weights, gradients, the optimiser's state, what forward keeps for backward, the batch, and resident data.
    On a CPU the process as it was before counts on neither side.
    """
    _warm(context.device)
    before = _held(context.device)
    with_own_start = speed.workloads(context, what, BATCH) if what != "fine-tuning" else iter(())
    work = next(with_own_start, None) or speed.finetuning(context, BATCH)
    training = start(work.module, work.recipe, STEPS, work.groups, work.precision)
    with Meter(context.device) as meter:
        optimise(training, work.loss, work.loader, work.recipe, hooks=work.hooks)
    state = [value for of in training.optimizer.state.values() for value in of.values() if isinstance(value, Tensor)]
    weights = [*work.module.parameters(), *work.module.buffers()]
    gradients = [p.grad for p in work.module.parameters() if p.grad is not None]
    needed = _bytes([*weights, *gradients, *state]) + _kept(work) + _resident(context)
    return (meter.peak_memory_mb * 2**20 - before) / needed


def _kept(work: speed.Workload) -> int:
    """Bytes of the batch and of what forward keeps for backward, weights apart."""
    draw = work.loader.draw(0)
    batch = [*draw.views, *(one for one in (draw.target, draw.clean) if one is not None)]
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in work.module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = forward(work.loss, draw, work.loader.device, work.precision)
    apart = [one for one in batch if one.untyped_storage().data_ptr() not in kept]
    del value
    return sum(kept.values()) + _bytes(apart)


def _resident(context: Context) -> int:
    whole = context.bank._resident.on(context.device)
    return 0 if whole is None else whole.nbytes


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.untyped_storage().nbytes() for one in tensors)


def _held(device: torch.device) -> float:
    """Bytes that are in use now."""
    gc.collect()
    if device.type == "cuda":
        return 0.0  # its counter is of tensors alone
    with Meter(device) as meter:
        pass
    return meter.peak_memory_mb * 2**20


def _warm(device: torch.device) -> None:
    """Libraries load what they need at the first convolution."""
    x = torch.rand(2, 1, 8, 8, 8, device=device)
    net = nn.Sequential(nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8)).to(device)
    net(x).sum().backward()
