"""The scripts of docs/recompute/ give every number that a report stores, from predictions.csv and without voxbench."""

import io
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from run_maker import RunMaker

from voxbench.reports.judging.analysis import analyse
from voxbench.reports.pages.across import across_datasets
from voxbench.reports.pages.compare import compare
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run
from voxbench.reports.tables.numbers import numbers
from voxbench.reports.tables.paper_tables import main_csv

SCRIPTS = Path(__file__).parents[2] / "docs" / "recompute"
PLACE = ["method", "fraction"]
# What no score tells: what a method cost, and which cells are not there. It stands in results.csv.
COSTS = {"n_labels_spent", "hours", "peak_memory_mb", "method_labels"}
STATES = {"n_expected", "n_failed", "n_missing", "n_half_done", "n_undefined", "n_not_shared"}

Recompute = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class Study:
    """Two runs, of two classes with cells that failed, and of three classes with an official split; their report."""

    runs: dict[str, Path]
    report: Path

    def stored(self, name: str, dataset: str) -> pd.DataFrame:
        frame = pd.read_csv(self.report / name)
        return frame[frame.dataset == dataset].drop(columns="dataset").reset_index(drop=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    grid = {"methods": {"residual": 2.6, "byol": 1.0, "supervised": 0.9}, "fractions": (0.1, 0.4, 1.0), "patients": 50}
    two = RunMaker(
        **grid,
        dataset="sinus",
        folds=4,
        seeds=(0, 1),
        fail=lambda m, f, k, s: "no" if (m, f, k, s) == ("byol", 0.1, 1, 0) else "",
        unscored=lambda m, f, k, s: (m, f, k, s) == ("residual", 0.4, 2, 1),
    )
    three = RunMaker(
        **grid,
        dataset="organs",
        folds=4,
        seeds=(0, 1),
        official=True,
        classes=("a", "b", "c"),
        shares=(0.5, 0.3, 0.2),
    )
    runs = {"sinus": two.write(folder / "sinus"), "organs": three.write(folder / "organs")}
    for run in runs.values():  # one protocol but for the folds, of which an official split has one
        text = (run / "config.yaml").read_text(encoding="utf-8")
        (run / "config.yaml").write_text(re.sub(r"(?m)^  folds: .*\n", "", text), encoding="utf-8")
    compare(list(runs.values()), folder / "report")
    return Study(runs, folder / "report")


@pytest.fixture
def recompute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Recompute:
    """What a script prints."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(script: str, *words: object) -> pd.DataFrame:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        return pd.read_csv(io.StringIO(capsys.readouterr().out))

    return run


def same(stored: pd.DataFrame, alone: pd.DataFrame, keys: Sequence[str], but: set[str] = frozenset()) -> None:
    """Every stored column but `but` is in `alone`, with the same values, to the last digits."""
    columns = [name for name in stored if name not in (*keys, *but)]
    assert set(columns) <= set(alone), "the script leaves out a number"
    one, other = (frame.set_index(list(keys)).sort_index()[columns] for frame in (stored, alone))
    pd.testing.assert_frame_equal(one, other, rtol=1e-9, atol=1e-12, check_dtype=False)


@pytest.mark.parametrize("dataset", ["sinus", "organs"])
def test_the_tables(study: Study, recompute: Recompute, dataset: str) -> None:
    alone = recompute("table.py", study.runs[dataset])
    same(study.stored("table.csv", dataset), alone, PLACE, {"best", *COSTS, *STATES})
    same(study.stored("estimates.csv", dataset), alone, PLACE, {"rank", "tied"})
    same(study.stored("metrics.csv", dataset), alone, PLACE, {"calibration_error", "calibration_error_if_perfect"})
    best = study.stored("table.csv", dataset).query("best").set_index("fraction").method
    assert alone.loc[alone.groupby("fraction").auprc_mean.idxmax()].set_index("fraction").method.equals(best)


@pytest.mark.parametrize("dataset", ["sinus", "organs"])
def test_pairs_of_methods(study: Study, recompute: Recompute, dataset: str) -> None:
    alone = recompute("differences.py", study.runs[dataset])
    same(study.stored("comparisons.csv", dataset), alone, ["fraction", "first", "second"])
    assert (alone.separable.sum() in range(1, len(alone))) or dataset == "organs", "a weak test"


def test_pairs_of_an_official_split_whose_sizes_are_not_told(recompute: Recompute, tmp_path: Path) -> None:
    grid = {"methods": {"residual": 2.6, "supervised": 0.9}, "patients": 50, "folds": 4, "seeds": (0, 1, 2)}
    run = RunMaker(**grid, official=True).write(tmp_path / "run")
    ratios = []
    for sizes in (True, False):
        about = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
        (run / "dataset.json").write_text(
            json.dumps({k: v for k, v in about.items() if sizes or k != "official_split_sizes"}), encoding="utf-8"
        )
        analysis = analyse(build_grid(read_run(run)))
        ratios.append(analysis.test_per_train)
        alone = recompute("differences.py", run)
        assert alone.p_t.tolist() == pytest.approx([one.p_t for one in analysis.comparisons[0.1]], rel=1e-9)
    assert ratios == [pytest.approx(26 / 74), pytest.approx(26 / 26)]


def test_ranks_and_tie_groups(study: Study, recompute: Recompute) -> None:
    alone = recompute("ranks.py", *study.runs.values())
    for number, dataset in enumerate(study.runs):
        shared = alone[alone.run == number][[*PLACE, "rank", "tied"]]
        same(study.stored("estimates.csv", dataset)[[*PLACE, "rank", "tied"]], shared, PLACE)
    assert set(alone["rank"]) > {1}, "nothing is separable: a weak test"
    same(pd.read_csv(study.report / "ranks.csv"), alone.groupby("method").first().reset_index(), ["method"])


def test_ranks_over_enough_datasets_to_test(recompute: Recompute, tmp_path: Path) -> None:
    grid = {"methods": {"residual": 2.0, "pca": 1.5, "byol": 1.2, "supervised": 0.9}, "patients": 40}
    runs = [
        RunMaker(
            **grid, dataset=f"set{i}", seed=i, fractions=(0.1, 1.0)[: 1 + i % 2], yardsticks=["pca"], folds=3
        ).write(tmp_path / f"set{i}")
        for i in range(5)
    ]
    across = across_datasets([analyse(build_grid(read_run(run))) for run in runs])
    alone = recompute("ranks.py", *runs).dropna(subset="average_rank").groupby("method").first().reset_index()
    assert 0 < alone.friedman_p.min() < 1
    same(pd.read_csv(io.StringIO(across.csv)), alone, ["method"])


def test_pairs_and_ranks_with_yardsticks_and_seeds_that_share_a_split(recompute: Recompute, tmp_path: Path) -> None:
    grid = {"methods": {"residual": 4.0, "pca": 1.5, "shape": 0.5, "supervised": 0.9}, "patients": 60, "folds": 5}
    run = RunMaker(**grid, seeds=(0, 1), shared_splits=True, yardsticks=["pca", "shape"]).write(tmp_path / "run")
    analysis = analyse(build_grid(read_run(run)))
    for name, text in numbers([analysis]).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    stored = Study({}, tmp_path)
    pairs = recompute("differences.py", run)
    assert len(pairs) == 1 + 2  # the two methods, and each with the best yardstick
    same(stored.stored("comparisons.csv", "sinus-phantom"), pairs, ["fraction", "first", "second"])
    estimates = stored.stored("estimates.csv", "sinus-phantom")[[*PLACE, "rank", "tied"]]
    same(estimates, recompute("ranks.py", run), PLACE)
    assert estimates["rank"].isna().sum() == 1


def test_methods_and_folds_that_are_not_compared(recompute: Recompute, tmp_path: Path) -> None:
    """byol is left out at 10 %, and nothing is compared on fold 3; at 40 % fold 0 is missing."""
    lost = {("byol", 0.1, 0), ("byol", 0.1, 1), ("supervised", 0.1, 3), ("residual", 0.4, 0)}
    last = 4  # planned, and not run by any method
    grid = {"methods": {"residual": 2.6, "byol": 1.0, "supervised": 0.9}, "fractions": (0.1, 0.4, 1.0), "patients": 50}
    run = RunMaker(
        **grid,
        folds=5,
        seeds=(0, 1),
        fail=lambda m, f, k, s: "no" if (m, f, k) in lost else "",
        skip=lambda m, f, k, s: k == last,
    )
    analysis = analyse(build_grid(read_run(run.write(tmp_path / "run"))))
    for name, text in {**numbers([analysis]), "table.csv": main_csv([analysis.grid])}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    alone = Study({"run": tmp_path / "run"}, tmp_path)

    def stored(name: str, number: str) -> pd.DataFrame:
        return alone.stored(name, "sinus-phantom").dropna(subset=number)

    assert len(stored("estimates.csv", "auprc_mean")) == 8
    same(
        stored("table.csv", "auprc_mean"),
        table := recompute("table.py", tmp_path / "run"),
        PLACE,
        {"best", *COSTS, *STATES},
    )
    same(stored("estimates.csv", "auprc_mean"), table, PLACE, {"rank", "tied"})
    same(stored("metrics.csv", "auroc"), table, PLACE, {"calibration_error", "calibration_error_if_perfect"})
    same(
        stored("comparisons.csv", "low"), recompute("differences.py", tmp_path / "run"), ["fraction", "first", "second"]
    )
    ranks = recompute("ranks.py", tmp_path / "run")
    same(stored("estimates.csv", "auprc_mean")[[*PLACE, "rank", "tied"]], ranks, PLACE)
    labels = [stored("label_efficiency.csv", "low"), recompute("labels.py", tmp_path / "run", "supervised")]
    assert [list(frame.method) for frame in labels] == [["residual"]] * 2
    same(*labels, ["method"])


@pytest.mark.parametrize("dataset", ["sinus", "organs"])
def test_calibration(study: Study, recompute: Recompute, dataset: str) -> None:
    alone = recompute("calibration.py", study.runs[dataset])
    same(study.stored("calibration.csv", dataset), alone, [*PLACE, "bin"])
    errors = study.stored("metrics.csv", dataset)[[*PLACE, "calibration_error", "calibration_error_if_perfect"]]
    same(errors, alone.groupby(PLACE).first().reset_index(), PLACE)


def test_recall_by_finding(study: Study, recompute: Recompute) -> None:
    stored = study.stored("findings.csv", "sinus")
    assert len(stored) == 3 * 3 * 4
    same(stored, recompute("findings.py", study.runs["sinus"]), [*PLACE, "finding"])


@pytest.mark.parametrize("dataset", ["sinus", "organs"])
def test_label_efficiency(study: Study, recompute: Recompute, dataset: str) -> None:
    names = ["baseline_labels", "low", "high"]
    frames = [study.stored("label_efficiency.csv", dataset), recompute("labels.py", study.runs[dataset], "supervised")]
    assert [len(frame) for frame in frames] == [2, 2]
    for frame in frames:
        frame[names] = frame[names].replace("more", "inf").astype(float)
    same(*frames, ["method"])


def test_every_stored_number_is_covered(study: Study) -> None:
    kinds = {"table", "estimates", "comparisons", "metrics", "calibration", "findings", "label_efficiency", "ranks"}
    told = {"learning"}  # by the stages' records: nothing of it is made of predictions
    assert {path.stem for path in study.report.glob("*.csv")} - told == kinds  # a new one needs a script, and a test


def test_the_scripts_are_short_need_no_voxbench_and_run_as_the_docs_say(study: Study) -> None:
    for script in SCRIPTS.glob("*.py"):
        text = script.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) voxbench", text, re.MULTILINE), script.name
        code = [line for line in re.sub(r'""".*?"""', "", text, flags=re.DOTALL).splitlines() if line.strip()]
        assert len(code) <= (50 if script.stem == "resample" else 40), script.name
    command = [sys.executable, str(SCRIPTS / "findings.py"), str(study.runs["sinus"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("method,fraction,finding,recall")
    assert done.stderr == ""
