"""Files of a run that were cut, edited, swapped or hit by a flipped bit: never averaged in, always made again."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from voxbench.benchmark.commands import status as command_status
from voxbench.benchmark.commands.run import Arguments, execute
from voxbench.benchmark.records.store import CLAIM_STALE_S, Store
from voxbench.benchmark.settings.errors import BenchError
from voxbench.reports.reading.results import ReportError
from voxbench.reports.reading.run_folder import read_run

from ...run_folders import finished, table, tidy
from ..conftest import small, work

Bench = Callable[..., int]
GRID: dict[str, Any] = {"methods": "simclr,supervised", "folds": 2, "settings": ("protocol.pretrain_per_fold=true",)}
LONG_AGO = time.time() - 10 * CLAIM_STALE_S
IN_AN_HOUR = time.time() + 3600  # as it looks where the clock has gone back


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def flip(path: Path, place: float = 0.5) -> None:
    """One bit of the byte at this share of the file."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(bytes(content))


def perfect(record: dict[str, Any]) -> None:
    """Scores set to the labels."""
    record["metrics"]["auprc"] = 1.0
    for scored in record["scores"]:
        scored["scores"] = [1.0 - scored["label"], float(scored["label"])]


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def left(path: Path, content: str | bytes, when: float) -> None:
    """A file that another process left then."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (when, when))


def claim(host: object, pid: object) -> str:
    return json.dumps({"host": host, "pid": pid})


@dataclass(frozen=True)
class Folder:
    """Places in a finished run: two cells and the stage of the first."""

    run: Path

    @property
    def cells(self) -> tuple[Path, Path]:
        a, b = sorted(self.run.glob("cells/simclr/*.json"))
        return a, b

    @property
    def cell(self) -> Path:
        return self.cells[0]

    @property
    def stage(self) -> Path:
        return self.run / "stages" / json.loads(self.cell.read_text())["stages"][-1]

    @property
    def other_stage(self) -> Path:
        return next(path for path in self.run.glob("stages/*") if path != self.stage)

    @property
    def weights(self) -> Path:
        return self.stage / "encoder.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoints" / f"{self.cell.stem}.pt"


Damage = Callable[[Folder], object]
# What is done to the folder, and how many files are then in damaged/.
RECORDS: dict[str, tuple[Damage, int]] = {
    "a cell's scores set to its labels": (lambda at: change(at.cell, perfect), 1),
    "a cell's AUPRC alone": (lambda at: change(at.cell, lambda r: r["metrics"].update(auprc=0.99)), 1),
    "a cell's AUPRC not a number": (lambda at: change(at.cell, lambda r: r["metrics"].update(auprc=float("nan"))), 1),
    "a cell's seal taken out": (lambda at: change(at.cell, lambda r: r.pop("seal")), 1),
    "a cell cut short": (lambda at: at.cell.write_bytes(at.cell.read_bytes()[:-100]), 1),
    "a cell emptied": (lambda at: at.cell.write_text(""), 1),
    "a cell that is no text": (lambda at: at.cell.write_bytes(b"\xff\xfe\x00" * 99), 1),
    "a bit of a cell": (lambda at: flip(at.cell), 1),
    "a cell replaced by other JSON": (lambda at: at.cell.write_text('{"mine": 1}'), 1),
    "another program's file": (lambda at: at.cell.with_name("foreign.json").write_text('{"cell": 1}'), 1),
    "two cells swapped": (lambda at: swap(*at.cells), 2),
    "a cell in place of another": (lambda at: shutil.copy(*at.cells), 1),
    "a cell copied to another method": (lambda at: shutil.copy(at.cell, at.run / "cells" / "supervised"), 1),
    "a cell deleted": (lambda at: at.cell.unlink(), 0),
    "all cells deleted": (lambda at: shutil.rmtree(at.run / "cells"), 0),
}
# The same of what a cell builds on, whose own record is gone with it.
STAGES: dict[str, tuple[Damage, int]] = {
    "a stage's loss curve": (lambda at: change(at.stage / "stage.json", lambda r: r["curve"].pop()), 1),
    "a stage's record cut short": (lambda at: (at.stage / "stage.json").write_text('{"key": '), 1),
    "a stage's record deleted": (lambda at: (at.stage / "stage.json").unlink(), 0),
    "weights cut short": (lambda at: at.weights.write_bytes(at.weights.read_bytes()[:40]), 2),
    "a bit of the weights": (lambda at: flip(at.weights, 0.9), 2),
    "a bit of the whole module's weights": (lambda at: flip(at.stage / "module.safetensors"), 2),
    "weights deleted": (lambda at: at.weights.unlink(), 1),
    "weights that are a pickle": (lambda at: at.weights.write_bytes(pickle.dumps({"weights": [1.0]})), 2),
    "the weights of two stages swapped": (lambda at: swap(at.weights, at.other_stage / "encoder.safetensors"), 2),
    "two stages swapped": (lambda at: swap(at.stage / "stage.json", at.other_stage / "stage.json"), 2),
    "a stage's folder deleted": (lambda at: shutil.rmtree(at.stage), 0),
    "a checkpoint that is none": (lambda at: left(at.checkpoint, b"PK" * 500, LONG_AGO), 1),
}
LEFT: dict[str, Damage] = {
    "a half-written cell": lambda at: left(at.cell.with_name(".part-0a1b"), "{", LONG_AGO),
    "a half-written cell of a clock that has gone back": lambda at: left(at.cell.with_name(".part-0"), "{", IN_AN_HOUR),
    "half-written weights": lambda at: left(at.stage / ".part-0a1b", b"00", LONG_AGO),
    "a half-written checkpoint": lambda at: left(at.checkpoint.with_name(".part-0a1b"), b"00", LONG_AGO),
    "a checkpoint of a finished cell": lambda at: left(at.checkpoint, b"PK", LONG_AGO),
    "target maps of a finished stage": lambda at: left(at.stage / "targets.bin", b"00", LONG_AGO),
    "a claim of a dead process": lambda at: left(at.run / "claims/a", claim(gethostname(), 2**22 + 1), IN_AN_HOUR),
    "a claim of a lost machine": lambda at: left(at.run / "claims/a", claim("lost", 1), LONG_AGO),
    "a claim of a clock that has gone back": lambda at: left(at.run / "claims/a", claim("lost", 1), IN_AN_HOUR),
    "a claim that says nothing": lambda at: left(at.run / "claims/a", "", LONG_AGO),
    "a claim of nobody": lambda at: left(at.run / "claims/a", claim(gethostname(), "x"), LONG_AGO),
    "a claim that is no object": lambda at: left(at.run / "claims/a", "3", LONG_AGO),
}
MADE_ANEW: dict[str, Damage] = {
    "results.csv cut short": lambda at: (at.run / "results.csv").write_text("dataset,me"),
    "predictions.csv deleted": lambda at: (at.run / "predictions.csv").unlink(),
    "tables.json": lambda at: (at.run / "tables.json").write_text("[]"),
    "audit.json": lambda at: (at.run / "audit.json").write_text("{"),
    "environment.json": lambda at: (at.run / "environment.json").write_bytes(b"\xff"),
    "the table of ids": lambda at: (at.run / "private" / "ids.csv").write_text("x"),
    "what is private deleted": lambda at: shutil.rmtree(at.run / "private"),
    "the grids": lambda at: next(at.run.glob("private/grids/*.json")).write_text("{"),
    "config.yaml deleted": lambda at: (at.run / "config.yaml").unlink(),
    "dataset.json deleted": lambda at: (at.run / "dataset.json").unlink(),
}
REFUSED: dict[str, tuple[Damage, str]] = {
    "config.yaml cut short": (
        lambda at: (at.run / "config.yaml").write_text("dataset: {name: sinus"),
        r"config.yaml: not a configuration .* delete it, and the same command writes it anew",
    ),
    "config.yaml that would run code": (
        lambda at: (at.run / "config.yaml").write_text("dataset: !!python/object/apply:os.abort []"),
        r"config.yaml: not a configuration",
    ),
    "config.yaml with a wrong key": (
        lambda at: (at.run / "config.yaml").write_text("fintune: {}\n" + (at.run / "config.yaml").read_text()),
        r"config.yaml: not a configuration",
    ),
    "config.yaml of other settings": (
        lambda at: (at.run / "config.yaml").write_text(
            (at.run / "config.yaml").read_text().replace("mirrored: true", "mirrored: false")
        ),
        r"results of another configuration \(finetune.mirrored: False there, True here\): choose another --out",
    ),
    "dataset.json cut short": (
        lambda at: (at.run / "dataset.json").write_text('{"name": '),
        r"dataset.json: not valid JSON .*: delete the file",
    ),
    "dataset.json of other data": (
        lambda at: change(at.run / "dataset.json", lambda d: d.update(fingerprint="f" * 64)),
        r"holds results on other data .*: choose another --out",
    ),
}


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nothing has happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    aside, statuses = work(small(cache, out)(**GRID))
    assert (aside, statuses) == ([], {"ok"})
    return out


@pytest.fixture
def at(whole: Path, tmp_path: Path) -> Folder:
    """A copy of it."""
    return Folder(Path(shutil.copytree(whole, tmp_path / "run")))


def mended(at: Folder, arguments: Callable[..., Arguments], whole: Path) -> int:
    """Runs the same grid again, looks for the undisturbed table, and counts what was set aside."""
    aside, statuses = work(arguments(**GRID))
    assert statuses == {"ok"}
    assert table(at.run) == table(whole)
    assert tidy(at.run)
    kept = [path for path in at.run.rglob("damaged/**/*") if path.is_file()]
    assert len(aside) <= len(kept)
    return len(kept)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_damaged_cell_is_set_aside_and_computed_again(
    kind: str, at: Folder, arguments: Callable[..., Arguments], whole: Path
) -> None:
    damage, lost = RECORDS[kind]
    damage(at)
    assert mended(at, arguments, whole) == lost


@pytest.mark.parametrize("kind", STAGES)
def test_a_damaged_stage_is_set_aside_and_trained_again(
    kind: str, at: Folder, arguments: Callable[..., Arguments], whole: Path
) -> None:
    damage, lost = STAGES[kind]
    cell = at.cell
    damage(at)
    cell.unlink()
    assert mended(at, arguments, whole) == lost


@pytest.mark.parametrize("kind", LEFT)
def test_what_the_killed_left_is_removed_and_nothing_computed(
    kind: str, at: Folder, arguments: Callable[..., Arguments], whole: Path
) -> None:
    before = finished(at.run)
    LEFT[kind](at)
    assert mended(at, arguments, whole) == 0
    assert finished(at.run) == before


@pytest.mark.parametrize("kind", MADE_ANEW)
def test_what_follows_from_the_records_is_made_anew_from_them(
    kind: str, at: Folder, arguments: Callable[..., Arguments], whole: Path
) -> None:
    before = finished(at.run)
    MADE_ANEW[kind](at)
    assert mended(at, arguments, whole) == 0
    assert finished(at.run) == before


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trusted_is_refused_in_one_line_and_left_as_it_is(
    kind: str, at: Folder, arguments: Callable[..., Arguments]
) -> None:
    damage, said = REFUSED[kind]
    damage(at)
    before = {path: path.read_bytes() for path in at.run.rglob("*") if path.is_file()}
    with pytest.raises(BenchError, match=said) as caught:
        work(arguments(**GRID))
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in at.run.rglob("*") if path.is_file()} == before


def test_looking_at_a_folder_runs_nothing_that_lies_in_it(at: Folder, tmp_path: Path) -> None:
    """A colleague's folder may hold any code: in `plugins/`, and named by its configuration."""
    marker = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    for file in (at.run / "plugins" / "mine" / "mine.py", at.run / "sitecustomize.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    config = yaml.safe_load((at.run / "config.yaml").read_text())
    config["sources"] = {"simclr": f"{at.run}/plugins/mine/mine.py:Mine"}
    (at.run / "config.yaml").write_text(yaml.safe_dump(config))
    read_run(at.run)
    command_status.status(at.run, Console(quiet=True), keys=True)
    assert not marker.exists()


def test_the_user_is_told_what_was_damaged(arguments: Callable[..., Arguments], tmp_path: Path) -> None:
    assert execute(arguments(), Console(quiet=True)) == 0
    cell = next((tmp_path / "run").glob("cells/*/*.json"))
    flip(cell)
    said = io.StringIO()
    assert execute(arguments(), Console(file=said)) == 0
    assert f"damaged: {cell.relative_to(tmp_path / 'run')} is not as it was written" in said.getvalue()


def test_a_dry_run_moves_nothing(bench: Bench, tmp_path: Path) -> None:
    assert bench() == 0
    cell = next((tmp_path / "run").glob("cells/*/*.json"))
    flip(cell)
    before = cell.read_bytes()
    assert bench(dry_run=True) == 0
    assert cell.read_bytes() == before
    assert not (tmp_path / "run" / "damaged").exists()


@pytest.mark.parametrize("name", ["results.csv", "predictions.csv"])
def test_an_edited_table_is_not_reported_on_until_it_is_made_anew(bench: Bench, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    assert bench() == 0
    path = run / name
    path.write_text(path.read_text().replace("supervised", "our-method"))
    with pytest.raises(ReportError, match=rf"{name}: is not as `bench run` wrote it .* run the same"):
        read_run(run)
    assert bench() == 0
    assert {row.place.method for row in read_run(run).rows} == {"supervised"}


def state(step: int) -> dict[str, Any]:
    return {"training": {"step": step, "module": {"w": torch.ones(50)}}, "seconds": 1.5, "seen": [1, 2]}


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_of_two_checkpoints_the_last_whole_one_is_taken(tmp_path: Path, place: float) -> None:
    store = Store(tmp_path)
    assert store.load_checkpoint("k") is None
    for step in (3, 4, 5):
        store.save_checkpoint("k", state(step))
    loaded = store.load_checkpoint("k")
    assert loaded is not None and loaded["training"]["step"] == 5
    assert torch.equal(loaded["training"]["module"]["w"], torch.ones(50))
    flip(tmp_path / "checkpoints" / "k.pt", place)
    loaded = store.load_checkpoint("k")
    assert loaded is not None and loaded["training"]["step"] == 4
    (tmp_path / "checkpoints" / "k.before.pt").write_bytes(b"")
    assert store.load_checkpoint("k") is None
    assert {path.name for path in (tmp_path / "damaged" / "checkpoints").iterdir()} == {"k.pt.0", "k.before.pt.0"}
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    store = Store(tmp_path)
    store.save_checkpoint("k", {"training": Evil()})
    assert store.load_checkpoint("k") is None
    assert not (tmp_path / "ran").exists()
    assert [path.name for path in (tmp_path / "damaged" / "checkpoints").iterdir()] == ["k.pt.0"]
