"""Where cells are missing, means, bold, best, tie groups, ranks, pairs and words tell one story."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voxbench.reports.judging.analysis import Analysis, analyse
from voxbench.reports.pages.conclusion import conclude
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run
from voxbench.reports.tables.paper_tables import main_table

MakeRun = Callable[..., Path]
TWO = {"byol": 1.6, "supervised": 0.9}
FOUR = {"residual": 1.8, "byol": 1.4, "simclr": 1.2, "supervised": 0.9}
# Every method does badly on folds 3 and 4, so that a method without them looks better than it is.
HARD = {"folds": 5, "seeds": (0, 1, 2), "fractions": (0.1,), "hard": {3: 3.0, 4: 3.0}, "patients": 200}


def analysed(run: Path, n_resamples: int = 2000) -> Analysis:
    return analyse(build_grid(read_run(run)), n_resamples)


def assert_one_story(found: Analysis) -> None:
    """No two numbers of an analysis contradict one another, whatever is missing."""
    grid = found.grid
    for column, fraction in enumerate(grid.fractions, start=1):
        means = {m: found.estimates[m, fraction].mean for m in found.ranks[fraction]}
        pairs = found.comparisons[fraction]
        assert {(one.first, one.second) for one in pairs} == {
            (a, b) for i, a in enumerate(means) for b in list(means)[i + 1 :]
        }
        for one in pairs:
            assert one.difference == pytest.approx(means[one.first] - means[one.second], abs=1e-12)
            if one.separable:
                worse = one.second if one.better == one.first else one.first
                assert means[one.better] > means[worse]
                assert found.ranks[fraction][worse] > 1
        best = found.best(fraction)
        bold = {row[0].text for row in main_table(grid, found.tied).rows if row[column].bold}
        if best is None:
            assert not bold and not means and not any(cell.state == "ok" for cell in grid.cells.values())
            continue
        assert means[best] == max(means.values())
        assert best in bold
        assert found.ranks[fraction][best] == 1
        apart = {m for m in means if m != best and (pair := found.between(best, m, fraction)) and pair.separable}
        assert found.tied[fraction] == means.keys() - apart
        assert {cell.place.replicate for m in means for cell in grid.ok(m, fraction)} == set(
            grid.shared(fraction).replicates
        )


def test_a_baseline_that_failed_on_the_hard_folds_does_not_win(make_run: MakeRun) -> None:
    run = make_run(
        methods=TWO, fail=lambda m, f, k, s: "OutOfMemoryError" if m == "supervised" and k > 2 else "", **HARD
    )
    found = analysed(run)
    everywhere = np.mean([cell.auprc for cell in found.grid.at("byol", 0.1)])
    assert everywhere < found.estimates["supervised", 0.1].mean, "a weak test: nothing misleads here"
    assert_one_story(found)
    first, *others = conclude(found)
    assert first.startswith(
        "With 10 % of the labels (9 of 15 pairs of fold and seed), byol is separably better than supervised"
    )
    said = " ".join(others)
    assert "Against supervised (no pretraining), separably better: byol" in said
    where = "every method that is compared has a score: 9 of 15 at 10 %."
    assert where in said
    assert where in main_table(found.grid, found.tied).markdown()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_missing_there_is_one_story(make_run: MakeRun, seed: int) -> None:
    share = (0.1, 0.3, 0.6)[seed % 3]

    def fail(method: str, fraction: float, fold: int, replicate: int) -> str:
        key = [seed, fold, replicate, int(100 * fraction), *map(ord, method)]
        return "no" if np.random.default_rng(key).random() < share else ""

    grid = HARD | {"fractions": (0.1, 1.0), "seeds": (0, 1), "patients": 60}
    assert_one_story(analysed(make_run(methods=FOUR, fail=fail, **grid), n_resamples=200))


def test_a_broken_method_does_not_take_the_others_along(make_run: MakeRun) -> None:
    found = analysed(
        make_run(
            methods=FOUR,
            fail=lambda m, f, k, s: "no" if m == "simclr" and (k, s) not in ((0, 0), (1, 0)) else "",
            **(HARD | {"patients": 60}),
        ),
        n_resamples=200,
    )
    assert_one_story(found)
    assert {one.n_pairs for one in found.comparisons[0.1]} == {15}
    assert "simclr" not in found.ranks[0.1]
    said = " ".join(conclude(found))
    assert "Not compared, having too few scores in common with the others: simclr at 10 %, 2 of 15." in said
    text = main_table(found.grid, found.tied).markdown()
    assert re.search(r"\| simclr \| 2 of 15‡ \|", text)


def test_methods_without_a_common_replicate_are_said_not_to_be_compared(make_run: MakeRun) -> None:
    found = analysed(
        make_run(methods=TWO, fractions=(0.1,), fail=lambda m, f, k, s: "no" if (m == "byol") == (k == 0) else "")
    )
    assert_one_story(found)
    said = conclude(found)
    assert "only byol has scores enough to compare" in said[0]
    assert "in common with the others: supervised at 10 %, 1 of 3." in " ".join(said)
    assert found.comparisons == {0.1: ()}


def test_label_efficiency_follows_a_curve_of_the_same_folds(make_run: MakeRun) -> None:
    """The hard folds are missing at 10 % alone: beside whole columns further right, 10 % would look too good."""
    grid = HARD | {"fractions": (0.1, 0.5, 1.0), "seeds": (0,)}
    broken = analysed(
        make_run("broken", methods=TWO, fail=lambda m, f, k, s: "no" if f == 0.1 and k > 2 else "", **grid),
        n_resamples=50,
    )
    easy = analysed(make_run("easy", methods=TWO, skip=lambda m, f, k, s: k > 2, **grid), n_resamples=50)
    assert len(broken.grid.ok("byol", 1.0)) == 5
    (one,), (other,) = broken.efficiency, easy.efficiency
    assert (one.labels, one.method_labels) == (other.labels, other.method_labels)


def test_a_cross_validation_that_stopped_after_its_first_fold_is_not_whole(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fractions=(0.1,), folds=5, skip=lambda m, f, k, s: k > 0)
    found = analysed(run, n_resamples=50)
    assert found.test_per_train == 1 / 4
    assert [len(found.grid.folds), len(found.grid.troubled()), len(found.grid.cells)] == [5, 8, 10]
    said = conclude(found)
    assert "(1 of 5 pairs of fold and seed)" in said[0]
    assert "8 missing of 10 cells" in " ".join(said)
    notes = main_table(found.grid, found.tied).notes
    assert notes[0].startswith("Mean ± standard deviation over 5 folds × 1 seed")
    # Of a folder that does not tell, fold 0 alone is an official split, as it always was.
    about = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
    del about["official_split"]
    (run / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    assert analysed(run, n_resamples=50).grid.folds == (0,)
