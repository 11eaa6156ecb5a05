import getpass
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tracking_run import ERROR, SECRETS

from voxbench.benchmark.commands import wandb as command_wandb
from voxbench.benchmark.records.store import Store
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.tracking import publish
from voxbench.benchmark.tracking.publish import TrackingError
from voxbench.benchmark.tracking.sync import CLAIM, BusyError, Syncer

Read = Callable[[Path], dict[str, Any]]


def sync(run: Path) -> tuple[int, int]:
    done = Syncer(run, "offline", "study").sync(final=True)
    assert not done.problems
    return done.sent, done.kept


def one(found: dict[str, Any], kind: str, **config: Any) -> Any:
    (match,) = [
        w for i, w in found.items() if i.startswith(kind) and all(w.config.get(k) == v for k, v in config.items())
    ]
    return match


def test_w_and_b_gets_every_stage_and_cell(run: Path, written: Read) -> None:
    assert sync(run) == (5, 0)
    found = written(run)

    cell = one(found, "cell", fraction=0.1, fold=1)
    experiment = cell.config["experiment"]
    assert cell.run.project == "study"
    assert (cell.run.run_group, cell.run.job_type) == (f"{experiment} byol", "fraction 0.1")
    assert cell.run.display_name == "byol 0.1 fold 1 seed 0"
    assert cell.config["settings"]["method"] == {"momentum": 0.99}
    assert cell.config["settings"]["encoder"] == {"name": "resnet", "depth": 10}
    assert cell.config["environment"] == {"packages": {"torch": "2.15"}, "git_commit": "abc", "device": "cpu"}
    assert [(row["_step"], row["finetune/train_loss"]) for row in cell.history] == [(5, 0.2), (10, 0.1), (15, 1 / 15)]
    told = {"auprc": 0.8333, "prevalence": 0.5, "best_step": 10, "labels/spent": 30, "cost/pretrain_seconds": 60.0}
    assert {key: cell.summary[key] for key in told} == told
    assert cell.exit_code == 0
    curve = cell.table("pr_curve_table")
    assert curve["columns"] == ["class", "recall", "precision"]
    assert ["anomalous", 1.0, 0.5] in curve["data"]
    assert ["anomalous", 0.0, 1.0] in curve["data"]

    stage = one(found, "stage")
    assert (stage.run.run_group, stage.run.job_type) == (f"{experiment} byol", "stage pretrain")
    assert len(stage.history) == 20
    assert stage.history[4]["pretrain/loss"] == 0.2
    assert {row["_step"]: row["pretrain/collapse"] for row in stage.history if "pretrain/collapse" in row} == {
        1: 0.2,
        20: 0.95,
    }
    assert stage.summary["collapsed"] is True
    assert list(stage.run.tags) == ["stage", "collapsed"]

    failed = one(found, "cell", fraction=1.0)
    assert failed.exit_code == 1
    assert (failed.summary["status"], failed.summary["error_kind"]) == ("failed", "OSError")


def test_the_summary_run_has_tables_and_report(run: Path, written: Read) -> None:
    sync(run)
    summary = one(written(run), "summary")
    results = summary.table("results")
    assert not {"error", "key"} & set(results["columns"])
    rows = [dict(zip(results["columns"], row, strict=True)) for row in results["data"]]
    assert [(row["fraction"], row["fold"], row["auprc"]) for row in rows] == [
        (0.1, 0, 0.8333),
        (0.1, 1, 0.8333),
        (1, 0, None),
    ]
    fractions = summary.table("label_fraction_table")
    assert fractions["data"] == [["byol", 0.1, pytest.approx(0.8333), 0.0, 2]]
    assert summary.table("report_table")["data"] == [["byol", 0.833]]
    assert (summary.summary["cells"], summary.summary["cells_failed"], summary.summary["audit"]) == (3, 1, "clean")
    (report,) = [artifact for artifact in summary.artifacts if artifact.type == "report"]
    assert [entry.path for entry in report.manifest.contents] == ["index.html", "table.csv"]
    assert (run / "wandb" / "report" / "index.html").read_text() == (
        "<p>AUPRC 0.83</p><p>OSError (left out)</p><p>(left out) (left out)</p>"
    )


