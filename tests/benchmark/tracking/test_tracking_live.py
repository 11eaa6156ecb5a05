import io
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from voxbench.benchmark.commands import wandb as command_wandb
from voxbench.benchmark.tracking.background import Live
from voxbench.benchmark.tracking.sync import Syncer

Read = Callable[[Path], dict[str, Any]]
PATIENCE_S = 90.0  # importing takes long on a busy machine


@pytest.fixture
def growing(run: Path, tmp_path: Path) -> Path:
    """The folder of a run that has just begun; `run` is how it will be in the end."""
    folder = tmp_path / "growing"
    folder.mkdir()
    for name in ("config.yaml", "dataset.json", "environment.json"):
        shutil.copy(run / name, folder)
    return folder


@pytest.fixture
def start(growing: Path) -> Iterator[Callable[..., Live]]:
    begun: list[Live] = []

    def begin(mode: str = "offline") -> Live:
        live = Live.start(growing, mode, "study", poll_s=0.2)
        assert live is not None
        begun.append(live)
        return live

    yield begin
    for live in begun:
        live.process.kill()
        live.process.wait()
        if live.process.stdin is not None:
            live.process.stdin.close()


def until(met: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def sent(run: Path, kind: str) -> list[Path]:
    return list((run / "wandb").glob(f"offline-run-*-{kind}-*"))


def test_results_appear_while_the_grid_runs_and_the_summary_at_its_end(
    run: Path, growing: Path, start: Callable[..., Live], written: Read
) -> None:
    live = start()
    shutil.copytree(run / "stages", growing / "stages")
    until(lambda: sent(growing, "stage"))
    shutil.copytree(run / "cells", growing / "cells")
    until(lambda: len(sent(growing, "cell")) == 3)
    assert not sent(growing, "summary")
    for name in ("results.csv", "audit.json"):
        shutil.copy(run / name, growing)
    shutil.copytree(run / "report", growing / "report")
    assert live.finish(PATIENCE_S) is None
    assert sorted(i.split("-")[0] for i in written(growing)) == ["cell", "cell", "cell", "stage", "summary"]
    done = Syncer(growing, "offline", "study").sync(final=True)
    assert (done.sent, done.kept) == (0, 5)


def test_a_grid_that_is_killed_leaves_what_it_finished(
    run: Path, growing: Path, start: Callable[..., Live], written: Read
) -> None:
    live = start()
    shutil.copytree(run / "cells", growing / "cells")
    shutil.copy(run / "results.csv", growing)
    assert live.process.stdin is not None
    live.process.stdin.close()  # what the system does when the grid's process dies
    assert live.process.wait(PATIENCE_S) == 0
    assert {i.split("-")[0] for i in written(growing)} == {"cell"}


def test_a_killed_process_costs_the_grid_nothing(
    run: Path, growing: Path, start: Callable[..., Live], written: Read
) -> None:
    live = start()
    shutil.copytree(run / "cells", growing / "cells")
    until(lambda: sent(growing, "cell"))  # killed in the middle of its work
    live.process.kill()
    for name in ("results.csv", "audit.json"):
        shutil.copy(run / name, growing)
    console = Console(width=200, file=io.StringIO())
    began = time.monotonic()
    command_wandb.finish(live, growing, console)
    told = console.file.getvalue()
    assert time.monotonic() - began < 5
    assert told.count("\n") == 1
    assert "ended early" in told
    assert f"bench wandb-sync {growing}" in told
    Syncer(growing, "offline", "study").sync(final=True)
    assert sorted(i.split("-")[0] for i in written(growing)) == ["cell", "cell", "cell", "summary"]


def test_a_hanging_process_is_left_behind(run: Path, growing: Path, start: Callable[..., Live]) -> None:
    live = start()
    live.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert live.finish(0.5) == "it is still being filled in the background"
    assert time.monotonic() - began < 5


def test_no_network_costs_the_grid_nothing(
    run: Path, growing: Path, start: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    live = start("online")
    shutil.copytree(run / "cells", growing / "cells")
    problem = live.finish(PATIENCE_S)
    assert problem is not None
    assert problem.startswith("W&B (online): ")
    assert "\n" not in problem


def test_a_process_that_cannot_start_is_said_in_one_line(growing: Path) -> None:
    (growing / "wandb").write_text("in the way")
    console = Console(width=200, file=io.StringIO())
    assert command_wandb.start(growing, "offline", "study", console) is None
    assert "did not start" in console.file.getvalue()
    command_wandb.finish(None, growing, console)


def test_off_is_said_and_starts_nothing(growing: Path) -> None:
    console = Console(width=200, file=io.StringIO())
    assert command_wandb.start(growing, "off", "study", console) is None
    assert console.file.getvalue() == "W&B: off (no key; --wandb offline needs none)\n"
    assert not (growing / "wandb").exists()
