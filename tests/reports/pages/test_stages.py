"""Which pretraining stages of a folder a report shows, and what it says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voxbench.reports.judging.analysis import Analysis, analyse
from voxbench.reports.judging.remarks import remarks
from voxbench.reports.pages.report import write_report
from voxbench.reports.plots.examples import examples
from voxbench.reports.plots.pretraining import pretraining
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run

MakeRun = Callable[..., Path]
SMALL = {"methods": {"residual": 1.5, "supervised": 0.9}, "folds": 2, "patients": 40}


def analysed(run: Path) -> Analysis:
    return analyse(build_grid(read_run(run)))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def another_stage(run: Path, key: str, **fields: Any) -> None:
    """A copy of the residual's stage, with its slices, that no cell builds on yet."""
    shutil.copytree(run / "stages" / "residual-stage", run / "stages" / key)
    change(run / "stages" / key / "stage.json", key=key, **fields)


def test_stages_that_no_result_builds_on_are_left_out(make_run: MakeRun) -> None:
    run = make_run(**SMALL)
    another_stage(run, "a-stale-one", collapsed=True, localisation=0.99)  # the first by key
    another_stage(run, "z-stale-one", status="failed", error="of an earlier version", curve=[])
    found = analysed(run)
    assert [stage.key for stage in found.grid.stages] == ["residual-stage"]
    (plot,) = pretraining(found)
    assert plot.alt.startswith("Loss of 1 runs")
    assert "collapsed" not in plot.alt
    assert "of an earlier version" not in write_report(run).page.read_text(encoding="utf-8")


def test_a_failed_stage_of_failed_cells_is_shown(make_run: MakeRun) -> None:
    run = make_run(**SMALL, fail=lambda method, *_: "its stage failed" if method == "residual" else "")
    change(
        run / "stages" / "residual-stage" / "stage.json", status="failed", error="the loss is nan at step 3", curve=[]
    )
    page = write_report(run).page.read_text(encoding="utf-8")
    assert "pretraining stage pretrain of residual, seed 0: failed: the loss is nan at step 3" in page


def test_localisation_is_the_mean_of_a_stages_runs_and_its_slices_are_named(make_run: MakeRun) -> None:
    run = make_run(**SMALL, fractions=(0.1, 1.0))
    (shared,) = examples(analysed(run))
    assert shared.title == (  # seed 0 of all its cells
        "residual: pretrain (voxel AUPRC against the lesion 0.31, median image 0.27, no skill 0.04); slices: seed 0"
    )
    for fraction in (0.1, 1.0):
        for fold in (0, 1):
            key = f"{fraction}-{fold}"
            another_stage(run, key, localisation=0.2 + 0.1 * fold + 0.4 * (fraction == 1), localisation_chance=0.05)
            change(run / "cells" / "residual" / f"residual-{fraction}-{fold}-0.json", stages=[key])
    (plot,) = examples(analysed(run))
    assert plot.title == (
        "residual: pretrain (voxel AUPRC against the lesion 0.45, mean of 4 runs, median image 0.27, no skill 0.05); "
        "slices: 10 % of the labels, fold 0, seed 0"
    )


def test_a_stage_that_the_median_image_beats_is_a_remark(make_run: MakeRun) -> None:
    run = make_run(**SMALL)
    said = "residual, stage pretrain: its residual finds lesions no better than"
    assert not any(said in remark for remark in remarks(analysed(run).grid, []))
    change(run / "stages" / "residual-stage" / "stage.json", localisation=0.25)
    (remark,) = (remark for remark in remarks(analysed(run).grid, []) if said in remark)
    assert "voxel AUPRC 0.25, median image 0.27" in remark
    change(run / "stages" / "residual-stage" / "stage.json", localisation_median=None)  # of an earlier version
    assert not any(said in remark for remark in remarks(analysed(run).grid, []))
    assert "median image" not in examples(analysed(run))[0].title


def test_results_without_their_record_are_said(make_run: MakeRun) -> None:
    run = make_run(**SMALL)
    (run / "cells" / "residual" / "residual-0.1-0-0.json").unlink()
    (run / "cells" / "supervised" / "supervised-0.1-0-0.json").write_text("{")
    read = read_run(run)
    assert [stage.key for stage in read.stages] == ["residual-stage"]  # fold 1 builds on it too
    assert any(remark.startswith("cells/: 2 of 4 results have no readable record") for remark in read.remarks)


def test_slices_that_could_not_be_drawn_are_a_remark(make_run: MakeRun) -> None:
    run = make_run(**SMALL)
    change(run / "stages" / "residual-stage" / "stage.json", showcase_error="RuntimeError: no such shape")
    assert any("residual shows no slices: RuntimeError" in remark for remark in read_run(run).remarks)


def test_a_proof_that_covers_less_than_the_table_is_not_called_clean(make_run: MakeRun) -> None:
    run = make_run(**SMALL)
    rows = len(read_run(run).rows)
    change(run / "audit.json", n_cells=rows)
    assert "Clean: no test patient" in write_report(run).page.read_text(encoding="utf-8")
    change(run / "audit.json", n_cells=rows - 1)
    page = write_report(run).page.read_text(encoding="utf-8")
    assert f"covers {rows - 1} of {rows} cells" in page and "Clean: no test patient" not in page
