"""Evaluations side by side in a report: their order, their own statistics, and folders that have one."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from run_maker import RunMaker

from voxbench.reports.judging.analysis import analyse
from voxbench.reports.judging.orders import changed_places, in_all, order
from voxbench.reports.pages.compare import compare
from voxbench.reports.pages.report import write_report
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run

TUNED = {"spark": 3.0, "simclr": 1.6, "supervised": 0.9, "block-means": 0.5}
PROBED = {"spark": 0.9, "simclr": 3.0, "supervised": 0.2}  # the other way round


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    maker = RunMaker(methods=TUNED, probed=PROBED, yardsticks=("block-means",), folds=5, patients=150)
    return maker.write(folder)


def test_each_evaluation_has_a_grid_of_its_own_and_predictors_stand_in_the_main_one(made: Path) -> None:
    run = read_run(made)
    assert run.evaluations == ("finetune", "linear")
    main, probe = (build_grid(run, name) for name in run.evaluations)
    assert build_grid(run).cells == main.cells
    assert set(main.methods) == {"spark", "simclr", "supervised", "block-means"}
    assert set(probe.methods) == {"spark", "simclr", "supervised"}
    assert not main.troubled()
    assert not probe.troubled()
    assert main.baseline == probe.baseline == "supervised"


def test_the_order_is_reversed_and_said(made: Path) -> None:
    run = read_run(made)
    first, other = (analyse(build_grid(run, name), n_resamples=200) for name in run.evaluations)
    methods = in_all([first, other], 0.1)
    assert methods == ["spark", "simclr", "supervised"]
    assert order(other, methods, 0.1) == ["simclr", "spark", "supervised"]
    assert changed_places(first, other, methods, 0.1) == (1, 1)
    report = write_report(made)
    said = " ".join(report.conclusion)
    assert "by fine-tuning spark, simclr and supervised; by linear probe simclr, spark and supervised" in said
    assert "1 of 3 pairs change places (1 separable by both)" in said
    assert "Linear probe at 10 %, against the encoder as initialised (supervised): separably better: spark" in said
    page = report.page.read_text(encoding="utf-8")
    assert 'id="evaluations"' in page
    assert "AUPRC by evaluation at 10 % of the labels" in page
    assert (report.page.parent / "plots" / "evaluations-10.svg").is_file()


def test_numbers_of_each_evaluation_are_kept_apart(made: Path) -> None:
    folder = write_report(made).page.parent
    tuned, probed = (
        pd.read_csv(folder / name).set_index("method").auprc_mean for name in ("estimates.csv", "linear-estimates.csv")
    )
    assert tuned["spark"] > tuned["simclr"]
    assert probed["simclr"] > probed["spark"]
    assert "block-means" not in probed
    pairs = pd.read_csv(folder / "linear-comparisons.csv")
    assert len(pairs) == 3  # Holm's family is the evaluation's own


def test_a_run_of_one_evaluation_has_no_section_on_them(tmp_path: Path) -> None:
    report = write_report(RunMaker(methods={"simclr": 1.2, "supervised": 0.9}).write(tmp_path / "run"))
    assert 'id="evaluations"' not in report.page.read_text(encoding="utf-8")
    assert not list(report.page.parent.glob("linear-*"))


def test_runs_of_different_evaluations_are_compared(made: Path, tmp_path: Path) -> None:
    other = RunMaker(
        methods={"simclr": 1.6, "supervised": 0.9}, probed={"simclr": 3.0}, folds=5, patients=150, seeds=(1,)
    )
    second = other.write(tmp_path / "other")
    text = (second / "config.yaml").read_text(encoding="utf-8")
    (second / "config.yaml").write_text(re.sub(r"(?m)^ *- linear\n", "", text), encoding="utf-8")
    page = compare([made, second], tmp_path / "both").page.read_text(encoding="utf-8")
    assert 'id="evaluations"' in page
