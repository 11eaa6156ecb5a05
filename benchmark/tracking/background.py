"""The process beside a running grid that fills W&B, and the handle by which `bench run` holds it.

It has its own interpreter, its own session and the lowest priority, and reads nothing but the run folder. Whatever
happens to it, the grid does not notice; what it leaves undone, ``bench wandb-sync`` does later.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

POLL_S = 5.0
LONGEST_PAUSE_S = 600.0  # between tries while W&B cannot be reached
END_WITHIN_S = 900.0  # after the grid: a hanging upload must not hang forever
FINISHED = b"finished"


class Live:
    """Held by the process that runs the grid. No method raises because of W&B or the process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    def start(cls, run: Path, mode: str, project: str, poll_s: float = POLL_S) -> Live | None:
        """Starts the process, which looks for records every `poll_s`; None where the system refuses."""
        log = run / "wandb" / "live.log"
        module = "voxbench.benchmark.tracking.background"
        command = [sys.executable, "-m", module, str(run.resolve()), mode, project, str(poll_s)]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as file:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
                )
        except OSError:
            return None
        return cls(process, log)

    def finish(self, wait_s: float) -> str | None:
        """Says that the grid has ended and waits up to `wait_s`; None if W&B has everything, else why not."""
        assert self.process.stdin is not None  # it was started with a pipe
        with contextlib.suppress(OSError), self.process.stdin as pipe:  # if it is dead, its exit code says so below
            pipe.write(FINISHED)
        try:
            code = self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return "it is still being filled in the background"
        if code == 0:
            return None
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        told = [line for line in lines if line.startswith("problem: ")]
        return told[-1].removeprefix("problem: ") if told else f"its process ended early (exit code {code})"


def main(run: Path, mode: str, project: str, poll_s: float) -> int:
    """Sends each record soon after it is written, until standard input ends; then the rest, and the summary.

    Standard input ends when the grid's process does, however it does; the summary is sent only if it said `FINISHED`.
    """
    os.nice(19)
    over = _Over()
    while not over.event.is_set() and not _any_record(run):  # before that there is nothing to import wandb for
        over.event.wait(poll_s)
    from voxbench.benchmark.settings.errors import BenchError
    from voxbench.benchmark.tracking.sync import Syncer

    if mode not in ("online", "offline"):
        raise ValueError(mode)
    syncer = Syncer(run, mode, project)  # type: ignore[arg-type]  # one of the two, as just checked
    pause = poll_s
    while True:
        last = over.event.is_set()
        problems: list[str] = []
        try:
            problems = syncer.sync(final=over.finished).problems
            pause = poll_s
        except BenchError as error:
            problems = [str(error)]
            pause = min(2 * pause, LONGEST_PAUSE_S)
        for problem in problems:
            sys.stderr.write(f"problem: {' '.join(problem.split())}\n")
            sys.stderr.flush()
        if last:
            return 1 if problems else 0
        over.event.wait(pause)


class _Over:
    """Watches standard input from a thread; after its end the process may live only so long."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.finished = False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self.finished = sys.stdin.buffer.read() == FINISHED
        self.event.set()
        limit = threading.Timer(END_WITHIN_S, os._exit, [1])
        limit.daemon = True
        limit.start()


def _any_record(run: Path) -> bool:
    return any(next(run.glob(pattern), None) for pattern in ("stages/*/stage.json", "cells/*/*.json"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])))
