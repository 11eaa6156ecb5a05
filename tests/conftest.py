"""`bench` as a user types it, for every test that wants its words and its exit code."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from voxbench.benchmark.cli import main

# A machine with a GPU may have no registry, and lack packages that its tests don't need. CI installs them all.
NEEDED_BY = {
    "wandb": ("benchmark/tracking", "benchmark/commands/test_wandb.py"),
    "submitit": ("benchmark/cluster",),
    "SimpleITK": ("datasets/prepare", "datasets/sinus/test_implant.py"),
}
ABSENT = [package for package in NEEDED_BY if importlib.util.find_spec(package) is None]
collect_ignore = [path for package in ABSENT for path in NEEDED_BY[package]]


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would every process that a test interrupts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    return [f"left out for want of {package}: {', '.join(NEEDED_BY[package])}" for package in ABSENT]


class Said(NamedTuple):
    """What one command left on the terminal."""

    code: int
    out: str
    err: str


Typed = Callable[..., Said]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    """Runs `bench WORD ...` in this process; an error that would be a traceback fails the test."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process goes on
        capfd.readouterr()
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        else:
            code = 0
        return Said(code, *capfd.readouterr())

    return run
