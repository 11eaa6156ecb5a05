"""Carrying out jobs on this machine: in this process, or in several worker processes."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal

import torch

from voxbench.benchmark.records.store import Store
from voxbench.benchmark.running.executor import Executor, State
from voxbench.benchmark.running.places import groups
from voxbench.benchmark.running.processes import begin, start_method, take_on, use
from voxbench.benchmark.running.queue import BUSY_RETRY_S, Queue, Task
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.running.stop import Stop
from voxbench.benchmark.running.work import Job, Outcome, StageFailedError, fail, perform, recorded
from voxbench.benchmark.training.context import Context, StoppedError

PROGRESS_EVERY_S = 0.2
PREFIX = "its pretraining failed: "
DRIVER = "run-"  # of the claim that a process holds while it carries out a run

Event = tuple[Literal["start", "progress", "end"], str, Any]
Listener = Callable[[Event], None]


class WorkerDiedError(RuntimeError):
    """A worker process ended in the middle of a job."""


class Local(Executor):
    """Worker processes of this machine, or this process itself where one worker is asked for."""

    def __init__(
        self, setup: Setup, *, retries: int = 1, listen: Listener = lambda _: None, stop: Stop | None = None
    ) -> None:
        """`listen` gets ("start", key, None), ("progress", key, (done, total)) and ("end", key, outcome), here."""
        self.setup = setup
        self.workers = setup.runtime.workers
        self.retries = retries
        self.listen = listen
        self.stop = stop or Stop()
        self.store = Store(setup.runtime.out)

    def submit(self, tasks: Sequence[Task]) -> str:
        """Carries out all tasks; a job whose dependency failed is recorded as failed.

        Returns early, with what is done on disk, where `stop` is asked for.
        """
        queue = Queue(tasks, self.retries)
        with self.setup.opened() as context, self._driving():
            work = _Work(self, queue, context)
            if self.workers <= 1:
                work.in_process()
            else:
                work.in_pool()
        return f"{len(queue.outcomes)} of {len(queue.tasks)} jobs have ended"

    def poll(self) -> dict[str, State]:
        """Jobs that a live process has claimed, on whichever machine."""
        return {key: "running" for key in self.store.at_work() if not key.startswith(DRIVER)}

    def cancel(self) -> str:
        """Asks the processes that carry out this run to stop, as one Ctrl-C does."""
        drivers = [owner for key, owner in self.store.at_work().items() if key.startswith(DRIVER)]
        here = [owner for owner in drivers if owner["host"] == socket.gethostname()]
        for owner in here:
            os.kill(int(owner["pid"]), signal.SIGTERM)
        elsewhere = sorted({str(owner["host"]) for owner in drivers if owner not in here})
        far = f"; stop it on {', '.join(elsewhere)} as well" if elsewhere else ""
        return f"{len(here)} running commands were asked to stop{far}"

    @contextmanager
    def _driving(self) -> Iterator[None]:
        claim = self.store.claim(f"{DRIVER}{socket.gethostname()}-{os.getpid()}")
        try:
            yield
        finally:
            if claim is not None:
                claim.release()


class _Work:
    """One carrying out of a queue."""

    def __init__(self, local: Local, queue: Queue, context: Context) -> None:
        self.setup = local.setup
        self.workers = local.workers
        self.listen = local.listen
        self.stop = local.stop
        self.queue = queue
        self.context = context

    def in_process(self) -> None:
        """One job after the other, here."""
        with _threads(self.setup.runtime.threads):
            while self.queue.left and not self.stop.asked:
                task = self.queue.next()
                if task is None:
                    time.sleep(BUSY_RETRY_S / 10)
                elif not self._failed_before(task):
                    self._one(task.job)

    def _one(self, job: Job) -> None:
        def report(done: int, total: int) -> None:
            self.listen(("progress", job.key, (done, total)))
            if self.stop.asked:
                raise StoppedError

        self.listen(("start", job.key, None))
        try:
            outcome = perform(self.context, job, self.setup.provenance, report)
        except StoppedError:
            return
        self.listen(("end", job.key, self.queue.end(job.key, outcome)))

    def in_pool(self) -> None:
        """In as many processes as there are workers; a new set of them where one has died."""
        processes = start_method()
        while self.queue.left and not self.stop.asked:
            # A killed process can leave a lock of the channel closed for good: each set of workers has its own.
            messages, ending, free = processes.Queue(), processes.RawValue("b", 0), processes.SimpleQueue()
            runtime = self.setup.runtime
            for group in groups(runtime.device, self.workers, runtime.gpus_per_stage):
                free.put(group)
            pump = threading.Thread(target=_pump, args=(messages, self.listen), daemon=True)
            pump.start()
            given = (self.setup, dict(os.environ), messages, ending, free)
            pool = ProcessPoolExecutor(self.workers, processes, _start_worker, given)
            try:
                self._drive(pool, ending)
                pool.shutdown()
            except BaseException:
                _end_at_once(pool)  # Ctrl-C twice, or a bug: claims of the dead count as stale
                raise
            finally:
                messages.cancel_join_thread()
                messages.put(None)
                pump.join(timeout=5)

    def _drive(self, pool: ProcessPoolExecutor, ending: Any) -> None:
        """Feeds the pool until the queue is empty, or the pool has broken: then its jobs are back in the queue."""
        running: dict[Future[Outcome], Task] = {}
        while self.queue.left or running:
            if self.stop.asked:
                ending.value = 1
            # No more than can start at once: so what runs when a worker dies is known, and the order can still change.
            # After a death the jobs that were at work run one by one, so that the next death tells whose fault it is.
            limit = 1 if self.queue.suspects else self.workers
            while not self.stop.asked and len(running) < limit and (task := self.queue.next()) is not None:
                if not self._failed_before(task):
                    running[pool.submit(_work, task.job)] = task
            if not running:
                if self.stop.asked:
                    return
                time.sleep(BUSY_RETRY_S / 10)  # all that is left waits for another process
            done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                key = running[future].job.key
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    self._recover(list(running.values()))
                    return
                if isinstance(error, StoppedError):
                    del running[future]
                    continue
                if error is not None:
                    raise error
                del running[future]
                self.listen(("end", key, self.queue.end(key, future.result())))

    def _recover(self, lost: Sequence[Task]) -> None:
        for task in lost:
            key = task.job.key
            if (recorded(self.context, task.job) or {}).get("status") == "ok":  # it had ended just before
                self.listen(("end", key, self.queue.end(key, "ok")))
            elif not self.queue.again(key):
                error = WorkerDiedError(
                    f"its worker process died {self.queue.tries[key]} times, killed from outside or out of memory: use "
                    "fewer --workers, --recompute always or a smaller batch"
                )
                self._record_failure(task, error)

    def _failed_before(self, task: Task) -> bool:
        broken = self.queue.broken_dependency(task)
        if broken is not None:
            self._record_failure(task, stage_failed(self.context.store, broken))
        return broken is not None

    def _record_failure(self, task: Task, error: Exception) -> None:
        fail(self.context, task.job, error, self.setup.provenance)
        self.listen(("end", task.job.key, self.queue.end(task.job.key, "failed")))


def stage_failed(store: Store, key: str) -> StageFailedError:
    """What a job fails with whose stage `key` failed: the first cause."""
    cause = str((store.stage(key) or {}).get("error")).removeprefix(PREFIX)
    return StageFailedError(f"{PREFIX}{cause}")


def _end_at_once(pool: ProcessPoolExecutor) -> None:
    processes = list((pool._processes or {}).values())
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(5.0)
        process.kill()
    pool.shutdown(cancel_futures=True)


# What runs in a worker process.

_worker: dict[str, Any] = {}


def _start_worker(setup: Setup, environment: Mapping[str, str], messages: Any, ending: Any, free: Any) -> None:
    take_on(environment)
    begin(setup.runtime.threads)
    messages.cancel_join_thread()  # nobody need hear the last of the progress
    setup = setup.on(free.get())
    _worker.update(setup=setup, messages=messages, ending=ending)
    try:
        use(torch.device(setup.runtime.device))
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
        if _worker["ending"].value:
            raise StoppedError

    messages.put(("start", job.key, None))
    return perform(_worker["context"], job, _worker["setup"].provenance, report)


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
