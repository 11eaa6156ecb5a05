"""`bench` in a process of its own, on a finished run that many tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCH = [sys.executable, "-m", "voxbench.benchmark.cli"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    words = command("--methods", "supervised", "--fractions", "0.3,1.0", "--out", str(out), "--workers", "1")
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return out


def environment(**more: str) -> dict[str, str]:
    gone = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "PYTHONIOENCODING", "PYTHONUTF8", "COLUMNS")
    return {**{name: value for name, value in os.environ.items() if name not in gone}, "WANDB_MODE": "off", **more}
