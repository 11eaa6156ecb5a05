"""What is tried again, what is stopped in the middle, and single jobs by their keys."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from voxbench.benchmark.commands import cell as command_cell
from voxbench.benchmark.commands import collect as command_collect
from voxbench.benchmark.commands import status as command_status
from voxbench.benchmark.commands.run import Arguments
from voxbench.benchmark.records.store import Store
from voxbench.benchmark.running.grid import current_grid
from voxbench.benchmark.running.slurm import Slurm
from voxbench.benchmark.settings.errors import BenchError
from voxbench.datasets.files import explained

from ...run_folders import finished, table, tidy
from ..conftest import work

Bench = Callable[..., int]
# Out of memory as often as a file says, by the count of its attempts.
HUNGRY = """
from pathlib import Path
from voxbench.methods.base import Method, Stage

class Hungry(Method):
    name = "hungry"
    about = "a method that finds no memory at first"

    def stages(self):
        def loss(batch):
            left = Path(__file__).with_name("left")
            if int(left.read_text()):
                left.write_text(str(int(left.read_text()) - 1))
                raise MemoryError("no memory just now")
            return self.encoder(batch.views[0]).pow(2).mean()
        return (Stage(name="only", module=self.encoder, loss=loss),)
"""
SLOW = """
import time
from pathlib import Path
from voxbench.methods.base import Method, Stage

class Slow(Method):
    name = "slow"
    about = "a method that takes long while a file is there"

    def stages(self):
        def loss(batch):
            if Path(__file__).with_name("marker").exists():
                time.sleep(0.5)
            return self.encoder(batch.views[0]).pow(2).mean()
        return (Stage(name="only", module=self.encoder, loss=loss),)
"""


# A try has two goes, the second with maps computed twice; from then on jobs of the kind begin so.
@pytest.mark.parametrize(("times", "retries", "code"), [(2, 1, 0), (3, 1, 1), (2, 0, 1)])
def test_out_of_memory_is_tried_again_as_often_as_asked(
    bench: Bench, tmp_path: Path, times: int, retries: int, code: int
) -> None:
    file = tmp_path / "hungry.py"
    file.write_text(HUNGRY)
    (tmp_path / "left").write_text(str(times))
    assert bench(methods=f"{file}:Hungry,supervised", retries=retries) == code
    rows = table(tmp_path / "run")
    assert {row["status"] for row in rows if row["method"] == "supervised"} == {"ok"}
    failed = {row["error"].partition(" (")[0] for row in rows if row["status"] == "failed"}
    assert failed == ({"its pretraining failed: MemoryError: no memory just now"} if code else set())


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_ctrl_c_leaves_a_checkpoint_from_which_it_goes_on(
    tmp_path: Path, command: Callable[..., list[str]], workers: str
) -> None:
    file, out = tmp_path / "slow.py", tmp_path / "run"
    file.write_text(SLOW)
    (tmp_path / "marker").touch()
    size = ("--set", "pretrain.volumes=400")
    words = command("--methods", f"{file}:Slow", "--fractions", "0.5", "--out", str(out), "--workers", workers, *size)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("claims/[!r]*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    os.kill(process.pid, signal.SIGINT)
    _, problems = process.communicate(timeout=100)
    assert process.returncode == 130, problems
    assert list(out.glob("checkpoints/*.pt"))
    assert not list(out.glob("claims/*"))
    (tmp_path / "marker").unlink()
    again = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    stage = json.loads(next(out.glob("stages/*/stage.json")).read_text())
    assert stage["curve"][-1]["step"] == stage["steps"] == 50
    assert tidy(out)


@pytest.mark.long
def test_single_jobs_by_their_keys_make_the_table_of_the_whole(bench: Bench, tmp_path: Path) -> None:
    whole, run, said = tmp_path / "whole", tmp_path / "run", Console(quiet=True)
    assert bench(methods="simclr,supervised", settings=("protocol.pretrain_per_fold=true",), out=whole) == 0
    # The same grid in another folder that has nothing of it yet.
    grid = current_grid(whole)
    grid.model_copy(update={"runtime": grid.runtime.model_copy(update={"out": run})}).write()
    for name in ("config.yaml", "dataset.json", "environment.json"):
        (run / name).write_bytes((whole / name).read_bytes())

    cells = [key for key, entry in grid.jobs.items() if entry.kind == "cell"]
    built = next(key for key in cells if grid.jobs[key].after)
    with pytest.raises(BenchError, match="no job has the key nonsense"):
        command_cell.execute(run, [built, "nonsense"], said, only=True, warning=0)
    assert command_cell.execute(run, [built], said, only=True, warning=0) == 1  # its pretraining is not there
    assert not list(run.glob("cells/*/*.json"))
    assert command_cell.execute(run, cells[:-1], said, only=False, warning=0) == 0
    before = {path: path.stat().st_mtime_ns for path in run.glob("cells/*/*.json")}
    assert len(before) == len(cells) - 1
    assert command_collect.execute(run, None, said) == 1
    assert command_cell.execute(run, cells, said, only=False, warning=0) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert command_collect.execute(run, None, said) == 0
    assert table(run) == table(whole)


def test_a_worker_ends_with_a_driver_that_died_while_it_was_starting(tmp_path: Path) -> None:
    driver = (
        "import multiprocessing, os, pathlib, signal, sys\n"
        "from voxbench.benchmark.running.child import end_with_driver\n"
        "worker = multiprocessing.get_context('spawn').Process(target=end_with_driver)\n"
        "worker.start()\n"
        "pathlib.Path(sys.argv[1]).write_text(str(worker.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    told = subprocess.run([sys.executable, "-c", driver, str(tmp_path / "pid")], stderr=subprocess.DEVNULL)
    assert told.returncode == -signal.SIGKILL
    worker, end = Path("/proc", (tmp_path / "pid").read_text()), time.monotonic() + 60
    while worker.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not worker.exists()


def test_status_tells_what_is_done_failed_and_missing(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "hungry.py"
    file.write_text(HUNGRY)
    (tmp_path / "left").write_text("100")
    assert bench(methods=f"{file}:Hungry,supervised", retries=0) == 1
    run = tmp_path / "run"
    next(run.glob("cells/supervised/*.json")).unlink()
    said = io.StringIO()
    command_status.status(run, Console(file=said, width=100), keys=True)
    text = said.getvalue()
    assert "failed: hungry only" in text and "no memory just now" in text
    assert "cost so far" in text and "on cpu" in text
    assert "left: 1 jobs" in text
    assert sum("  missing  supervised" in line for line in text.splitlines()) == 1
    assert sum("  done  supervised" in line for line in text.splitlines()) == 2


SPOILT = """
import math
from pathlib import Path
from voxbench.methods.base import Method, Stage

