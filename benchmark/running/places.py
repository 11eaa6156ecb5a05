"""Where workers compute: on a CPU, on one GPU, or spread over all GPUs of the machine."""

from __future__ import annotations

import os
from itertools import chain, cycle, islice, zip_longest

import torch

from voxbench.benchmark.settings.errors import BenchError

MOST_ON_GPU = 4  # workers
MEMORY_EACH = 16 * 2**30  # bytes of a GPU: the paper preset's largest stage takes 8 of them


def gpus(device: str) -> tuple[str, ...]:
    """The GPUs that `device` names: ``cuda`` is all that PyTorch sees, ``cuda:1`` is one, ``cpu`` is none."""
    named = torch.device(device)
    if named.type != "cuda":
        return ()
    return (device,) if named.index is not None else tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))


def default_workers(device: str, each: int = 1) -> int:
    """One a core on a CPU; on GPUs as many as have a place. With `each` > 1 as many as have so many to themselves."""
    if each > 1:
        return max(1, (len(gpus(device)) or _cores()) // each)
    return len(_on_gpus(device)) or _cores()


def places(device: str, workers: int) -> tuple[str, ...]:
    """A device for each of `workers`: GPUs in turn, so that few workers too are spread over all of them."""
    return tuple(islice(cycle(_on_gpus(device) or (device,)), workers))


def groups(device: str, workers: int, each: int) -> tuple[tuple[str, ...], ...]:
    """For each of `workers` the devices that its stages are divided over; on the first it does all else.

    Several on one GPU with `each` = 1; with more, each has its GPUs to itself. Raises BenchError where there are too
    few. A CPU has room for any number.
    """
    if each == 1:
        return tuple((place,) for place in places(device, workers))
    found = gpus(device)
    if torch.device(device).type != "cuda":
        return ((device,) * each,) * workers
    if len(found) < each:
        raise BenchError(
            f"--gpus-per-stage {each}: --device {device} is {len(found)} GPU{'s' if len(found) > 1 else ''} here: "
            f"use {max(1, len(found))}" + (", or --device cuda" if torch.device(device).index is not None else "")
        )
    if len(found) < each * workers:
        raise BenchError(
            f"--workers {workers}: {len(found)} GPUs are enough for {len(found) // each} with --gpus-per-stage {each}: "
            "leave --workers out"
        )
    return tuple(found[number * each : (number + 1) * each] for number in range(workers))


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
