"""Where workers compute: on a CPU, on one GPU, or spread over all GPUs of the machine."""

from __future__ import annotations

import os
from itertools import chain, cycle, islice, zip_longest

import torch

MOST_ON_GPU = 4  # workers
MEMORY_EACH = 16 * 2**30  # bytes of a GPU: the paper preset's largest stage takes 8 of them


def gpus(device: str) -> tuple[str, ...]:
    """The GPUs that `device` names: ``cuda`` is all that PyTorch sees, ``cuda:1`` is one, ``cpu`` is none."""
    named = torch.device(device)
    if named.type != "cuda":
        return ()
    return (device,) if named.index is not None else tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))


def default_workers(device: str) -> int:
    """One a core on a CPU; on GPUs as many as have a place."""
    return len(_on_gpus(device)) or _cores()


def places(device: str, workers: int) -> tuple[str, ...]:
    """A device for each of `workers`: GPUs in turn, so that few workers too are spread over all of them."""
    return tuple(islice(cycle(_on_gpus(device) or (device,)), workers))


def in_words(device: str) -> str:
    """`device` for a person."""
    found = gpus(device)
    return f"{len(found)} GPUs" if len(found) > 1 else device


def _on_gpus(device: str) -> tuple[str, ...]:
    """Each GPU as often as it is to have a worker: several times where its memory is large.

    Small networks wait for Python, not for it; but a worker wants two cores.
    """
    found = gpus(device)
    share = _cores() // 2 // max(1, len(found))
    rounds = zip_longest(*([gpu] * max(1, min(MOST_ON_GPU, share, _room(gpu))) for gpu in found))
    return tuple(gpu for gpu in chain.from_iterable(rounds) if gpu is not None)


def _room(gpu: str) -> int:
    memory: int = torch.cuda.get_device_properties(torch.device(gpu)).total_memory
    return memory // MEMORY_EACH


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