class Spoilt(Method):
    name = "spoilt"
    about = "a method to which something happens at a step"

    def stages(self):
        taken = []
        def loss(batch):
            taken.append(batch)
            volumes = batch.views[0]
            marker = Path(__file__).with_name("marker")
            if marker.exists():
                step, what = marker.read_text().split()
                if len(taken) == int(step) and what == "nan":
                    volumes = volumes.clone()
                    volumes[0, 0, 3, 4, 5] = math.nan
                if len(taken) == int(step) and what == "memory":
                    marker.unlink()
                    raise MemoryError("no memory just now")
            return self.encoder(volumes).pow(2).mean()
        return (Stage(name="only", module=self.encoder, loss=loss),)
"""


@pytest.fixture
def spoilt(tmp_path: Path) -> dict[str, Any]:
    """A grid of ten steps of pretraining; `marker` says what happens at which."""
    file = tmp_path / "spoilt.py"
    file.write_text(SPOILT)
    return {"methods": f"{file}:Spoilt,supervised", "settings": ("pretrain.volumes=80",), "folds": 2}


def test_a_voxel_that_is_not_a_number_fails_its_own_cells_alone_and_says_the_step(
    arguments: Callable[..., Arguments], spoilt: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "marker").write_text("7 nan")
    assert work(arguments(**spoilt)) == ([], {"ok", "failed"})
    rows = table(tmp_path / "run")
    assert {row["method"] for row in rows if row["status"] == "ok"} == {"supervised"}
    failed = {row["error"] for row in rows if row["status"] == "failed"}
    assert all("the loss is nan at step 7: lower the learning rate" in error for error in failed)
    (tmp_path / "marker").unlink()
    assert work(arguments(**spoilt)) == ([], {"ok"})


def test_memory_that_runs_out_at_a_step_changes_no_figure(
    arguments: Callable[..., Arguments], spoilt: dict[str, Any], tmp_path: Path
) -> None:
    assert work(arguments(**spoilt, out=tmp_path / "whole")) == ([], {"ok"})
    (tmp_path / "marker").write_text("3 memory")
    assert work(arguments(**spoilt)) == ([], {"ok"})
    assert not (tmp_path / "marker").exists()
    assert table(tmp_path / "run") == table(tmp_path / "whole")


def test_a_clock_that_goes_back_changes_nothing(
    arguments: Callable[..., Arguments], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"methods": "supervised", "folds": 2}
    assert work(arguments(**given, out=tmp_path / "whole")) == ([], {"ok"})
    run = tmp_path / "run"
    work(arguments(**given, fractions="1.0"))
    earlier = next(run.glob("private/grids/*.json"))
    tomorrow = time.time() + 86400
    os.utime(earlier, (tomorrow, tomorrow))
    ticks = count()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 60 * next(ticks))
    assert work(arguments(**given)) == ([], {"ok"})
    assert [row for row in table(run) if row["fraction"] == "0.5"] == table(tmp_path / "whole")
    assert {entry.fraction for entry in current_grid(run).jobs.values()} == {0.5}


mounting = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@mounting
@pytest.mark.parametrize(("methods", "size"), [("simclr", "400k"), ("supervised", "48k")])
def test_a_full_disk_is_said_and_once_there_is_room_the_same_command_goes_on(
    arguments: Callable[..., Arguments], tmp_path: Path, methods: str, size: str
) -> None:
    """Too small for the weights of a stage, or for the records."""
    given: dict[str, Any] = {"methods": methods, "folds": 2}
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as disk:
        full = arguments(**given, out=disk / "run")
        with suppress(OSError):
            work(full)
        paths = [*disk.glob("run/cells/*/*.json"), *disk.glob("run/stages/*/stage.json")]
        said = [json.loads(path.read_text()) for path in paths]
        errors = {record["error"] for record in said if record["status"] == "failed"}
        assert all("no space is left on the disk: free some" in error for error in errors)
        if not errors:
            with pytest.raises(OSError, match="No space left") as caught:
                work(full)
            assert str(disk) in explained(caught.value)
        assert not list(disk.rglob(".part-*")) and not list(disk.glob("run/claims/*"))
        before = finished(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert work(full) == ([], {"ok"})
        assert before.items() <= finished(disk / "run").items()
        assert work(arguments(**given)) == ([], {"ok"})
        assert table(disk / "run") == table(tmp_path / "run")


@mounting
def test_a_folder_that_is_only_to_be_read_is_named_and_left_as_it_is(
    arguments: Callable[..., Arguments], tmp_path: Path
) -> None:
    work(arguments(folds=2))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with mounted(tmp_path / "seen", "--bind", str(tmp_path / "run")) as seen:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(seen)], check=True)
        with pytest.raises(BenchError, match=r"--out .*seen: .* cannot be written to: name another folder"):
            work(arguments(folds=2, out=seen))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_four_commands_on_one_folder_share_the_work(tmp_path: Path, command: Callable[..., list[str]]) -> None:
    grid = ("--methods", "simclr,supervised", "--fractions", "0.5,1.0", "--workers", "1", "--wandb", "off")
    alone, run = tmp_path / "alone", tmp_path / "run"
    assert subprocess.run(command(*grid, "--out", str(alone)), capture_output=True).returncode == 0
    words = command(*grid, "--out", str(run))
    four = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [process.communicate(timeout=1000) for process in four]
    assert [process.returncode for process in four] == [0] * 4, ended
    assert table(run) == table(alone)
    assert tidy(run)


def test_status_knows_what_is_here_and_what_waits_on_a_cluster(
    arguments: Callable[..., Arguments], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was begun on SLURM, and is gone on with here; `squeue` is a script that says what SLURM would."""
    run = tmp_path / "run"
    work(arguments(folds=3))
    grid = current_grid(run)
    done, waiting, working = grid.jobs
    for key in (waiting, working):
        next(run.glob(f"cells/*/{key}.json")).unlink()
    scheduler = Slurm(grid)
    scheduler.folder.mkdir(mode=0o700)
    scheduler._packs(f"{scheduler.prefix}a-1").write_text(f"{done}\n{waiting} {working}\n")
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(f"#!/bin/sh\necho '{scheduler.prefix}a-1|7|1|RUNNING'; echo 'another|8|0|RUNNING'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def said() -> list[str]:
        told = io.StringIO()
        command_status.status(run, Console(file=told, width=120), keys=True)
        return [" ".join(line.split()) for line in told.getvalue().splitlines()]

    claim = Store(run).claim(working)
    assert claim is not None
    with claim:
        lines = said()
    states = {line.split()[0]: line.split()[1] for line in lines if line.split()[:1] and line.split()[0] in grid.jobs}
    assert states == {done: "done", waiting: "waiting", working: "running"}
    assert any(line.startswith("all 1 1 1") for line in lines), lines
    assert any(line.startswith("left: 2 jobs") and "with 1 at a time" in line for line in lines), lines
    squeue.unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    lines = said()
    assert any("there is no squeue here" in line and "counts as missing" in line for line in lines), lines
    assert sum(" missing " in line for line in lines) == 2


def test_commands_on_a_folder_without_a_grid_say_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="not a run folder"):
        command_status.status(tmp_path, Console(quiet=True), keys=False)
