"""`bench run` from its arguments to its files: every method, resumption, failures, determinism."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from voxbench.benchmark.running.results import COLUMNS
from voxbench.benchmark.settings.errors import BenchError

from ...conftest import Typed
from ..conftest import PHANTOM

Bench = Callable[..., int]
Command = Callable[..., list[str]]
YARDSTICKS = {"block-means", "block-means-trees", "pca", "random-encoder"}  # `shape` is not for images
FAILING = """
from voxbench.methods.base import Method, Stage

class Failing(Method):
    name = "failing"
    about = "a method with a bug"

    def stages(self):
        def loss(batch):
            raise RuntimeError("a bug in the loss")
        return (Stage(name="only", module=self.encoder, loss=loss),)
"""


PRIVATE_IDS = """
from voxbench.datasets.sinus.phantom import SinusPhantom

class PrivateIds(SinusPhantom):
    public_ids = False
"""


def rows(run: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (run / name).open() as file:
        return list(csv.DictReader(file))


def without_costs(run: Path) -> list[dict[str, str]]:
    costs = {"pretrain_seconds", "finetune_seconds", "peak_memory_mb"}
    return [{k: v for k, v in row.items() if k not in costs} for row in rows(run)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """All methods once, by the command that a user types, in two worker processes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    words = command("--methods", "all", "--fractions", "0.3,1.0", "--out", str(out))
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "AUPRC" in done.stdout
    assert str(out / "report") in done.stdout.replace("\n", "")
    return out


def test_every_method_gets_its_rows(whole: Path) -> None:
    found = rows(whole)
    trained = {"residual", "byol", "simsiam", "simclr", "spark"}
    assert len(found) == 10 * 2 * 3
    assert {row["method"] for row in found} == trained | {"supervised"} | YARDSTICKS
    assert list(found[0]) == COLUMNS
    for row in found:
        assert row["status"] == "ok"
        assert 0 < float(row["auprc"]) <= 1
        assert (float(row["pretrain_seconds"]) > 0) == (row["method"] in trained)
        assert (row["role"] == "yardstick") == (row["method"] in YARDSTICKS)
        spent = int(row["n_train_labels"]) + int(row["n_val_labels"])
        assert int(row["n_labels_spent"]) == spent  # strict: the autoencoder's normals are among them
        assert (int(row["n_normal_labels"]) > 0) == (row["method"] == "residual")


def test_each_labelled_patient_is_tested_once_a_seed_and_ids_are_codes(whole: Path) -> None:
    predictions = rows(whole, "predictions.csv")
    for method in ("residual", "supervised"):
        volumes = [r["volume"] for r in predictions if r["method"] == method and r["fraction"] == "1.0"]
        assert len(volumes) == len(set(volumes)) == 60
    ids = (whole / "private" / "ids.csv").read_text()
    assert predictions[0]["patient"] in ids and '"P0000"' in ids
    public = [p for p in whole.rglob("*") if p.is_file() and p.suffix in (".csv", ".json", ".yaml", ".md", ".html")]
    for path in public:
        if "private" not in path.parts:
            assert "P0000" not in path.read_text(), path


def test_the_audit_is_clean_and_says_what_was_compared(whole: Path) -> None:
    audit = json.loads((whole / "audit.json").read_text())
    assert audit["outcome"] == "clean"
    assert audit["planned"]["checks"] and audit["served"]["checks"]


def test_pretraining_losses_are_recorded_and_examples_drawn(whole: Path) -> None:
    stages = [json.loads(path.read_text()) for path in whole.glob("stages/*/stage.json")]
    assert {(s["method"], s["stage"]) for s in stages} >= {("residual", "autoencoder"), ("spark", "spark")}
    for stage in stages:
        assert stage["curve"][-1]["step"] == stage["steps"]
        assert (stage["collapse"] is not None) == (stage["method"] in ("byol", "simsiam", "simclr"))
    assert list(whole.glob("stages/*/examples.npz"))
    assert not list(whole.glob("stages/*/targets*"))
    assert not list(whole.glob("claims/*"))


