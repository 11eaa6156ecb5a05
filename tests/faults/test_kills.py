"""SIGKILL at random moments: the same table, nothing computed twice, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from .kills import command, kill_and_repeat, table, tidy, timed


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_grid_that_is_killed_again_and_again_gives_the_undisturbed_table(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    within = timed(command(tmp_path / "whole", cache, "simclr,supervised")) / 4
    run = tmp_path / "run"
    killed = list(kill_and_repeat(command(run, cache, "simclr,supervised"), run, 6, within, seed=5))
    assert len(killed) == 6 and not all(said.startswith("nothing") for said in killed)
    assert table(run) == table(tmp_path / "whole")
    assert tidy(run)
