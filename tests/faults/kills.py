"""A small grid whose processes are killed at random moments, again and again, until it is done.

    python -m tests.faults.kills 100        # so many kills; some minutes

The command is repeated each time. At the end `results.csv` must be that of an undisturbed run (timings aside), no
finished cell may have been computed twice, and no temporary file may be left. Each command is a process of its own,
forked from this one, which has all modules loaded: most kills fall into the work, and not into seconds of imports.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.context import ForkProcess
from pathlib import Path

import voxbench.benchmark.commands.report
import voxbench.benchmark.commands.run  # noqa: F401 - both are loaded once, for all processes
from voxbench.benchmark.cli import main

from ..run_folders import finished, table, tidy

SETTINGS = (
    "dataset.patients=24", "dataset.pool_patients=16", "prior.volumes=16", "prior.batch=8", "pretrain.volumes=32",
    "pretrain.batch=8", "finetune.steps=4", "protocol.min_val_per_class=2",
)  # fmt: skip


def command(out: Path, cache: Path, methods: str, workers: int = 2) -> list[str]:
    """The words of `bench run` for a small grid."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    grid = ["--methods", methods, "--fractions", "0.3,1.0", "--folds", "2"]
    own = ["--device", "cpu", "--workers", str(workers), "--wandb", "off", "--cache", str(cache), "--out", str(out)]
    return ["run", *grid, *own, *settings]


def begun(words: Sequence[str]) -> ForkProcess:
    """`bench` with these words, in a process and session of its own."""
    process = multiprocessing.get_context("fork").Process(target=_bench, args=(words,))
    process.start()
    return process


def _bench(words: Sequence[str]) -> None:
    os.setsid()
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.argv = ["bench", *words]
    main()


def timed(words: Sequence[str]) -> float:
    """Seconds that an undisturbed command takes. Raises AssertionError where it fails."""
    start = time.monotonic()
    process = begun(words)
    process.join(3600)
    assert process.exitcode == 0, f"exit code {process.exitcode}: {words}"
    return time.monotonic() - start


def kill_and_repeat(words: Sequence[str], run: Path, kills: int, within: float, seed: int) -> Iterator[str]:
    """Starts the command and kills a process of it, or all, `kills` times; then lets it end. Says what it killed.

    It is killed once a job is at work, at a random moment of the next `within` seconds. Raises AssertionError where a
    finished job was computed again, or the last command failed.
    """
    draw = random.Random(seed)
    done: dict[Path, int] = {}
    for _ in range(kills):
        since, wait = time.time(), draw.uniform(0, within)
        process = begun(words)
        while process.is_alive() and not _at_work(run, since):
            time.sleep(0.02)
        process.join(wait)
        if process.is_alive():
            family = _children(process.pid)
            chosen = draw.choice(["driver", "worker", "all"])
            if chosen == "worker" and family:
                os.kill(draw.choice(family), signal.SIGKILL)
                # The run goes on without it: the next death is the driver's.
                time.sleep(draw.uniform(0, 4))
            for pid in (process.pid, *(family if chosen == "all" else ())):
                _kill(pid)
            yield f"{chosen} after {wait:.1f} s of work"
            assert _gone(family), f"workers outlive their driver: {family}"
        else:
            yield "nothing: it had ended"
        process.join()
        now = finished(run)
        again = [path.name for path, at in done.items() if now.get(path) != at]
        assert not again, f"computed twice: {again}"
        done = now
    timed(words)
    now = finished(run)
    assert all(now.get(path) == at for path, at in done.items()), "a finished job was computed twice"


def _at_work(run: Path, since: float) -> bool:
    """Whether a job was claimed since then."""
    return any(path.stat().st_mtime >= since for path in run.glob("claims/[0-9a-f]*") if path.exists())


def _children(pid: int | None) -> list[int]:
    """All processes below this one: the server that workers are forked from, and they."""
    try:
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return own + [below for child in own for below in _children(child)]


def _gone(family: Sequence[int], within: float = 120.0) -> bool:
    """Whether no process of it is left, after a while: one that was still starting ends once it has started."""
    end = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _kill(pid: int | None) -> None:
    assert pid is not None  # of a process that was started
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def compare(kills: int) -> None:
    """Compares runs that were killed so often with an undisturbed one."""
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    cache, methods = folder / "cache", "residual,simclr,supervised"
    timed([*command(folder / "none", cache, methods), "--dry-run"])  # reads the volumes
    within = timed(command(folder / "whole", cache, methods, workers=1)) / 4
    whole = table(folder / "whole")
    number = 0
    while number < kills:  # a grid is soon done: as many of them as it takes
        run, left = folder / f"run-{number}", min(8, kills - number)
        workers = 2 if number % 32 == 0 else 1
        words = command(run, cache, methods, workers)
        for said in kill_and_repeat(words, run, left, within, seed=number):
            number += 1
            print(f"{number}/{kills}: {said}, {workers} workers; {len(finished(run))} jobs done", flush=True)  # noqa: T201
        assert table(run) == whole, f"{run}: another table"
        assert tidy(run), f"{run}: something is left"
    shutil.rmtree(folder)


if __name__ == "__main__":
    compare(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
