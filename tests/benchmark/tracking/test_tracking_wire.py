"""What the real wandb client sends to a server, how often each thing is there, and what never left."""

from __future__ import annotations

import getpass
import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
from rich.console import Console
from stand_in import StandIn
from tracking_run import ERROR, PATIENT, SECRETS

from voxbench.benchmark.commands import wandb as command_wandb
from voxbench.benchmark.tracking import publish
from voxbench.benchmark.tracking.background import Live
from voxbench.benchmark.tracking.publish import TrackingError
from voxbench.benchmark.tracking.sync import Syncer

USER = "ann-of-ward7"
KEY = "5ec2e7" + "0" * 34


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        for name in ("USER", "LOGNAME"):
            monkeypatch.setenv(name, USER)
        wandb.teardown()  # its service would go on with the server of before
        yield server
        wandb.teardown()


def sync(run: Path) -> tuple[int, int]:
    done = Syncer(run, "online", "study").sync(final=True)
    assert not done.problems
    return done.sent, done.kept


def each_thing_is_there_once(server: StandIn) -> None:
    kinds = sorted(name.split("-")[0] for name in server.runs)
    assert kinds == ["cell", "cell", "cell", "stage", "summary"]
    for name, run in server.runs.items():
        steps = [row["_step"] for row in run.history]
        if not name.startswith("summary"):
            assert steps == sorted(set(steps)), name
    stage = next(run for name, run in server.runs.items() if name.startswith("stage"))
    assert [row["pretrain/loss"] for row in stage.history] == [1 / step for step in range(1, 21)]
    done = [run for run in server.runs.values() if run.config.get("fraction") == 0.1]
    assert {run.summary["auprc"] for run in done} == {0.8333}
    assert [row["finetune/train_loss"] for row in done[0].history] == [0.2, 0.1, 1 / 15]
    assert sorted(run.exit_code for run in server.runs.values() if run.exit_code is not None) == [0, 0, 0, 0, 1]
    (report,) = [one for one in server.artifacts.values() if one["what"][0] == "report"]
    assert report["state"] == "COMMITTED"
    assert sorted(report["files"]) == ["index.html", "table.csv"]


def nothing_private_left(server: StandIn, *places: Path) -> None:
    private = [*SECRETS, ERROR, PATIENT, USER, *map(str, places), str(Path.home()) + "/", str(Path(sys.prefix))]
    sent = server.everything
    found = {secret: sent[max(0, at - 300) : at + 300] for secret in private if (at := sent.find(secret.encode())) >= 0}
    assert not found
    host, user = socket.gethostname(), getpass.getuser()
    assert not [name for name in (host, user) if f'"{name}"'.encode() in sent or f'\\"{name}\\"'.encode() in sent]


def key_is_kept_nowhere(run: Path) -> None:
    assert not [path for path in run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_each_thing_is_there_once_however_often_it_is_sent(run: Path, server: StandIn, tmp_path: Path) -> None:
    assert sync(run) == (5, 0)
    each_thing_is_there_once(server)
    opened = server.asked["RunResumeStatus"]
    assert sync(run) == (0, 5)
    assert server.asked["RunResumeStatus"] == opened
    (run / "wandb" / "ledger.json").unlink()  # as if killed before anything was noted
    assert sync(run) == (5, 0)
    each_thing_is_there_once(server)
    nothing_private_left(server, run, tmp_path)


def test_an_interrupted_sync_is_completed_by_the_next(run: Path, server: StandIn, tmp_path: Path) -> None:
    live = Live.start(run, "online", "study", poll_s=0.2)
    assert live is not None and live.process.stdin is not None
    end = time.monotonic() + 200
    while server.asked["file stream"] < 4 and time.monotonic() < end:
        time.sleep(0.05)
    live.process.kill()
    live.process.wait()
    live.process.stdin.close()
    key_is_kept_nowhere(run)
    noted = (run / "wandb" / "ledger.json").exists()
    sent, kept = sync(run)
    assert sent + kept == 5 and sent > 0
    assert noted is (kept > 0)
    each_thing_is_there_once(server)
    nothing_private_left(server, run, tmp_path)


def test_the_workspace_is_made_once_and_then_updated(run: Path, server: StandIn) -> None:
    said = Console(file=io.StringIO(), width=200)
    for _ in range(2):
        command_wandb.dashboard(run, "study", None, said)
    (view,) = server.views.values()
    assert view["entityName"] == "team" and view["projectName"] == "study"
    assert server.asked["UpsertView2"] == 2
    nothing_private_left(server, run)


def test_a_server_that_refuses_is_one_line(run: Path, server: StandIn) -> None:
    server.mood = "401"
    began = time.monotonic()
    with pytest.raises(TrackingError, match=r"W&B \(online\): ") as caught:
        sync(run)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60
    server.mood = "well"
    assert sync(run) == (5, 0)


@pytest.mark.parametrize("mood", ["hangs", "500"])
def test_a_server_without_an_answer_is_given_up(
    run: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, mood: str
) -> None:
    monkeypatch.setattr(publish, "INIT_TIMEOUT_S", 1.0)
    server.mood = mood  # type: ignore[assignment]
    with pytest.raises(TrackingError, match=r"W&B \(online\): "):
        sync(run)
    assert not (run / "wandb" / "ledger.json").exists()


def test_a_hanging_server_does_not_hold_the_grid(run: Path, server: StandIn, tmp_path: Path) -> None:
    growing = Path(shutil.copytree(run, tmp_path / "growing"))
    server.mood = "hangs"
    live = Live.start(growing, "online", "study", poll_s=0.2)
    assert live is not None
    try:
        end = time.monotonic() + 200
        while not server.sent and time.monotonic() < end:
            time.sleep(0.1)
        began = time.monotonic()
        assert live.finish(0.5) == "it is still being filled in the background"
        assert time.monotonic() - began < 20
    finally:
        live.process.kill()
        live.process.wait()
        if live.process.stdin is not None:
            live.process.stdin.close()


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mood", ["slow", "hangs", "500", "401"])
def test_a_bad_server_costs_the_grid_nothing(
    mood: str, server: StandIn, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    """Its exit code is that of a run without W&B, and its time that and the 30 s in which it waits at its end."""

    def timed(out: str, *words: str) -> float:
        began = time.monotonic()
        grid = ("--methods", "supervised", "--fractions", "1.0", "--folds", "2", "--workers", "1")
        done = subprocess.run(command(*grid, "--out", str(tmp_path / out), *words), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - began

    without = timed("without", "--wandb", "off")
    server.mood = mood  # type: ignore[assignment]
    assert timed("with", "--wandb", "online") < 1.5 * without + command_wandb.END_WAIT_S + 10
    assert server.sent
    nothing_private_left(server, tmp_path)
