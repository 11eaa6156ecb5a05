"""A sweep: a method once with each value, a row a value, under the keys that the same options have without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxbench.benchmark.commands.run import configuration
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.sweep import swept

Planned = Callable[..., Run]
MINE = """
from voxbench.methods.block_means import BlockMeans

class Mine(BlockMeans):
    name = "mine"
    about = "means of blocks"
"""
MEDIAN = "methods.residual.median=0,3"


def test_a_row_a_value_and_the_keys_of_plain_options(planned: Planned) -> None:
    run = planned(methods="residual,supervised", sweeps=(MEDIAN,))
    assert run.config.rows == ("residual~median=0", "residual~median=3", "supervised")
    assert {cell.method for cell in run.plan.cells.values()} == {*run.config.rows}
    alone = planned(methods="residual", settings=("methods.residual.median=0",)).plan
    of_value = {key for key, cell in run.plan.cells.items() if cell.method == "residual~median=0"}
    assert of_value == alone.cells.keys()
    assert alone.stages.keys() <= run.plan.stages.keys()


def test_several_sweeps_of_a_method_are_combined(planned: Planned) -> None:
    run = planned(methods="residual", sweeps=(MEDIAN, "methods.residual.loss=bce,l1"))
    assert len(run.config.rows) == 4
    assert run.config.options_of("residual~median=3+loss=l1")["loss"] == "l1"
    assert run.config.options_of("residual~median=3+loss=l1")["kernel"] == 3  # the preset's


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("finetune.lr=0.1,0.2", "expected methods.NAME.KEY"),
        ("methods.residual.median=3", "two values or more"),
        ("methods.residual.median=3,../x", "numbers or words"),
        ("methods.byol.momentum=0.9,0.99", "byol is not among --methods"),
        ("methods.residual.medain=0,3", "medain: no such setting"),
    ],
)
def test_what_is_no_sweep_is_said(arguments: Callable[..., Any], text: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        configuration(arguments(methods="residual", sweeps=(text,)))
    with pytest.raises(BenchError, match="twice"):
        swept((MEDIAN, MEDIAN))


def test_a_method_from_a_file_is_swept_and_the_folder_s_configuration_goes_on(
    bench: Callable[..., int], tmp_path: Path, planned: Planned
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    spec, out = f"{file}:Mine", tmp_path / "run"
    assert bench(methods=f"{spec},supervised", sweeps=("methods.mine.blocks=2,4",), out=out) == 0
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["methods"]["mine~blocks=2"]["blocks"] == 2
    again = planned(methods=f"{spec}~blocks=2,{spec}~blocks=4", preset=str(out / "config.yaml"), fractions=None)
    assert again.config.rows == ("mine~blocks=2", "mine~blocks=4")
    assert again.plan.cells.keys() <= {path.stem for path in out.glob("cells/*/*.json")}
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "mine.py:Mine~blocks=4" in page
    with pytest.raises(BenchError, match="no configuration has this variant"):
        planned(methods="residual~median=9")
