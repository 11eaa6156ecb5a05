"""The report says whose settings were searched, by which search, and what it chose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from voxbench.reports.pages.compare import compare
from voxbench.reports.pages.report import write_report

MakeRun = Callable[..., Path]
METHODS = {"supervised": 0.9, "simclr": 1.3, "byol": 1.2}


def found(**chosen: Any) -> dict[str, Any]:
    return {"trials": 8, "failed": 1, "auprc": 0.8125, "default_auprc": 0.7, "seconds": 90.0, "chosen": chosen}


def searched(data: str = "f00d", **methods: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": data,
        "dataset": "sinus-phantom",
        "fraction": 0.1,
        "folds": [0],
        "of_folds": 3,
        "seeds": [0],
        "search_seed": 4,
        "sampler": "the default, then random",
        "methods": methods,
    }


def config(**changes: Any) -> dict[str, Any]:
    tuned = searched(supervised=found(), simclr=found(**{"pretrain.lr": 0.004, "temperature": 0.2}))
    return {
        "methods": {"supervised": {}, "simclr": {"temperature": 0.2}, "byol": {}},
        "recipes": {"simclr": {"pretrain": {"lr": 0.004}}},
        "tuned": tuned,
        **changes,
    }


def test_the_table_says_of_each_method_tuned_or_default(make_run: MakeRun) -> None:
    run = make_run(methods=METHODS, extra_config=config())
    write_report(run)
    for name in ("table.md", "table.tex", "index.html"):
        text = (run / "report" / name).read_text()
        assert "Settings: tuned for supervised and simclr; default for byol." in text, name
    tables = (run / "report" / "tables.md").read_text()
    assert "| simclr | 8 | 1 | 0.700 | **0.812** | 1.5 |" in tables
    assert "| supervised | 8 | 1 | 0.700 | 0.812 | 1.5 |" in tables
    assert "| pretrain.lr | default | 0.004 |" in tables
    assert "who is tested in fold 0 was not read" in tables


def test_settings_that_were_changed_after_the_search_are_not_called_tuned(make_run: MakeRun) -> None:
    changed = {"simclr": {"pretrain": {"lr": 0.1}}}
    run = make_run(methods=METHODS, extra_config=config(recipes=changed))
    write_report(run)
    text = (run / "report" / "table.md").read_text()
    assert "tuned for supervised; changed since they were tuned for simclr; default for byol" in text


def test_without_a_search_all_are_default(make_run: MakeRun) -> None:
    run = make_run(methods=METHODS)
    write_report(run)
    assert "Settings: default for all methods, none tuned." in (run / "report" / "table.md").read_text()
    assert "Search of settings" not in (run / "report" / "index.html").read_text()


def test_a_search_on_another_cohort_is_told(make_run: MakeRun) -> None:
    run = make_run(methods=METHODS, extra_config=config(tuned=searched(data="beef", simclr=found())))
    write_report(run)
    assert "on other data than is tested here" in (run / "report" / "tables.md").read_text()


def test_runs_of_two_searches_are_compared(make_run: MakeRun, tmp_path: Path) -> None:
    tuned = searched(data="beef", simclr=found(temperature=0.2))
    one = make_run(
        "one", methods={"simclr": 1.3}, extra_config={"methods": {"simclr": {"temperature": 0.2}}, "tuned": tuned}
    )
    other = make_run("other", methods={"supervised": 0.9, "byol": 1.2})
    compare([one, other], tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text()
    assert "tuned for simclr; default for supervised and byol" in text