def test_one_process_gives_the_table_of_two_to_the_last_digit(whole: Path, bench: Bench, tmp_path: Path) -> None:
    assert bench(methods="all", fractions="0.3", out=tmp_path / "again") == 0
    again = without_costs(tmp_path / "again")
    assert len(again) == 10 * 3
    assert again == [row for row in without_costs(whole) if row["fraction"] == "0.3"]


def test_the_command_on_the_page_names_the_same_grid(whole: Path, cache: Path, typed: Typed) -> None:
    """As typed from the page, into the folder that is there: every cell of its plan is already done."""
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    shown = next(block for block in blocks if "bench run" in block)
    words = shlex.split(html.unescape(shown).splitlines()[-1])
    places = {"RUN/config.yaml": str(whole / "config.yaml"), "AGAIN": str(whole)}
    assert words[0] == "bench"
    shown_words = [places.get(word, word) for word in words[1:]]
    code, said, _ = typed(*shown_words, "--cache", cache, "--device", "cpu", "--dry-run")
    assert code == 0
    assert [said.count(done) for done in ("18/18", " 7/7", " 6/6")] == [1, 4, 5]


def test_the_same_command_again_computes_nothing(bench: Bench, tmp_path: Path) -> None:
    assert bench() == 0
    cells = sorted((tmp_path / "run" / "cells").rglob("*.json"))
    before = [(p, p.stat().st_mtime_ns) for p in cells]
    table = (tmp_path / "run" / "results.csv").read_text()
    assert bench() == 0
    assert [(p, p.stat().st_mtime_ns) for p in cells] == before
    assert (tmp_path / "run" / "results.csv").read_text() == table


def test_a_grown_grid_keeps_what_is_there(bench: Bench, tmp_path: Path) -> None:
    assert bench() == 0
    assert bench(fractions="1.0", methods="supervised,simclr") == 0
    found = rows(tmp_path / "run")
    assert {(r["method"], r["fraction"]) for r in found} == {
        ("supervised", "0.5"),
        ("supervised", "1.0"),
        ("simclr", "1.0"),
    }
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["protocol"]["fractions"] == [0.5, 1.0]


def test_another_configuration_needs_another_folder(bench: Bench, tmp_path: Path) -> None:
    assert bench() == 0
    table = (tmp_path / "run" / "results.csv").read_text()
    for change, message in (
        ("finetune.steps=7", r"finetune\.steps: 4 there, 7 here"),
        ("dataset.seed=3", r"dataset\.seed"),
        ("encoder.widths=[8,8,8,8]", r"encoder\.widths"),
    ):
        for dry in (False, True):
            with pytest.raises(BenchError, match=message + ".*choose another --out"):
                bench((change,), dry_run=dry)
    assert (tmp_path / "run" / "results.csv").read_text() == table


def test_results_of_other_code_do_not_stand_in_the_table(bench: Bench, tmp_path: Path) -> None:
    given = {"methods": "supervised", "fractions": "0.5,1.0"}
    assert bench(**given) == 0
    for path in (tmp_path / "run" / "cells").glob("*/*.json"):
        record = json.loads(path.read_text())
        if record["cell"]["fraction"] == 1.0 and record["cell"]["fold"] != 2:
            change = {"result_version": 0} if record["cell"]["fold"] == 0 else {"encoder_digest": "another"}
            path.write_text(json.dumps({**record, **change}))
    assert bench(**{**given, "fractions": "0.5"}) == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert sorted(rows.fold[rows.fraction == 1.0]) == [2]
    assert len(rows[rows.fraction == 0.5]) == 3


def test_a_folder_that_cannot_be_made_is_named(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match=r"--out .*file.run: cannot be written \(.+\): name another folder"):
        bench(out=tmp_path / "file" / "run")


