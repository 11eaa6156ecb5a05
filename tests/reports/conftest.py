import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "simulate"))
from run_maker import RunMaker


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a simulated run folder with the given knobs; `name` is the folder's."""

    def make(name: str = "run", **knobs: Any) -> Path:
        return RunMaker(**knobs).write(tmp_path / name)

    return make
