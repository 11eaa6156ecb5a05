"""A grid on a real SLURM of two nodes, undisturbed and disturbed: always the table of the same grid at home."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ...run_folders import table, tidy
from ..conftest import SMALL

BENCH = [sys.executable, "-m", "voxbench.benchmark.cli"]
NEEDED = ("sbatch", "slurmctld", "slurmd", "munged")
ABSENT = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(ABSENT), reason=f"no {', '.join(ABSENT)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started as root here"),
    pytest.mark.timeout(1800),
]
# Slow where a file says so: a job that can be met in its middle, and the same job, fast, at home.
SLOW = """
import time
from pathlib import Path
from voxbench.methods.base import Method, Stage

class Slow(Method):
    name = "slow"
    about = "a method that can be made to take long"

    def stages(self):
        def loss(batch):
            marker = Path(__file__).with_name("slow")
            if marker.exists():
                time.sleep(float(marker.read_text()))
            return self.encoder(batch.views[0]).pow(2).mean()
        return (Stage(name="only", module=self.encoder, loss=loss),)
"""

# As the kernel ends what is out of memory.
KILLED = """
import os
from voxbench.methods.base import Method, Stage

class Killed(Method):
    name = "killed"
    about = "a method that takes more memory than there is"

    def stages(self):
        return (Stage(name="only", module=self.encoder, loss=lambda batch: os.kill(os.getpid(), 9)),)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find two nodes with two GPUs each."""
    folder = tmp_path_factory.mktemp("slurm") / "slurm"
    start = Path(__file__).with_name("start_slurm.sh")
    ports = {**os.environ, "SLURM_TEST_PORT": str(20000 + os.getpid() % 10000)}
    command = ["bash", str(start), str(folder), "2", "2", "4"]
    started = subprocess.run(command, env=ports, capture_output=True, text=True)
    if "Operation not permitted" in started.stderr:
        pytest.skip(f"SLURM cannot be started here: {started.stderr.splitlines()[-1]}")
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "WANDB_MODE": "off"}
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield environment
        ask(environment, "scancel", "--me")  # of a test that failed: a job's own daemon would outlive the others
        wait_for(lambda: not ask(environment, "squeue", "-h"), 60)
    finally:
        subprocess.run(["bash", str(folder / "stop.sh")], check=True, timeout=60)


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("method") / "slow.py"
    file.write_text(SLOW)
    return file


@pytest.fixture(scope="module")
def words(method: Path, cache: Path) -> Callable[..., list[str]]:
    def make(out: Path, *more: str) -> list[str]:
        sizes = ("dataset.patients=24", "dataset.pool_patients=16", *SMALL, "protocol.pretrain_per_fold=true")
        settings = [word for setting in sizes for word in ("--set", setting)]
        grid = ["--methods", f"{method}:Slow,supervised", "--fractions", "0.5", "--folds", "2", "--device", "cpu"]
        return [*BENCH, "run", *grid, *settings, "--cache", str(cache), "--out", str(out), *more]

    return make


@pytest.fixture(scope="module")
def undisturbed(words: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    out = tmp_path_factory.mktemp("home") / "run"
    done = subprocess.run(words(out, "--workers", "1", "--wandb", "off"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return table(out)


def site(**given: object) -> tuple[str, ...]:
    settings = {"partition": "main", "gpus_per_node": 1, "cpus_per_task": 1, "mem": 500, "time": 10, **given}
    return ("--executor", "slurm", "--slurm", ",".join(f"{name}={value}" for name, value in settings.items()))


def ask(slurm: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=slurm, check=True, capture_output=True, text=True, timeout=60).stdout


def wait_for(what: Callable[[], object], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.5)


def submitted(slurm: dict[str, str], words: list[str]) -> None:
    done = subprocess.run(words, env=slurm, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for_end(slurm: dict[str, str], run: Path) -> None:
    try:
        wait_for(lambda: not ask(slurm, "squeue", "-h"))
    except AssertionError:
        raise AssertionError(ask(slurm, "squeue", "-r", "-o", "%i %j %T %r %E") + logs(run)) from None


def logs(run: Path) -> str:
    return "".join(f"{path.name}\n{path.read_text()}" for path in sorted(run.glob("private/slurm/*.out")))


def started(run: Path) -> dict[str, int]:
    """How often each job was begun, by its key."""
    counts: dict[str, int] = {}
    for line in logs(run).splitlines():
        if line.startswith("started:"):
            key = line.rpartition("(")[2].rstrip(")")
            counts[key] = counts.get(key, 0) + 1
    return counts


def test_a_driver_killed_in_mid_submission_loses_nothing_and_submits_nothing_twice(
    slurm: dict[str, str],
    words: Callable[..., list[str]],
    undisturbed: list[dict[str, str]],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    driver = subprocess.Popen(words(run, *site()), env=slurm, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: ask(slurm, "squeue", "-h") or driver.poll() is not None)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    submitted(slurm, words(run, *site()))
    said = ask(slurm, *BENCH, "status", str(run))
    assert "slow stages" in said and "all" in said
    wait_for_end(slurm, run)
    assert table(run) == undisturbed, logs(run)
    assert max(started(run).values()) == 1
    assert tidy(run)
    assert (run / "report" / "index.html").exists()
    assert "nothing is left to do" in ask(slurm, *BENCH, "status", str(run))


def test_a_preempted_job_and_one_on_a_lost_node_go_on_elsewhere(
    slurm: dict[str, str],
    words: Callable[..., list[str]],
    undisturbed: list[dict[str, str]],
    method: Path,
    tmp_path: Path,
) -> None:
    run, marker = tmp_path / "run", method.with_name("slow")
    marker.write_text("4")
    submitted(slurm, words(run, *site()))
    wait_for(lambda: sum(line.startswith("started: slow only") for line in logs(run).splitlines()) == 2)
    ask(slurm, "sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    wait_for(lambda: "stopping" in logs(run) or max(started(run).values()) > 1)
    wait_for(lambda: ask(slurm, "squeue", "-h", "-t", "R", "-p", "main", "-o", "%N"))
    node = ask(slurm, "squeue", "-h", "-t", "R", "-p", "main", "-o", "%N").split()[0]
    ask(slurm, "scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    marker.write_text("0.1")
    time.sleep(2)
    # It may have come back by itself.
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], env=slurm, capture_output=True)
    wait_for_end(slurm, run)
    assert table(run) == undisturbed, logs(run)
    assert max(started(run).values()) > 1
    assert tidy(run)


def test_a_job_over_its_time_limit_goes_on_from_its_checkpoint(
    slurm: dict[str, str],
    words: Callable[..., list[str]],
    undisturbed: list[dict[str, str]],
    method: Path,
    tmp_path: Path,
) -> None:
    run, marker = tmp_path / "run", method.with_name("slow")
    marker.write_text("30")  # seconds a step; there are four
    submitted(slurm, words(run, *site(time=2, warning=60), "--slurm", "cells.time=10,collect.time=10"))
    wait_for(lambda: "stopping" in logs(run))
    marker.unlink()
    wait_for_end(slurm, run)
    assert table(run) == undisturbed, logs(run)
    assert "TIME LIMIT" not in logs(run)  # it stopped by itself
    assert max(started(run).values()) > 1
    assert tidy(run)


def test_what_ends_without_a_record_is_submitted_again_and_then_said_to_have_failed(
    slurm: dict[str, str], words: Callable[..., list[str]], method: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed = method.with_name("killed.py")
    killed.write_text(KILLED)
    command = words(run, *site())
    command[command.index("--methods") + 1] = f"{killed}:Killed"
    submitted(slurm, command)
    wait_for_end(slurm, run)
    rows = table(run)
    assert {row["status"] for row in rows} == {"failed"}
    assert all("ended 2 times without a result" in row["error"] for row in rows), rows
    assert max(started(run).values()) == 2


def test_a_cancelled_run_leaves_the_queue(
    slurm: dict[str, str], words: Callable[..., list[str]], method: Path, tmp_path: Path
) -> None:
    run, marker = tmp_path / "run", method.with_name("slow")
    marker.write_text("60")
    submitted(slurm, words(run, *site()))
    try:
        assert "elements of SLURM were cancelled" in ask(slurm, *BENCH, "cancel", str(run))
        wait_for(lambda: not ask(slurm, "squeue", "-h"))
    finally:
        marker.unlink()
