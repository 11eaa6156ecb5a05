"""A small grid whose processes are killed at random moments, again and again, until it is done.

    python tests/faults/kills.py 100        # so many kills; some minutes

The command is repeated each time. At the end `results.csv` must be that of an undisturbed run (timings aside), no
finished cell may have been computed twice, and no temporary file may be left.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

COSTS = {"pretrain_seconds", "finetune_seconds", "peak_memory_mb"}
SETTINGS = (
    "dataset.patients=24", "dataset.pool_patients=16", "prior.volumes=16", "prior.batch=8", "pretrain.volumes=32",
    "pretrain.batch=8", "finetune.steps=4", "protocol.min_val_per_class=2",
)  # fmt: skip


def command(out: Path, cache: Path, methods: str) -> list[str]:
    """`bench run` of a small grid in two worker processes."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    grid = ["--methods", methods, "--fractions", "0.3,1.0", "--folds", "2"]
    own = ["--device", "cpu", "--workers", "2", "--wandb", "off", "--cache", str(cache), "--out", str(out)]
    return [sys.executable, "-m", "voxbench.benchmark.cli", "run", *grid, *own, *settings]


def table(run: Path) -> list[dict[str, str]]:
    """`results.csv` without what a clock or a memory meter decides."""
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in COSTS} for row in csv.DictReader(file)]


def tidy(run: Path) -> bool:
    """Whether no temporary file, claim or checkpoint is left."""
    return not any(list(run.rglob(pattern)) for pattern in (".part-*", "claims/*", "checkpoints/*", "targets*"))


def finished(run: Path) -> dict[Path, int]:
    """Records that are ok, and when they were written."""
    found = {}
    for path in (*run.glob("cells/*/*.json"), *run.glob("stages/*/stage.json")):
        if json.loads(path.read_text())["status"] == "ok":
            found[path] = path.stat().st_mtime_ns
    return found


def timed(words: Sequence[str]) -> float:
    """Seconds that an undisturbed command takes. Raises AssertionError where it fails."""
    start = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - start


def kill_and_repeat(words: Sequence[str], run: Path, kills: int, within: float, seed: int) -> Iterator[str]:
    """Starts the command and kills a process of it, or all, `kills` times; then lets it end. Says what it killed.

    It is killed once a job is at work, at a random moment of the next `within` seconds. Raises AssertionError where a
    finished job was computed again, or the last command failed.
    """
    draw = random.Random(seed)
    done: dict[Path, int] = {}
    for _ in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        begun, wait = time.time(), draw.uniform(0, within)
        while process.poll() is None and not _at_work(run, begun):
            time.sleep(0.05)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            family = _children(process.pid)
            chosen = draw.choice(["driver", "worker", "all"])
            if chosen == "worker" and family:
                os.kill(draw.choice(family), signal.SIGKILL)
                # The run goes on without it: the next death is the driver's.
                time.sleep(draw.uniform(0, 4))
            for pid in (process.pid, *(family if chosen == "all" else ())):
                _kill(pid)
            yield f"{chosen} after {wait:.1f} s of work"
        else:
            yield "nothing: it had ended"
        process.communicate()
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


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main(kills: int) -> None:
    """Compares a run that was killed so often with an undisturbed one."""
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    methods = "residual,simclr,supervised"
    within = timed(command(folder / "whole", folder / "cache", methods)) / 4
    whole = table(folder / "whole")
    number = 0
    while number < kills:  # a grid is soon done: as many of them as it takes
        run = folder / f"run-{number}"
        words = command(run, folder / "cache", methods)
        for said in kill_and_repeat(words, run, min(8, kills - number), within, seed=number):
            number += 1
            print(f"{number}/{kills}: {said}; {len(finished(run))} jobs done", flush=True)  # noqa: T201
        assert table(run) == whole, f"{run}: another table"
        assert tidy(run), f"{run}: something is left"
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
