"""What W&B gets of a real report: no message of a failure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "reports"))
from run_maker import RunMaker

from voxbench.benchmark.tracking.outgoing import Redactor, outgoing_report
from voxbench.reports.report import write_report

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
