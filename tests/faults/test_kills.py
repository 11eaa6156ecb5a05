"""SIGKILL at random moments: the same table, nothing computed twice, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 12


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_grid_that_is_killed_again_and_again_gives_the_undisturbed_table() -> None:
    words = [sys.executable, "-m", "tests.faults.kills", str(KILLS)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = [line for line in done.stdout.splitlines() if f"/{KILLS}: " in line]
    assert len(killed) == KILLS
    assert sum(" after " in line for line in killed) > KILLS / 2  # and not ended before
