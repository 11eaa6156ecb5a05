"""Several runs in one report."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from voxbench.reports.pages.compare import compare
from voxbench.reports.pages.report import ReportError, write_report

MakeRun = Callable[..., Path]
TWO = {"byol": 1.2, "supervised": 0.9}
GRID = {"methods": TWO, "patients": 60}


def estimates(folder: Path) -> list[dict[str, str]]:
    with (folder / "estimates.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_other_seeds_are_one_grid(make_run: MakeRun, tmp_path: Path) -> None:
    parts = [make_run(f"seed{seed}", seeds=(seed,), **GRID) for seed in (0, 1)]
    compare(parts, tmp_path / "out")
    whole = make_run("whole", seeds=(0, 1), **GRID)
    write_report(whole)
    assert estimates(tmp_path / "out") == estimates(whole / "report")


def test_other_methods_are_paired_by_patient(make_run: MakeRun, tmp_path: Path) -> None:
    parts = [make_run(name, methods={name: skill}, patients=60) for name, skill in TWO.items()]
    compare(parts, tmp_path / "out")
    whole = make_run("whole", **GRID)
    write_report(whole)
    name = "comparisons.csv"
    assert (tmp_path / "out" / name).read_text() == (whole / "report" / name).read_text()


def test_the_same_cell_twice_counts_once(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run("one", seeds=(0,), **GRID), make_run("two", seeds=(0, 1), **GRID)
    compare([one, two], tmp_path / "out")
    assert {row["n_cells"] for row in estimates(tmp_path / "out")} == {"6"}


def test_datasets_stand_side_by_side_with_ranks_over_them(make_run: MakeRun, tmp_path: Path) -> None:
    grid = {"methods": {"residual": 2.5, "byol": 1.2, "supervised": 0.9}, "fractions": (0.1, 0.5, 1.0), "patients": 60}
    one = make_run("one", dataset="sinus-phantom", **grid)
    two = make_run("two", dataset="adrenals", is_phantom=False, fingerprint="beef", seed=11, **grid)
    others = {"is_phantom": False, "methods": grid["methods"], "patients": 60}
    more = [
        make_run(f"m{i}", dataset=f"set{i}", fingerprint=f"f{i}", seed=20 + i, fractions=(0.1,), **others)
        for i in range(3)
    ]
    report = compare([one, two, *more], tmp_path / "out")
    page = report.page.read_text(encoding="utf-8")
    assert "Over 5 datasets the methods" in page  # whatever the number of their fractions
    assert "Table of adrenals" in page
    assert (tmp_path / "out" / "plots" / "critical-difference.svg").is_file()
    assert (tmp_path / "out" / "plots" / "adrenals-forest-50.svg").is_file()


def test_too_few_datasets_for_a_test_are_said(make_run: MakeRun, tmp_path: Path) -> None:
    grid = GRID | {"fractions": (0.1, 0.5, 1.0)}
    runs = [make_run("one", **grid), make_run("two", dataset="adrenals", **grid)]
    page = compare(runs, tmp_path / "out").page.read_text("utf-8")
    assert "which needs 5 datasets" in page
    assert "Friedman" not in page


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"protocol": "paper"}, r"protocol\.name is 'paper' there and 'strict' here"),
        ({"folds": 4}, r"protocol\.folds is 4 there and 3 here"),
        ({"extra_config": {"pretrain": {"lr": 1.0}}}, r"pretrain\.batch is not set there"),
        ({"extra_config": {"methods": {"byol": {"momentum": 0.9}, "supervised": {}}}}, r"methods\.byol"),
        ({"fingerprint": "beef"}, r"dataset fingerprint of sinus-phantom is 'beef' there and 'f00d' here"),
        ({"salt": "q"}, "another salt"),
        ({"method_source": "beef"}, "the source of method byol is beef there and built in here"),
        ({"encoder_digest": "beef"}, "the source of encoder resnet is beef there and e0 here"),
    ],
)
def test_incompatible_runs_name_the_key(make_run: MakeRun, tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    runs = [make_run("one", seeds=(0,), **GRID), make_run("two", seeds=(1,), **(GRID | knobs))]
    with pytest.raises(ReportError, match=said):
        compare(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_no_method_of_one_run_uses_does_not_divide_it_from_another(make_run: MakeRun, tmp_path: Path) -> None:
    """Neither has a prior stage, and only one has pretraining."""
    shared = {"prior": {"volumes": 640}, "pretrain": {"volumes": 1280}}
    more = {"prior": {"volumes": 10240}, "pretrain": {"volumes": 20480}}
    one = make_run("one", extra_config=shared, **GRID)
    compare([one, make_run("two", seeds=(7,), extra_config=shared | {"prior": more["prior"]}, **GRID)], tmp_path / "a")
    only = GRID | {"methods": {"supervised": 0.9}}
    compare([one, make_run("three", seeds=(8,), extra_config=more, **only)], tmp_path / "b")
    with pytest.raises(ReportError, match=r"pretrain\.volumes is 20480 there and 1280 here"):
        compare([one, make_run("four", seeds=(9,), extra_config=more, **GRID)], tmp_path / "c")


def test_a_folder_that_does_not_tell_its_budgets_is_held_to_all(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(str(n), seeds=(n,), extra_config={"prior": {"volumes": n}}, **GRID) for n in (1, 2)]
    compare(runs, tmp_path / "out")
    for run in runs:
        record = run / "stages" / "byol-stage" / "stage.json"
        record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "budget"}))
    with pytest.raises(ReportError, match=r"prior\.volumes is 2 there and 1 here"):
        compare(runs, tmp_path / "out")


def test_folds_that_an_official_split_never_makes_may_differ(make_run: MakeRun, tmp_path: Path) -> None:
    planned = {"name": "strict", "folds": 5, "seeds": [1], "fractions": [0.1], "val_share": 0.2}
    one = make_run("one", official=True, seeds=(0,), **GRID)
    two = make_run("two", official=True, seeds=(1,), extra_config={"protocol": planned}, **GRID)
    compare([one, two], tmp_path / "out")
    assert {row["n_cells"] for row in estimates(tmp_path / "out")} == {"2"}


def test_a_stage_that_failed_elsewhere_does_not_stand_for_one_that_did_not(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run("one", seeds=(0,), **GRID), make_run("two", seeds=(1,), **GRID)
    record = two / "stages" / "byol-stage" / "stage.json"
    failed = {"status": "failed", "error": "the loss is nan", "curve": []}
    record.write_text(json.dumps(json.loads(record.read_text()) | failed))
    for runs in ([one, two], [two, one]):
        compare(runs, tmp_path / "out")
        assert (tmp_path / "out" / "plots" / "pretraining-byol-pretrain.svg").is_file()


def test_pictures_of_the_user_survive_and_plots_that_are_no_more_do_not(make_run: MakeRun, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / "plots" / "forest-of-mine.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a picture")
    one = make_run("one", seeds=(0,), fractions=(0.1, 0.5), **GRID)
    compare([one, make_run("two", seeds=(1,), fractions=(0.1, 0.5), **GRID)], tmp_path / "out")
    plots = {path.name for path in theirs.parent.iterdir()}
    assert {"forest-10.svg", "forest-50.svg", "forest-50.png"} <= plots
    fewer = [make_run(f"fewer{seed}", seeds=(seed,), fractions=(0.1,), **GRID) for seed in (0, 1)]
    compare(fewer, tmp_path / "out")
    assert theirs.read_bytes() == b"a picture"
    left = {path.name for path in theirs.parent.iterdir()}
    assert {"forest-10.svg", "forest-of-mine.png"} <= left < plots
    assert not [name for name in left if "-50." in name]


def test_every_two_of_several_runs_are_checked(make_run: MakeRun, tmp_path: Path) -> None:
    byol = {"methods": {"byol": 1.2}, "patients": 60}
    runs = [
        make_run("one", methods={"supervised": 0.9}, patients=60),
        make_run("two", seeds=(0,), method_source="beef", **byol),
        make_run("three", seeds=(1,), method_source="f00d", **byol),
    ]
    with pytest.raises(ReportError, match="the source of method byol is f00d there and beef here"):
        compare(runs, tmp_path / "out")


def test_where_a_file_lies_and_what_an_audit_refuses_may_differ(make_run: MakeRun, tmp_path: Path) -> None:
    same = GRID | {"method_source": "beef", "encoder_digest": "f00d"}
    runs = [
        make_run(
            name,
            seeds=(seed,),
            encoder_file=f"/{name}/enc.py:Mine",
            extra_config={"sources": {"byol": f"/{name}/m.py:Mine"}, "audit": {"near_duplicates": audit}},
            **same,
        )
        for seed, (name, audit) in enumerate([("one", "refuse"), ("two", "warn")])
    ]
    compare(runs, tmp_path / "out")
    assert {row["n_cells"] for row in estimates(tmp_path / "out")} == {"6"}


def test_a_file_of_which_no_digest_is_told_cannot_be_compared(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"run{seed}", seeds=(seed,), encoder_file="enc.py:Mine", **GRID) for seed in (0, 1)]
    for path in (path for run in runs for path in run.glob("cells/*/*.json")):  # as before records had it
        record = json.loads(path.read_text(encoding="utf-8"))
        del record["encoder_digest"]
        path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ReportError, match="the source of encoder resnet is not told there and not told here"):
        compare(runs, tmp_path / "out")


def test_one_folder_twice_is_none_to_compare(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one", **GRID)
    with pytest.raises(ReportError, match="one folder stands twice"):
        compare([run, run.parent / "." / run.name], tmp_path / "out")


def test_one_run_is_none_to_compare(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="two run folders or more"):
        compare([make_run(**GRID)], tmp_path / "out")
