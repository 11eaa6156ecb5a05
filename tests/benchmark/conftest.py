"""A small run that every test of the harness can afford: a few patients of the phantom, a few steps of training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from voxbench.benchmark.commands.run import Arguments, configuration, execute
from voxbench.benchmark.running.grid import Grid
from voxbench.benchmark.running.local import Local
from voxbench.benchmark.running.runner import Run, effort
from voxbench.benchmark.running.setup import prepare_bank
from voxbench.benchmark.settings.assemble import build_dataset

PHANTOM = ("dataset.patients=30", "dataset.pool_patients=20")
SMALL = (
    "prior.volumes=16",
    "pretrain.volumes=32",
    "pretrain.batch=8",
    "prior.batch=8",
    "finetune.steps=4",
    "finetune.epochs=0",
    "protocol.min_val_per_class=2",
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes are read once a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command(cache: Path) -> Callable[..., list[str]]:
    """The words of a small `bench run` in a process of its own, with two workers unless `words` say otherwise."""

    def make(*words: str) -> list[str]:
        own = ["--cache", str(cache), "--device", "cpu", "--precision", "float32", "--workers", "2", "--folds", "3"]
        settings = [word for setting in (*PHANTOM, *SMALL) for word in ("--set", setting)]
        return [sys.executable, "-m", "voxbench.benchmark.cli", "run", *own, *settings, *words]

    return make


Arguments_ = Callable[..., Arguments]


def small(cache: Path, out: Path) -> Arguments_:
    """Makes the arguments of a small `bench run`; keyword arguments replace them, `settings` are added."""

    def make(settings: tuple[str, ...] = (), **given: object) -> Arguments:
        values: dict[str, object] = {
            "methods": "supervised",
            "fractions": "0.5",
            "dataset": None,
            "data_root": None,
            "preset": "quick",
            "encoder": None,
            "folds": 3,
            "seeds": None,
            "protocol": None,
            "out": out,
            "cache": cache,
            "device": "cpu",
            "precision": "float32",  # the same numbers whatever the processor
            "workers": 1,
            "dry_run": False,
        }
        sizes = SMALL if given.get("dataset") else (*PHANTOM, *SMALL)
        return Arguments(**{**values, **given}, settings=(*sizes, *settings))  # type: ignore[arg-type]

    return make


def plan(given: Arguments) -> Run:
    """A planned run, nothing carried out."""
    config, runtime = configuration(given)
    bank = prepare_bank(config, runtime, lambda done, total: None)
    return Run.planned(config, runtime, build_dataset(config, runtime.data_root), bank)


def work(given: Arguments) -> tuple[list[str], set[str]]:
    """As `bench run` does, without the report: what was set aside, and how the cells ended."""
    run = plan(given)
    run.open_folder()
    tasks = run.tasks()
    aside = run.store.set_aside()
    grid = Grid.of(run.plan, effort(run), run.config, run.runtime, run.bank.folder, "cpu", retries=given.retries)
    grid.write()
    run.work(tasks, Local(run.setup(), retries=given.retries))
    return aside, {cell["status"] for cell in run.collect()}


@pytest.fixture
def arguments(cache: Path, tmp_path: Path) -> Arguments_:
    """`small` for a run folder of the test's own."""
    return small(cache, tmp_path / "run")


@pytest.fixture
def bench(arguments: Arguments_) -> Callable[..., int]:
    """`bench run` in this process; returns its exit code."""

    def run(settings: tuple[str, ...] = (), **given: object) -> int:
        return execute(arguments(settings, **given), Console(quiet=True))

    return run


@pytest.fixture
def planned(arguments: Arguments_) -> Callable[..., Run]:
    """`plan` with the arguments of `arguments`."""
    return lambda settings=(), **given: plan(arguments(settings, **given))
