"""`bench run --wandb offline` as typed, on a grid with a job that kills its process: what W&B then has of it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tracking"))
from tracking_run import Written, read_written

from voxbench.benchmark.tracking.sync import Syncer

PATIENCE_S = 120.0  # after its 30 s the command leaves W&B to a process of its own, which may take longer when busy
KILLER = """
import os
from voxbench.methods.base import Method, Stage

class Killer(Method):
    name = "killer"
    about = "takes its process down with it, as the kernel does when memory runs out"

    def stages(self):
        def loss(batch):
            os._exit(9)
        return (Stage(name="only", module=self.encoder, loss=loss),)
"""


@dataclass(frozen=True)
class Ended:
    """A `bench run` that came to its end."""

    out: Path
    done: subprocess.CompletedProcess[str]

    def rows(self) -> list[dict[str, str]]:
        with (self.out / "results.csv").open() as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def without_key(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment without the developer's W&B key and settings, and without a server to reach."""
    folder = tmp_path_factory.mktemp("wandb")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {f"WANDB_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "CACHE", "DATA")}
    return {**kept, **own, "NETRC": str(folder / "no-netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]], without_key: dict[str, str]
) -> Ended:
    folder = tmp_path_factory.mktemp("killer")
    (folder / "killer.py").write_text(KILLER)
    out = folder / "run"
    methods = f"supervised,{folder / 'killer.py'}:Killer"
    words = ["--methods", methods, "--fractions", "1.0", "--folds", "2", "--out", str(out)]
    wandb = ["--wandb", "offline", "--wandb-project", "study"]
    done = subprocess.run(
        command(*words, *wandb), capture_output=True, text=True, timeout=280, env=without_key, check=False
    )
    return Ended(out, done)


def test_a_job_that_kills_its_worker_is_named_and_the_others_finish(ended: Ended) -> None:
    assert ended.done.returncode == 1, ended.done.stderr
    assert {(row["method"], row["status"]) for row in ended.rows()} == {("supervised", "ok"), ("killer", "failed")}
    error = next(row["error"] for row in ended.rows() if row["method"] == "killer")
    assert "worker process died 2 times" in error


def written(run: Path) -> dict[str, Written]:
    """Run id -> what W&B wrote, once its process has noted the summary, which comes last."""
    ledger, end = run / "wandb" / "ledger.json", time.monotonic() + PATIENCE_S
    while not (ledger.is_file() and "summary" in ledger.read_text()):
        assert time.monotonic() < end, (run / "wandb" / "live.log").read_text()
        time.sleep(0.2)
    found = {}
    for folder in (run / "wandb").glob("offline-run-*"):
        one = read_written(folder)
        assert one.run.run_id not in found, "a result is there twice"
        found[one.run.run_id] = one
    return found


def test_w_and_b_has_every_result_of_the_run(ended: Ended) -> None:
    assert "W&B: offline, files in" in ended.done.stdout
    found = written(ended.out)
    cells = [one for name, one in found.items() if name.startswith("cell")]
    assert len(cells) == len(ended.rows()) == 4
    assert {one.run.project for one in found.values()} == {"study"}
    assert len({one.run.run_group.split(" ")[0] for one in cells}) == 1  # one experiment
    by_place = {(one.config["method"], one.config["fold"]): one for one in cells}
    for row in ended.rows():
        one = by_place[row["method"], int(row["fold"])]
        assert one.exit_code == (row["status"] == "failed")
        if row["status"] == "ok":
            assert one.summary["auprc"] == pytest.approx(float(row["auprc"]))
            assert len(one.history) > 0
    (summary,) = [one for name, one in found.items() if name.startswith("summary")]
    assert (summary.summary["cells"], summary.summary["cells_failed"]) == (4, 2)
    assert any(artifact.type == "report" for artifact in summary.artifacts)
    for one in found.values():
        content = b"".join([one.text, *(p.read_bytes() for p in (one.folder / "files").rglob("*") if p.is_file())])
        assert b"P0000" not in content
        assert str(ended.out).encode() not in content
    again = Syncer(ended.out, "offline", "study").sync(final=True)
    assert (again.sent, again.kept, again.problems) == (0, len(found), [])
