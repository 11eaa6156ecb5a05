"""Rows of formulas beside the methods: where they stand, what is measured against them, and what is not."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from voxbench.reports.judging.analysis import analyse
from voxbench.reports.pages.conclusion import conclude
from voxbench.reports.pages.report import write_report
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run
from voxbench.reports.tables.paper_tables import main_table

MakeRun = Callable[..., Path]
# A skill of 0.9 costs no pretraining in a simulated run; a yardstick stands first, as in the alphabet.
METHODS = {"block-means": 0.9, "pca": 0.9, "residual": 6.0, "simclr": 0.9, "supervised": 0.9}
YARDSTICKS = ("block-means", "pca")


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    return make_run(methods=METHODS, yardsticks=YARDSTICKS, folds=5, seeds=(0, 1, 2), fractions=(0.1, 1.0), patients=80)


def test_they_stand_below_no_skill_and_are_called_what_they_are(run: Path) -> None:
    table = main_table(build_grid(read_run(run)))
    assert [row[0].text for row in table.rows] == ["residual", "simclr", "supervised"]
    assert [row[0].text for row in table.footers] == ["no skill", "yardsticks:", "block-means", "pca"]
    assert all(len(row) == len(table.columns) for row in (*table.rows, *table.footers))
    assert any(note.startswith("Yardsticks: ") for note in table.notes)
    seconds = table.columns.index("Minutes")
    assert [row[seconds].text for row in table.footers[2:]] == ["12.5 s", "12.5 s"]


def test_every_rendering_has_them(run: Path) -> None:
    report = write_report(run)
    for name in ("table.md", "table.tex", "index.html"):
        text = (run / "report" / name).read_text(encoding="utf-8")
        assert text.index("simclr") < text.index("yardsticks:"), name
        assert "pca" in text[text.index("yardsticks:") :], name
    tables = (run / "report" / "tables.tex").read_text(encoding="utf-8")
    assert r"pca$^{\P}$" in tables
    assert "¶" not in tables
    markdown = (run / "report" / "tables.md").read_text(encoding="utf-8")
    assert "| pca¶ |" in markdown
    assert "¶ a yardstick" in markdown
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(report.table.rich())
    assert "block-means" in captured.get()


def test_the_baseline_is_the_one_without_pretraining_and_never_a_yardstick(make_run: MakeRun, run: Path) -> None:
    grid = build_grid(read_run(run))
    assert grid.baseline == "supervised"
    assert grid.yardsticks == YARDSTICKS
    without = make_run("without", methods={"block-means": 0.9, "simclr": 1.2}, yardsticks=("block-means",))
    assert build_grid(read_run(without)).baseline is None
    failed = make_run("failed", methods=METHODS, yardsticks=YARDSTICKS, fail=lambda m, *_: "no" * (m == "supervised"))
    assert build_grid(read_run(failed)).baseline is None


def test_a_folder_of_before_rows_had_a_role_has_its_baseline_by_name(make_run: MakeRun) -> None:
    grid = build_grid(read_run(make_run(methods={"other": 0.9, "supervised": 0.9, "simclr": 1.2}, told_roles=False)))
    assert (grid.baseline, grid.yardsticks) == ("supervised", ())
    older = make_run("older", methods={"supervised": 0.9, "simclr": 1.2})
    table = pd.read_csv(older / "results.csv", dtype=str, keep_default_na=False)
    table.drop(columns="role").to_csv(older / "results.csv", index=False)
    assert build_grid(read_run(older)).baseline == "supervised"


def test_the_conclusion_names_who_is_not_above_the_best_one(run: Path) -> None:
    analysis = analyse(build_grid(read_run(run)))
    said = conclude(analysis)
    for fraction, at in ((0.1, "At 10 %"), (1.0, "At 100 %")):
        (sentence,) = (one for one in said if one.startswith(f"{at} the best yardstick is "))
        best = max(YARDSTICKS, key=lambda m: analysis.estimates[m, fraction].mean)
        assert sentence.startswith(f"{at} the best yardstick is {best}, AUPRC ")
        below, _, above = sentence.partition("Separably above it: ")
        for method in ("residual", "simclr", "supervised"):
            one = analysis.between(method, best, fraction)
            assert one is not None
            numbers = [f"{value:+.3f}".replace("-", "−") for value in (one.difference, one.low, one.high)]
            told = f"{method} ({numbers[0]}, {numbers[1]} to {numbers[2]})"
            assert told in (above if one.separable and one.difference > 0 else below)
        assert ("residual" in above) == (fraction == 0.1)  # at 100 % the t-test does not see it
        assert "Not separably above it: " in below
        assert not re.search(r"(block-means|pca) \([+−]", sentence)


def test_what_is_said_of_pretraining_leaves_them_out(run: Path) -> None:
    (sentence,) = (one for one in conclude(analyse(build_grid(read_run(run)))) if one.startswith("Against supervised"))
    assert "residual" in sentence
    assert "block-means" not in sentence
    assert "pca" not in sentence


def test_a_yardstick_that_is_best_is_called_one(make_run: MakeRun) -> None:
    run = make_run(methods={"pca": 4.0, "simclr": 0.9, "supervised": 0.9}, yardsticks=("pca",), folds=5, seeds=(0, 1))
    said = write_report(run).conclusion
    assert "pca (a yardstick) is separably better than" in said[0]
    (sentence,) = (one for one in said if "the best yardstick" in one)
    assert "Separably above" not in sentence


def test_a_fraction_in_which_none_has_a_score_says_so(make_run: MakeRun) -> None:
    run = make_run(methods=METHODS, yardsticks=YARDSTICKS, fail=lambda m, *_: "no" * (m in YARDSTICKS))
    assert (
        "At 10 % no yardstick has a score that the methods could be measured against." in write_report(run).conclusion
    )


def test_a_run_without_them_says_nothing_of_them(make_run: MakeRun) -> None:
    run = make_run(methods={"simclr": 1.2, "supervised": 0.9})
    report = write_report(run)
    assert not any("yardstick" in one for one in report.conclusion)
    assert "ardstick" not in (run / "report" / "tables.md").read_text(encoding="utf-8")


def test_rows_tell_the_role(run: Path) -> None:
    with (run / "results.csv").open() as file:
        assert {row["role"] for row in csv.DictReader(file)} == {"method", "baseline", "yardstick"}
