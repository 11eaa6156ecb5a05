"""Workers are spread over the GPUs of a machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from voxbench.benchmark.running import local, places
from voxbench.benchmark.running.processes import start_method
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.errors import BenchError

GIB = 2**30
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with so many cores and GPUs of so much memory."""

    def install(cores: int, *memory: int) -> None:
        properties: Mapping[int, SimpleNamespace] = {i: SimpleNamespace(total_memory=m) for i, m in enumerate(memory)}
        monkeypatch.setattr(places, "_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])

    return install


@pytest.mark.parametrize(
    ("cores", "memory", "expected"),
    [
        (32, (80 * GIB,), ["cuda:0"] * 4),
        (32, (80 * GIB, 80 * GIB), ["cuda:0", "cuda:1"] * 4),
        (8, (80 * GIB, 80 * GIB), ["cuda:0", "cuda:1"] * 2),
        (2, (80 * GIB, 80 * GIB), ["cuda:0", "cuda:1"]),  # a worker a GPU, however few the cores
        (32, (8 * GIB, 40 * GIB), ["cuda:0", "cuda:1", "cuda:1"]),
    ],
)
def test_a_gpu_has_a_worker_or_several_by_memory_and_cores(
    machine: Machine, cores: int, memory: tuple[int, ...], expected: list[str]
) -> None:
    machine(cores, *memory)
    assert places.default_workers("cuda") == len(expected)
    assert list(places.places("cuda", len(expected))) == expected


def test_fewer_or_more_workers_are_spread_as_well(machine: Machine) -> None:
    machine(64, 80 * GIB, 80 * GIB, 80 * GIB)
    assert places.places("cuda", 3) == ("cuda:0", "cuda:1", "cuda:2")
    machine(2, 8 * GIB, 8 * GIB)
    assert places.places("cuda", 5) == ("cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0")


def test_a_gpu_that_is_named_is_the_only_one(machine: Machine) -> None:
    machine(32, 80 * GIB, 40 * GIB)
    assert places.places("cuda:1", 3) == ("cuda:1",) * 3
    assert places.default_workers("cuda:1") == 2
    assert (places.in_words("cuda"), places.in_words("cuda:1"), places.in_words("cpu")) == ("2 GPUs", "cuda:1", "cpu")


def test_stages_that_gpus_share_have_them_to_themselves(machine: Machine) -> None:
    machine(32, *(80 * GIB,) * 5)
    assert places.default_workers("cuda", 2) == 2
    assert places.groups("cuda", 2, 2) == (("cuda:0", "cuda:1"), ("cuda:2", "cuda:3"))
    assert places.groups("cuda", 1, 5) == (("cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4"),)
    assert places.groups("cuda", 6, 1) == tuple((place,) for place in places.places("cuda", 6))
    assert places.groups("cpu", 2, 3) == (("cpu",) * 3,) * 2
    assert places.default_workers("cpu", 3) == 10


@pytest.mark.parametrize(
    ("device", "workers", "each", "said"),
    [
        ("cuda", 1, 3, "--gpus-per-stage 3: --device cuda is 2 GPUs here: use 2"),
        ("cuda:1", 1, 2, "--gpus-per-stage 2: --device cuda:1 is 1 GPU here: use 1, or --device cuda"),
        ("cuda", 2, 2, "--workers 2: 2 GPUs are enough for 1 with --gpus-per-stage 2: leave --workers out"),
    ],
)
def test_too_few_gpus_are_one_line(machine: Machine, device: str, workers: int, each: int, said: str) -> None:
    machine(32, 80 * GIB, 80 * GIB)
    with pytest.raises(BenchError) as error:
        places.groups(device, workers, each)
    assert str(error.value) == said


def test_a_cpu_has_a_worker_a_core(machine: Machine) -> None:
    machine(6, 80 * GIB)
    assert places.default_workers("cpu") == 6
    assert places.places("cpu", 2) == ("cpu", "cpu")


def test_each_worker_process_takes_a_place_of_its_own(planned: Callable[..., Run]) -> None:
    setup, processes = planned().setup(), start_method()
    messages, ending, free = processes.Queue(), processes.RawValue("b", 0), processes.SimpleQueue()
    for place in ("cuda:0", "cuda:1"):
        free.put((place,))
    given = (setup, dict(os.environ), messages, ending, free)
    with ProcessPoolExecutor(2, processes, local._start_worker, given) as pool:
        found = set(pool.map(place_of_worker, range(8)))
    assert found == {"cuda:0", "cuda:1"}
    messages.cancel_join_thread()


def place_of_worker(_: int) -> str:
    """Where the process computes that is asked; it waits, so that the other is asked too."""
    time.sleep(1.0)
    return str(local._worker["setup"].runtime.device)