def test_nothing_private_leaves(run: Path, written: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "folder-of-the-command"
    here.mkdir()
    for command in (["init"], ["remote", "add", "origin", "git@ward7.example:secret-study.git"]):
        subprocess.run(["git", *command], cwd=here, check=True, capture_output=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", ["bench", "wandb-sync", "--secret-argument"])
    monkeypatch.setenv("USER", "ann-of-ward7")
    monkeypatch.setenv("LOGNAME", "ann-of-ward7")
    assert getpass.getuser() == "ann-of-ward7"
    sync(run)
    found = written(run)
    assert len(found) == 5
    host = socket.gethostname()
    private = [*SECRETS, ERROR, str(tmp_path), str(run), str(Path.home()) + "/", "secret-argument", "secret-study"]
    for one in found.values():
        assert one.run.host == "voxbench"
        assert not one.run.HasField("git")
        sent = [one.text, *(p.read_bytes() for p in (one.folder / "files").rglob("*") if p.is_file())]
        for content in sent:
            leaks = [secret for secret in private if secret.encode() in content]
            assert not leaks
            assert f'"{host}"'.encode() not in content
        assert {p.suffix for p in (one.folder / "files").rglob("*") if p.is_file()} <= {".json"}
        assert not list((one.folder / "files").glob("wandb-metadata.json"))
    for copy in (run / "wandb" / "report").rglob("*"):
        assert not [secret for secret in private if secret.encode() in copy.read_bytes()]


def test_twice_is_once(run: Path, written: Read) -> None:
    sync(run)
    first = {identity: one.folder for identity, one in written(run).items()}
    assert sync(run) == (0, 5)
    assert {identity: one.folder for identity, one in written(run).items()} == first


def test_what_changed_takes_the_place_of_the_old(run: Path, written: Read) -> None:
    sync(run)
    path = next(p for p in (run / "cells" / "byol").glob("*.json") if json.loads(p.read_text())["status"] == "failed")
    mended = json.loads(next(p for p in (run / "cells" / "byol").glob("*.json") if p != path).read_text())
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**mended, "cell": record["cell"], "key": record["key"]}))
    assert sync(run) == (2, 3)  # the cell, and the summary with it
    again = one(written(run), "cell", fraction=1.0)  # fails if one id has two folders
    assert (again.exit_code, again.summary["status"]) == (0, "ok")


def test_a_forgotten_half_written_run_is_replaced(run: Path, written: Read) -> None:
    sync(run)
    (run / "wandb" / "ledger.json").unlink()  # as if killed before anything was noted
    assert sync(run) == (5, 0)
    assert len(written(run)) == 5


def test_a_damaged_record_does_not_stop_the_others(run: Path, written: Read) -> None:
    damaged = run / "cells" / "byol" / "aaaa.json"
    damaged.write_text('{"status": "ok"')
    done = Syncer(run, "offline", "study").sync(final=True)
    assert done.sent == 5
    assert len(done.problems) == 1
    assert done.problems[0].startswith("cells/byol/aaaa.json: ")


def test_two_at_once_are_refused(run: Path) -> None:
    claim = Store(run).claim(CLAIM)
    assert claim is not None
    with claim, pytest.raises(BusyError, match="another process"):
        sync(run)
    assert sync(run) == (5, 0)


def test_no_network_is_one_clear_line_and_harms_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(publish, "INIT_TIMEOUT_S", 2.0)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(TrackingError, match="connection refused") as caught:
        Syncer(run, "online", "study").sync(final=True)
    assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in before} == before
    assert not (run / "wandb" / "ledger.json").exists()
    assert sync(run) == (5, 0)  # and the same folder can still be written offline


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, "off"),
        (None, {"WANDB_API_KEY": "x"}, "online"),
        (None, {"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline"),
        (None, {"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "off"),
        ("offline", {}, "offline"),
        ("off", {"WANDB_API_KEY": "x"}, "off"),
        ("online", {"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "online"),
    ],
)
def test_choice(given: str | None, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command_wandb.choose(given) == expected


def test_a_key_from_wandb_login_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(os.environ["NETRC"])
    path.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    path.chmod(0o600)
    assert not command_wandb.has_key()  # another server
    monkeypatch.delenv("WANDB_BASE_URL")
    assert command_wandb.has_key()


def test_user_errors(run: Path, tmp_path: Path) -> None:
    console = Console(quiet=True)
    with pytest.raises(BenchError, match="wandb login"):
        command_wandb.choose("online")
    with pytest.raises(BenchError, match="wandb login"):
        command_wandb.sync(run, "online", "study", console)
    with pytest.raises(BenchError, match="wandb login"):
        command_wandb.dashboard(run, "study", None, console)
    with pytest.raises(BenchError, match="not a run folder"):
        command_wandb.sync(tmp_path, "offline", "study", console)
