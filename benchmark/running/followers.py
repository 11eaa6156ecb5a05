"""The further processes with which a worker takes the steps of its pretraining stages: one a GPU."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler  # as channels use: of this run's own processes, never of a file
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.running.processes import begin, use
from voxbench.benchmark.settings.config import Recompute
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.pretrain import follow_stage
from voxbench.benchmark.training.ranks import LostError, Ranks

READY_S = 600.0  # for a process to load its modules and open the volumes
ANSWER_S = 1800.0  # for the others to be where one of them waits, such as for a checkpoint that the first writes
LAST_WORDS_S = 10.0  # from an end of a process to the error that it tells of

Open = Callable[[str], AbstractContextManager[Context]]
"""Opens the context of a process on a device. It travels to another process."""


class FollowerDiedError(RuntimeError):
    """A further process of a stage ended in the middle of it."""


class Followers:
    """Started with the first stage, and there for all that come; ended and started anew after an error."""

    def __init__(self, open_: Open, devices: Sequence[str], threads: int) -> None:
        """`devices` are this process's own and then one a follower."""
        self.open = open_
        self.devices = tuple(devices)
        self.threads = threads
        self.processes: list[Any] = []
        self.channels: list[Connection] = []
        self.tidy: Finalize | None = None

    @contextmanager
    def __call__(self, plan: StagePlan, recompute: Recompute) -> Iterator[Ranks]:
        """For the span of a ``with`` they follow this process through the steps of a stage.

        Raises what went wrong in one of them in place of what that led to here.
        """
        try:
            if not self.processes:
                self._start()
            for channel in self.channels:
                channel.send((plan, recompute))
            yield Ranks(rank=0, count=len(self.devices))
            for number in range(len(self.channels)):
                self._hear(number)
        except BaseException as error:
            cause = self._cause(error) if isinstance(error, Exception) else None
            self.end()
            if cause is None:
                raise
            raise cause from error

    def end(self) -> None:
        """Ends them at once: nothing of theirs is needed any more, and they hold nothing."""
        processes, self.processes, self.channels = self.processes, [], []
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5.0)
            process.kill()
            process.join()
        if dist.is_initialized():
            dist.destroy_process_group()
        if self.tidy is not None:
            self.tidy()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        folder = tempfile.mkdtemp(prefix="voxbench-")
        self.tidy = Finalize(self, shutil.rmtree, (folder, True), exitpriority=0)  # a worker is never told to end
        meeting = Path(folder) / "store"
        for rank in range(1, len(self.devices)):
            channel, theirs = spawn.Pipe()
            given = (self.open, self.devices, rank, self.threads, theirs, meeting)
            process = spawn.Process(target=_follow, args=given, daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.channels.append(channel)
        for number in range(len(self.channels)):
            self._hear(number)
        use(torch.device(self.devices[0]))
        meet(meeting, 0, self.devices)
        threading.Thread(target=_wake, args=(self, list(self.processes)), daemon=True).start()

    def _hear(self, number: int, seconds: float = READY_S) -> None:
        """Waits for what a follower says next. Raises its error, or FollowerDiedError where it is gone."""
        channel, process = self.channels[number], self.processes[number]
        said = None
        if channel.poll(seconds):
            with suppress(EOFError):
                said = channel.recv()
        if isinstance(said, _Failure):
            raise said.error()
        if said is None:
            process.join(1.0)
            end = "does not answer" if process.is_alive() else f"died (exit code {process.exitcode})"
            raise FollowerDiedError(
                f"process {number + 2} of the {len(self.devices)} that share its steps {end}: killed from outside, or "
                "out of memory: use --recompute always, a smaller batch or --gpus-per-stage 1"
            )

    def _cause(self, error: Exception) -> Exception | None:
        """What a follower failed with, where that is why this process fails, or came before."""
        if isinstance(error, FollowerDiedError) or not self.channels:
            return None
        told = wait(self.channels, LAST_WORDS_S if isinstance(error, LostError) else 0.0)
        for number in range(len(self.channels)):
            if self.channels[number] in told:
                try:
                    self._hear(number)
                except Exception as cause:
                    return cause
        return None


class _Failure:
    """An error of another process, and where it came from."""

    def __init__(self, error: Exception, rank: int) -> None:
        self.line = f"{type(error).__name__}: {error}"
        self.trace = f"in process {rank + 1} of a stage:\n{''.join(traceback.format_exception(error))}"
        try:
            self.pickled = bytes(ForkingPickler.dumps(error))
            ForkingPickler.loads(self.pickled)
        except Exception:  # a third party's error may not travel in any way
            self.pickled = b""

    def error(self) -> Exception:
        """The error, or one that says the same."""
        error: Exception = ForkingPickler.loads(self.pickled) if self.pickled else RuntimeError(self.line)
        error.add_note(self.trace)
        return error


def meet(meeting: Path, rank: int, devices: Sequence[str]) -> None:
    """All processes become one group: numbers of the host go through gloo, those of GPUs through NCCL."""
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # `_wake` ends what waits, not the process
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.device(devices[0]).type == "cuda" else "gloo",
        store=dist.FileStore(str(meeting), len(devices)),  # type: ignore[attr-defined]
        rank=rank,
        world_size=len(devices),
        timeout=timedelta(seconds=ANSWER_S),
    )


def _wake(followers: Followers, processes: Sequence[Any]) -> None:
    """Where a follower ends by itself, this process does not wait for it any longer."""
    wait([process.sentinel for process in processes])
    group = dist.group.WORLD
    if followers.processes == processes and group is not None:
        group.abort()


# What runs in a follower.


def _follow(open_: Open, devices: Sequence[str], rank: int, threads: int, channel: Connection, meeting: Path) -> None:
    begin(threads)
    try:
        use(torch.device(devices[rank]))
        with open_(devices[rank]) as context:
            channel.send("ready")
            meet(meeting, rank, devices)
            while True:
                plan, recompute = channel.recv()
                follow_stage(replace(context, recompute=recompute), plan, Ranks(rank=rank, count=len(devices)))
                channel.send("done")
    except Exception as error:  # the first process tells of it, or is gone
        with suppress(OSError):
            channel.send(_Failure(error, rank))
    os._exit(1)  # at once: the others may wait for it
