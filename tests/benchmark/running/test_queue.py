"""The order of jobs, and how often one is tried."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from voxbench.benchmark.running import queue as queues
from voxbench.benchmark.running.queue import Queue, Task
from voxbench.benchmark.running.work import NonFiniteLossError, may_pass
from voxbench.benchmark.settings.errors import BenchError


def task(key: str, *after: str) -> Task:
    job: Any = SimpleNamespace(key=key)
    return Task(job=job, after=after)


def taken(queue: Queue) -> list[str]:
    """What may start now."""
    found = []
    while (each := queue.next()) is not None:
        found.append(each.job.key)
    return found


def test_a_job_waits_for_all_that_it_builds_on_and_not_for_what_is_done_already() -> None:
    queue = Queue([task("a"), task("b", "a"), task("c", "a", "b", "done before")], retries=1)
    assert taken(queue) == ["a"]
    queue.end("a", "ok")
    assert taken(queue) == ["b"]
    queue.end("b", "failed")
    assert taken(queue) == ["c"]
    assert queue.broken_dependency(queue.tasks["c"]) == "b"
    assert queue.left == 0


def test_jobs_start_in_their_order() -> None:
    queue = Queue([task("s"), *(task(str(i), *(["s"] if i % 2 else [])) for i in range(6))], retries=1)
    assert taken(queue) == ["s", "0", "2", "4"]
    queue.end("s", "ok")
    assert taken(queue) == ["1", "3", "5"]


def test_a_busy_job_is_asked_for_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue([task("a"), task("b", "a")], retries=0)
    monkeypatch.setattr(queues, "BUSY_RETRY_S", 0.05)
    taken(queue)
    assert queue.end("a", "busy") == "busy"
    assert queue.left == 2
    assert taken(queue) == []
    queues.time.sleep(0.06)
    assert taken(queue) == ["a"]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_passing_failure_is_tried_again_after_all_others(retries: int) -> None:
    queue = Queue([task("a"), task("b"), task("c")], retries=retries)
    assert queue.next() is queue.tasks["a"]
    for _ in range(retries):
        assert queue.end("a", "again") == "again"
        found = taken(queue)
        assert found[-1] == "a"
    assert queue.end("a", "again") == "failed"
    assert queue.outcomes == {"a": "failed"}


def test_a_job_whose_worker_died_comes_first_and_not_for_ever() -> None:
    queue = Queue([task("a"), task("b")], retries=1)
    assert queue.next() is queue.tasks["a"]
    assert queue.again("a")
    assert queue.suspects
    assert taken(queue) == ["a", "b"]
    assert not queue.again("a")
    queue.end("a", "failed")
    assert not queue.suspects


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (OSError(errno.ESTALE, "stale"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (BenchError("a wrong setting"), False),
        (NonFiniteLossError("the loss is nan"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, passes: bool) -> None:
    assert may_pass(error) == passes


def test_memory_that_the_cpu_does_not_have_may_be_there_later() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert may_pass(caught.value)
