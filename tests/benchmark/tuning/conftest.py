"""A small search that every test here can afford."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from voxbench.benchmark.commands.run import Arguments
from voxbench.benchmark.commands.tune import Searched, execute, searched
from voxbench.benchmark.tuning.search import Search

Arguments_ = Callable[..., Arguments]


def asked(**given: object) -> Searched:
    values: dict[str, object] = {"trials": 2, "fraction": 0.5, "on_folds": "0", "seeds": (0,), "seed": 0}
    return Searched(**{**values, **given})  # type: ignore[arg-type]


@pytest.fixture
def tune(arguments: Arguments_, tmp_path: Path) -> Callable[..., Path]:
    """`bench tune` in this process; the run folder."""

    def run(settings: tuple[str, ...] = (), own: dict[str, object] | None = None, **given: object) -> Path:
        words = arguments(settings, **{"fractions": None, "seeds": "0,", "out": tmp_path / "tuned", **given})
        execute(words, asked(**(own or {})), Console(quiet=True))
        return words.out

    return run


@pytest.fixture
def search(arguments: Arguments_, tmp_path: Path) -> Callable[..., Search]:
    """A search, of which nothing is carried out."""

    def make(settings: tuple[str, ...] = (), own: dict[str, object] | None = None, **given: object) -> Search:
        words = arguments(settings, **{"fractions": None, "seeds": "0,", "out": tmp_path / "tuned", **given})
        return searched(words, asked(**(own or {})), Console(quiet=True))

    return make
