"""Files of a run that were cut, edited, swapped or hit by a flipped bit: never averaged in, always made again."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from voxbench.benchmark.commands.run import Arguments, execute
from voxbench.benchmark.records.store import Store
from voxbench.benchmark.running.runner import Run
from voxbench.reports.reading.run_folder import ReportError, read_run

Bench = Callable[..., int]
COSTS = {"pretrain_seconds", "finetune_seconds", "peak_memory_mb"}


def table(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in COSTS} for row in csv.DictReader(file)]


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


def kinds(run: Path) -> Iterator[tuple[str, Callable[[], object], int]]:
    """What is done to the folder, and how many files are then in damaged/."""
    a, b = sorted(run.glob("cells/simclr/*.json"))[:2]
    stage = next(run.glob("stages/*"))
    record, weights = stage / "stage.json", stage / "encoder.safetensors"
    yield "a cell's scores set to its labels", lambda: change(a, perfect), 1
    yield "a cell's AUPRC alone", lambda: change(a, lambda r: r["metrics"].update(auprc=0.99)), 1
    yield "a cell's seal taken out", lambda: change(a, lambda r: r.pop("seal")), 1
    yield "a cell cut short", lambda: a.write_bytes(a.read_bytes()[:-100]), 1
    yield "a cell emptied", lambda: a.write_text(""), 1
    yield "a bit of a cell", lambda: flip(a), 1
    yield "a cell replaced by other JSON", lambda: a.write_text('{"mine": 1}'), 1
    yield "another program's file", lambda: a.with_name("foreign.json").write_text('{"cell": 1}'), 1
    yield "two cells swapped", lambda: swap(a, b), 2
    yield "a cell deleted", a.unlink, 0
    yield "a stage's loss curve", lambda: (change(record, lambda r: r["curve"].pop()), a.unlink()), 1
    yield "weights cut short", lambda: (weights.write_bytes(weights.read_bytes()[:40]), a.unlink()), 2
    yield "a bit of the weights", lambda: (flip(weights, 0.9), a.unlink()), 2
    yield "weights deleted", lambda: (weights.unlink(), a.unlink()), 1


def test_what_is_damaged_is_set_aside_and_computed_again(planned: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def work() -> list[str]:
        """As `bench run` does, without the report."""
        run = planned(("protocol.pretrain_per_fold=true",), methods="simclr,supervised", out=folder)
        run.open_folder()
        tasks = run.tasks()
        aside = run.store.set_aside()
        run.work(tasks)
        assert {cell["status"] for cell in run.collect()} == {"ok"}
        return aside

    assert work() == []
    undisturbed = table(folder)
    for name, damage, lost in kinds(folder):
        damage()
        aside = work()
        assert table(folder) == undisturbed, name
        assert len(aside) == lost, (name, aside)
        assert len([path for path in folder.rglob("damaged/**/*") if path.is_file()]) == lost, name
        shutil.rmtree(folder / "damaged", ignore_errors=True)
        assert not list(folder.rglob(".part-*")), name


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
