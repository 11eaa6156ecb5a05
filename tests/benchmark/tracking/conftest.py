from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tracking_run import Written, read_written, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return write_run(folder)


@pytest.fixture(autouse=True)
def no_wandb_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's key nor settings: a test must never reach a server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / f"wandb-{name.lower()}"))


@pytest.fixture
def written() -> Callable[[Path], dict[str, Written]]:
    """Run id -> what W&B wrote of it under a run folder; a test fails where an id has two folders."""

    def read(run: Path) -> dict[str, Written]:
        found: dict[str, Written] = {}
        for folder in sorted((run / "wandb").glob("offline-run-*")):
            one = read_written(folder)
            assert one.run.run_id not in found
            found[one.run.run_id] = one
        return found

    return read
