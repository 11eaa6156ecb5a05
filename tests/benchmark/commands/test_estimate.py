"""What a dry run said, held against what the grid took."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from voxbench.benchmark.commands import estimate
from voxbench.benchmark.commands.run import Arguments, execute
from voxbench.benchmark.settings.config import Runtime


@pytest.fixture
def said(arguments: Callable[..., Arguments], tmp_path: Path) -> Callable[..., str]:
    """What `bench run` prints, with a cache of the test's own."""

    def run(**given: object) -> str:
        console = Console(file=io.StringIO(), width=200)
        assert execute(arguments(("finetune.steps=4",), cache=tmp_path / "cache", **given), console) == 0
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return run


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(out=tmp_path / "run", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("took", "words"),
    [
        (60.0, "the grid took 60 s: as estimated by the dry run (60 s)"),
        (75.0, "the grid took 75 s: 25% longer than estimated by the dry run (60 s)"),
        (30.0, "the grid took 30 s: 50% shorter than estimated by the dry run (60 s)"),
    ],
)
def test_in_words(runtime: Runtime, took: float, words: str) -> None:
    estimate.keep(runtime, [], 60.0)
    assert estimate.how_far_off(runtime, [], took) == words


def test_of_another_way_to_work_or_unreadable_it_is_not_known(runtime: Runtime) -> None:
    assert estimate.how_far_off(runtime, [], 60.0) is None
    estimate.keep(runtime, [], 60.0)
    assert estimate.how_far_off(runtime.model_copy(update={"workers": 2}), [], 60.0) is None
    next((runtime.cache / "estimates").iterdir()).write_text("{")
    assert estimate.how_far_off(runtime, [], 60.0) is None


def test_a_grid_that_trains_is_held_against_its_dry_run(said: Callable[..., str]) -> None:
    given = {"methods": "supervised", "fractions": "0.3"}
    assert "nothing was run" in said(**given, dry_run=True)
    assert "the grid took" not in said(methods="supervised", fractions="0.5")
    assert re.search(r"the grid took \d+ s: (as|\d+% longer than|\d+% shorter than) estimated by", said(**given))
