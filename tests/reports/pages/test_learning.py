"""Whether stages learnt, in a report: each of the three checks, the table and the conclusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_maker import RunMaker

from voxbench.reports.judging.learning import fall_of, learning
from voxbench.reports.pages.report import write_report
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run

SHAPES = {"rankme": 20.0, "alignment": 0.2, "uniformity": -0.5}


def diagnosed(low: float, high: float) -> dict[str, Any]:
    return {
        "n_labels": 200,
        "probe": {"auprc": 0.6 + (low + high) / 2, "initial": 0.6, "low": low, "high": high},
        "representation": {"initial": {**SHAPES, "rankme": 8.0}, "trained": SHAPES},
        "seconds": 2.0,
    }


def changed(run: Path, method: str, **values: Any) -> None:
    path = run / "stages" / f"{method}-stage" / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = RunMaker(methods={"spark": 1.3, "simclr": 1.2, "byol": 1.1, "supervised": 0.9}).write(tmp_path / "run")
    changed(made, "spark", diagnosis=diagnosed(0.02, 0.10))
    changed(made, "simclr", diagnosis=diagnosed(-0.02, 0.10))
    flat = [{"step": s, "loss": 1.0 + 0.01 * (s % 3), "lr": 0.1} for s in range(40)]
    changed(made, "byol", curve=flat, collapsed=True)  # and of before there were diagnoses
    return made


def test_each_check_is_made_and_named(run: Path) -> None:
    found = {one.method: one for one in learning(build_grid(read_run(run)))}
    assert found["spark"].doubts == ()
    assert found["simclr"].doubts == ()
    assert found["simclr"].unseen == (
        "its frozen features are not separably better than those it began with (AUPRC +0.040, −0.020 to +0.100)"
    )
    assert found["byol"].doubts == ("its loss did not fall", "its embeddings collapsed")
    report = write_report(run)
    (said,) = [sentence for sentence in report.conclusion if sentence.startswith("Not shown to have learnt")]
    assert "pretrain of byol (its loss did not fall; its embeddings collapsed)" in said
    assert "simclr" not in said
    (said,) = [sentence for sentence in report.conclusion if sentence.startswith("What these learnt is not in what")]
    assert "pretrain of simclr (its frozen features are not separably better" in said
    assert "fine-tuned, against supervised, +0.0" in said  # which shows it all the same
    assert "spark" not in said
    page = report.page.read_text(encoding="utf-8")
    assert "8.0 → 20.0" in page
    assert "+0.060 (+0.020 to +0.100)" in page
    assert (report.page.parent / "learning.csv").is_file()


def test_a_loss_falls_where_it_falls_by_more_than_its_noise() -> None:
    rng = np.random.default_rng(0)

    def curve(losses: np.ndarray) -> list[dict[str, float]]:
        return [{"step": i, "loss": float(loss)} for i, loss in enumerate(losses)]

    def falls(losses: np.ndarray) -> bool:
        fall = fall_of(curve(losses))
        assert fall is not None
        first, last, error = fall
        return first - last > 2 * error

    assert falls(np.linspace(3.4, 3.0, 100) + 0.05 * rng.normal(size=100))
    assert not falls(np.linspace(3.0, 3.4, 100))
    flat = [falls(1 + 0.1 * rng.normal(size=100)) for _ in range(400)]
    assert np.mean(flat) < 0.06
    assert fall_of(curve(np.ones(3))) is None


def test_a_map_that_cannot_be_read_is_left_out(run: Path) -> None:
    (run / "stages" / "spark-stage" / "map.npz").write_bytes(b"half")
    assert not list((write_report(run).page.parent / "plots").glob("map-*"))
