"""Carrying out jobs on this machine: in this process, or in several worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.running.work import Job, Outcome, StageFailedError, failure, perform, recorded, save
from voxbench.benchmark.training.context import Context

BUSY_RETRY_S = 5.0
PROGRESS_EVERY_S = 0.2
TRIES = 2  # of a job whose worker process died
PREFIX = "its pretraining failed: "

Event = tuple[Literal["start", "progress", "end"], str, Any]
Listener = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job and the keys of the jobs that must have ended before it."""

    job: Job
    after: tuple[str, ...]


class WorkerDiedError(RuntimeError):
    """A worker process ended in the middle of a job."""


def run_tasks(tasks: Sequence[Task], setup: Setup, workers: int, listen: Listener) -> None:
    """Carries out all tasks, dependencies first; a job whose dependency failed is recorded as failed.

    `listen` gets ("start", key, None), ("progress", key, (done, total)) and ("end", key, outcome), in this process.
    """
    queue = _Queue(tasks)
    with setup.opened() as context:
        if workers <= 1:
            _in_process(queue, setup, context, listen)
        else:
            _in_pool(queue, setup, context, workers, listen)


class _Queue:
    """Which job is next: stages before cells, since cells wait for them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = {task.job.key: task for task in tasks}
        self.waiting = list(self.tasks)
        self.outcomes: dict[str, Outcome] = {}
        self.not_before: dict[str, float] = {}
        self.tries: dict[str, int] = {}

    @property
    def suspects(self) -> bool:
        """Whether a job whose worker died has not ended yet."""
        return any(key not in self.outcomes for key in self.tries)

    def next(self) -> Task | None:
        """A task that may start now, taken from the queue."""
        now = time.monotonic()
        for key in self.waiting:
            task = self.tasks[key]
            ended = all(other in self.outcomes for other in task.after if other in self.tasks)
            if ended and self.not_before.get(key, 0.0) <= now:
                self.waiting.remove(key)
                return task
        return None

    def broken_dependency(self, task: Task) -> str | None:
        """A dependency that failed."""
        return next((other for other in task.after if self.outcomes.get(other) == "failed"), None)

    def end(self, key: str, outcome: Outcome) -> None:
        """Notes how a job ended; a busy one is asked for again later."""
        if outcome == "busy":
            self.not_before[key] = time.monotonic() + BUSY_RETRY_S
            self.waiting.append(key)
        else:
            self.outcomes[key] = outcome

    def again(self, key: str) -> bool:
        """Puts a job back whose worker died; False when that has happened too often."""
        self.tries[key] = self.tries.get(key, 1) + 1
        if self.tries[key] > TRIES:
            return False
        self.waiting.insert(0, key)
        return True


def _in_process(queue: _Queue, setup: Setup, context: Context, listen: Listener) -> None:
    with _threads(setup.runtime.threads):
        while queue.waiting:
            task = queue.next()
            if task is None:
                time.sleep(BUSY_RETRY_S / 10)
                continue
            key = task.job.key
            if _failed_before(queue, task, context, setup, listen):
                continue
            listen(("start", key, None))

            def report(done: int, total: int, key: str = key) -> None:
                listen(("progress", key, (done, total)))

            outcome = perform(context, task.job, setup.provenance, report)
            queue.end(key, outcome)
            listen(("end", key, outcome))


def _in_pool(queue: _Queue, setup: Setup, context: Context, workers: int, listen: Listener) -> None:
    spawn = multiprocessing.get_context("spawn")
    messages = spawn.Queue()
    pump = threading.Thread(target=_pump, args=(messages, listen), daemon=True)
    pump.start()
    try:
        while queue.waiting:
            pool = ProcessPoolExecutor(workers, spawn, _start_worker, (setup, messages))
            try:
                _drive(pool, queue, setup, context, workers, listen)
                pool.shutdown()
            except BaseException:
                # Ctrl-C, or a bug: do not wait for jobs that may take hours. Claims of the dead count as stale.
                processes = list((pool._processes or {}).values())
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.join(5.0)
                    process.kill()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        messages.put(None)
        pump.join(timeout=5)


def _drive(
    pool: ProcessPoolExecutor, queue: _Queue, setup: Setup, context: Context, workers: int, listen: Listener
) -> None:
    """Feeds the pool until the queue is empty, or the pool has broken: then its jobs are back in the queue."""
    running: dict[Future[Outcome], Task] = {}
    while queue.waiting or running:
        # No more than can start at once: so what runs when a worker dies is known, and the order can still change.
        # After a death the jobs that were at work run one by one, so that the next death tells whose fault it is.
        limit = 1 if queue.suspects else workers
        while len(running) < limit and (task := queue.next()) is not None:
            if not _failed_before(queue, task, context, setup, listen):
                running[pool.submit(_work, task.job)] = task
        if not running:  # all that is left waits for another process
            time.sleep(BUSY_RETRY_S / 10)
        done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in done:
            key = running[future].job.key
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                _recover(queue, list(running.values()), context, setup, listen)
                return
            if error is not None:
                raise error
            del running[future]
            queue.end(key, future.result())
            listen(("end", key, future.result()))


def _recover(queue: _Queue, lost: Sequence[Task], context: Context, setup: Setup, listen: Listener) -> None:
    for task in lost:
        if (recorded(context, task.job) or {}).get("status") == "ok":  # it had ended just before
            queue.end(task.job.key, "ok")
            listen(("end", task.job.key, "ok"))
        elif not queue.again(task.job.key):
            error = WorkerDiedError(
                "its worker process died twice, killed from outside or out of memory: use fewer --workers or a smaller "
                "batch"
            )
            _record_failure(queue, task, error, context, setup, listen)


def _failed_before(queue: _Queue, task: Task, context: Context, setup: Setup, listen: Listener) -> bool:
    broken = queue.broken_dependency(task)
    if broken is None:
        return False
    record = context.store.stage(broken) or {}
    cause = str(record.get("error")).removeprefix(PREFIX)
    error = StageFailedError(f"{PREFIX}{cause}")
    _record_failure(queue, task, error, context, setup, listen)
    return True


def _record_failure(
    queue: _Queue, task: Task, error: Exception, context: Context, setup: Setup, listen: Listener
) -> None:
    save(context, task.job, {**failure(task.job, error), "provenance": dict(setup.provenance)})
    queue.end(task.job.key, "failed")
    listen(("end", task.job.key, "failed"))


# What runs in a worker process.

_worker: dict[str, Any] = {}


def _start_worker(setup: Setup, messages: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(setup.runtime.threads)
    _worker.update(setup=setup, messages=messages)
    try:
        _worker["context"] = setup.opened().__enter__()
    except Exception as error:  # told by the first job: an error here would look like a worker that died
        _worker["problem"] = error


def _work(job: Job) -> Outcome:
    if "problem" in _worker:
        raise _worker["problem"]
    messages = _worker["messages"]
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > PROGRESS_EVERY_S or done == total:
            last = now
            messages.put(("progress", job.key, (done, total)))

    messages.put(("start", job.key, None))
    return perform(_worker["context"], job, _worker["setup"].provenance, report)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _pump(messages: Any, listen: Listener) -> None:
    while (message := messages.get()) is not None:
        listen(message)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
