"""What is tried again, what is stopped in the middle, and single jobs by their keys."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from voxbench.benchmark.commands import cell as command_cell
from voxbench.benchmark.commands import collect as command_collect
from voxbench.benchmark.commands import status as command_status
from voxbench.benchmark.running.grid import current_grid
from voxbench.benchmark.settings.errors import BenchError

from ...faults.kills import table, tidy

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


@pytest.mark.parametrize(("times", "retries", "code"), [(1, 1, 0), (2, 1, 1), (1, 0, 1)])
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


@pytest.mark.parametrize("workers", ["1", "2"])
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


def test_commands_on_a_folder_without_a_grid_say_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="not a run folder"):
        command_status.status(tmp_path, Console(quiet=True), keys=False)