def test_another_salt_needs_another_folder(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private_ids.py").write_text(PRIVATE_IDS)
    data = {"dataset": f"{tmp_path / 'private_ids.py'}:PrivateIds"}
    monkeypatch.setenv("VOXBENCH_SALT", "one")
    assert bench(PHANTOM, **data) == 0
    monkeypatch.setenv("VOXBENCH_SALT", "another")
    with pytest.raises(BenchError, match="codes of another salt: set VOXBENCH_SALT"):
        bench(PHANTOM, fractions="1.0", **data)


def test_a_failing_method_is_reported_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    assert bench(methods=f"supervised,{tmp_path / 'failing.py'}:Failing") == 1
    found = {row["method"]: row for row in rows(tmp_path / "run")}
    assert found["supervised"]["status"] == "ok"
    assert found["failing"]["status"] == "failed"
    assert "a bug in the loss" in found["failing"]["error"]
    record = json.loads(next((tmp_path / "run" / "stages").rglob("stage.json")).read_text())
    assert "RuntimeError" in record["traceback"]
    assert "failing" in (tmp_path / "run" / "report" / "table.md").read_text()


def test_a_mended_method_replaces_its_failed_rows(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING)
    assert bench(methods=f"{file}:Failing") == 1
    mended = FAILING.replace(
        'raise RuntimeError("a bug in the loss")', "return self.encoder(batch.views[0]).pow(2).mean()"
    )
    file.write_text(mended)
    # A new process would import the file anew; here the module is dropped by hand.
    for name in [n for n in sys.modules if n.startswith("voxbench_plugin_")]:
        del sys.modules[name]
    assert bench(methods=f"{file}:Failing") == 0
    assert {row["status"] for row in rows(tmp_path / "run")} == {"ok"}


def test_a_fraction_without_a_class_fails_plainly(bench: Bench, tmp_path: Path) -> None:
    assert bench(fractions="0.001,1.0") == 1
    found = rows(tmp_path / "run")
    failed = [row for row in found if row["status"] == "failed"]
    assert failed and all("use a larger fraction" in row["error"] for row in failed)
    assert all(row["status"] == "ok" for row in found if row["fraction"] == "1.0")


def test_a_diverging_run_says_at_which_step(bench: Bench, tmp_path: Path) -> None:
    assert bench(("pretrain.lr=1e30",), methods="simclr") == 1
    assert "lower the learning rate" in rows(tmp_path / "run")[0]["error"]


def test_a_killed_grid_goes_on_where_it_was(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "run"
    words = command("--methods", "supervised", "--fractions", "0.3,1.0", "--out", str(out), "--workers", "1")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("cells/*/*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.json")}
    assert done
    again = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "of earlier runs are kept" in again.stdout
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    assert len(rows(out)) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--methods", "simclrr"), "did you mean simclr"),
        (("run", "--dataset", "no/such.csv"), "no such file or folder"),
        (("run", "--dataset", "adrenalmnist3d", "--data-root", "nowhere"), "--data-root nowhere: no such folder"),
        (("run", "--seeds", "0"), "a number of seeds is at least 1"),
        (("run", "--seeds", "1,x"), "--seeds 1,x: expected numbers"),
        (("run", "--fractions", "0.1,1.5"), "fractions.1: input should be less than or equal to 1 (given: 1.5)"),
        (("run", "--fractions", "0"), "fractions.0: input should be greater than 0 (given: 0.0)"),
        (("run", "--set", "finetune.step=3"), "did you mean steps"),
        (("report", "nothing"), "no such folder"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_two(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: Typed,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = typed(*words)
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("background", [pytest.param(False, marks=pytest.mark.long), True])
def test_ctrl_c_says_that_nothing_is_lost(tmp_path: Path, command: Command, background: bool) -> None:
    """A scheduler's SIGTERM likewise, also where a shell had its background job ignore SIGINT."""
    out = tmp_path / "run"
    workers = "1" if background else "2"
    own = ("--out", str(out), "--workers", workers, "--wandb", "off")
    words = command("--methods", "supervised", "--fractions", "0.3,1.0", *own)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.default_int_handler)
    process = subprocess.Popen(words, start_new_session=True, **pipes)  # inherits what is ignored
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 200
    while not list(out.glob("cells/*/*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    if background:
        os.kill(process.pid, signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)
    told, problems = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in problems
    assert "Traceback" not in problems
    assert rows(out)
    assert "W&B: off" in told
    assert not (out / "wandb").exists()
