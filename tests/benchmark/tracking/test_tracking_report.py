"""What W&B gets of a real report: no message of a failure, and no slice of a volume that may be a patient's."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "reports"))
from run_maker import RunMaker

from voxbench.benchmark.settings import registry
from voxbench.benchmark.tracking.outgoing import Redactor, outgoing_report
from voxbench.reports.pages.report import write_report

MESSAGE = 'OSError: can\'t read "no 7" in /data/Miller & Co/head.nii.gz: <truncated>'


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A run with a failed cell and slices of a stage, and its report; of a phantom or not."""
    made: dict[bool, Path] = {}

    def make(phantom: bool) -> Path:
        if phantom not in made:
            maker = RunMaker(
                methods={"residual": 1.5, "supervised": 0.9},
                folds=2,
                patients=40,
                is_phantom=phantom,
                fail=lambda method, _, fold, __: MESSAGE if (method, fold) == ("supervised", 1) else "",
            )
            made[phantom] = maker.write(tmp_path_factory.mktemp("run") / "run")
            write_report(made[phantom])
        return made[phantom]

    return make


def outgoing(run: Path) -> dict[str, Path]:
    return {copy.name: copy for copy in outgoing_report(run, Redactor(run))}


def test_a_failure_keeps_its_message_at_home_also_as_the_page_writes_it(reported: Callable[[bool], Path]) -> None:
    run = reported(True)
    assert "read &#34;no 7&#34; in &lt;path&gt;" in (run / "report" / "index.html").read_text()
    for copy in outgoing(run).values():
        text = copy.read_bytes().decode(errors="ignore")
        assert not [part for part in ("no 7", "t read", "truncated", "Miller") if part in text], copy.name


def slices(run: Path) -> bytes:
    (plot,) = (run / "report" / "plots").glob("examples-*.svg")
    return base64.b64encode(plot.read_bytes())


def test_slices_of_real_volumes_stay_at_home(reported: Callable[[bool], Path]) -> None:
    run = reported(False)
    page = (run / "report" / "index.html").read_bytes()
    sent = outgoing(run)
    assert slices(run) in page
    assert b"Share this page only where you may share those" in page
    assert not [name for name in sent if name.startswith("examples-")]
    copy = sent["index.html"].read_bytes()
    assert slices(run) not in copy
    assert b"image/png" not in copy
    assert copy.count(b"<img") == page.count(b"<img") - 1  # all other plots are there
    assert copy.count(b"(left out: slices of real volumes") == 1
    assert {path.name for path in (run / "report" / "plots").glob("[!.]*")} - set(sent) == {
        "examples-residual-pretrain.svg",
        "examples-residual-pretrain.png",
    }


def test_slices_of_a_phantom_go_out(reported: Callable[[bool], Path]) -> None:
    run = reported(True)
    sent = outgoing(run)
    assert slices(run) in sent["index.html"].read_bytes()
    assert {"examples-residual-pretrain.svg", "examples-residual-pretrain.png"} <= set(sent)
    assert b"real volumes" not in (run / "report" / "index.html").read_bytes()


def test_a_folder_that_does_not_say_is_taken_for_real(reported: Callable[[bool], Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reported(True), run)
    described = json.loads((run / "dataset.json").read_text())
    del described["real_images"]  # is_phantom stays: heads with phantom findings are called so too
    (run / "dataset.json").write_text(json.dumps(described))
    assert slices(run) not in outgoing(run)["index.html"].read_bytes()


def test_only_the_phantom_is_made_by_a_program() -> None:
    made = {name for name in registry.names("datasets") if not registry.load("datasets", name).real_images}
    assert made == {"sinus-phantom"}
