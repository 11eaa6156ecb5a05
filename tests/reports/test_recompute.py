"""The twenty lines of docs/recompute.py give the report's numbers from predictions.csv alone."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from voxbench.reports.report import write_report

SCRIPT = Path(__file__).parents[2] / "docs" / "recompute.py"


def recompute(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=250, check=True)
    return {name: float(value) for name, value in map(str.split, done.stdout.splitlines())}


def test_numbers_can_be_recomputed(make_run: Callable[..., Path]) -> None:
    run = make_run(methods={"byol": 1.3, "supervised": 0.9}, fractions=(0.1,), folds=3, patients=60)
    write_report(run)
    with (run / "report" / "estimates.csv").open() as file:
        estimate = next(row for row in csv.DictReader(file) if row["method"] == "byol")
    alone = recompute(str(run), "0.1", "byol")
    for ours, theirs in (("auprc_mean", "mean"), ("auprc_std", "std"), ("low", "low"), ("high", "high")):
        assert float(estimate[ours]) == pytest.approx(alone[theirs], abs=1e-10)
    with (run / "report" / "comparisons.csv").open() as file:
        pair = next(csv.DictReader(file))
    both = recompute(str(run), "0.1", "byol", "supervised")
    for ours, theirs in (("difference", "mean"), ("low", "low"), ("high", "high"), ("p_t", "p_t")):
        assert float(pair[ours]) == pytest.approx(both[theirs], abs=1e-10)


def test_the_script_is_short_and_needs_no_voxbench() -> None:
    lines = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    assert len(lines) <= 34  # imports, docstrings and a function for AP included
    assert not any("import voxbench" in line or "from voxbench" in line for line in lines)
