"""What is exported of a run is reported on and compared as the run itself is, and holds nothing that it should not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from voxbench.reports.pages.compare import compare
from voxbench.reports.reading.export import export_run
from voxbench.reports.reading.results import ReportError
from voxbench.reports.reading.run_folder import read_run

MakeRun = Callable[..., Path]
GRID = {"methods": {"supervised": 0.8, "byol": 0.85}, "patients": 60}


def test_an_exported_run_reads_as_the_run_does(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", **GRID)
    files = export_run(run, tmp_path / "out")
    one, two = read_run(run), read_run(tmp_path / "out")
    assert repr(one.rows) == repr(two.rows)  # NaN is not equal to itself
    assert one.config == two.config
    assert one.units.keys() == two.units.keys()
    for place, units in one.units.items():
        assert units.patients == two.units[place].patients
        assert (units.scores == two.units[place].scores).all()
    assert [(stage.key, stage.curve) for stage in one.stages] == [(stage.key, stage.curve) for stage in two.stages]
    assert {path.suffix for path in files} <= {".yaml", ".json", ".csv", ".gz"}


def test_an_exported_run_can_be_compared(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", seeds=(0,), **GRID)
    export_run(run, tmp_path / "out")
    compare([tmp_path / "out", make_run("mine", seeds=(1,), **GRID)], tmp_path / "both")
    assert (tmp_path / "both" / "index.html").is_file()


def test_no_volume_is_named_in_it(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", **GRID)
    record = run / "stages" / "byol-stage" / "stage.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seen": ["abcdef0123456789"]}))
    (run / "private").mkdir(exist_ok=True)
    (run / "private" / "salt").write_text("secret-salt")
    for path in export_run(run, tmp_path / "out"):
        assert b"abcdef0123456789" not in path.read_bytes()
        assert b"secret-salt" not in path.read_bytes()


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", **GRID)
    first, second = (export_run(run, tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_what_cannot_be_exported_is_said_in_a_line(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", **GRID)
    with pytest.raises(ReportError, match="is there already: give a new folder"):
        export_run(run, tmp_path)
    export_run(run, tmp_path / "out")
    packed = tmp_path / "out" / "predictions.csv.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ReportError, match=r"predictions\.csv\.gz: cannot be unpacked .*export the run again"):
        read_run(tmp_path / "out")
    (run / "predictions.csv").unlink()
    with pytest.raises(ReportError, match=r"no scores in predictions\.csv to export"):
        export_run(run, tmp_path / "other")
