"""A report of whole, broken and degenerate runs."""

import csv
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from voxbench.reports.judging.analysis import Analysis, analyse
from voxbench.reports.pages.conclusion import conclude
from voxbench.reports.pages.report import Report, ReportError, write_report
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run

MakeRun = Callable[..., Path]
THREE = {"residual": 2.0, "byol": 1.15, "supervised": 0.9}
TWO = {"byol": 1.2, "supervised": 0.9}


def page_of(report: Report) -> str:
    return report.page.read_text(encoding="utf-8")


def rows_of(run: Path, name: str) -> list[dict[str, str]]:
    with (run / "report" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_no_silent_nan(report: Report) -> None:
    """No "nan" or "inf" in anything that a person reads, and no such number in any CSV."""
    for path in report.files:
        if path.suffix in (".md", ".tex", ".csv"):
            assert not re.search(r"\b(nan|inf)\b", path.read_text(encoding="utf-8"), re.IGNORECASE), path.name
    text = re.sub(r"data:[^\"]+|<style>.*?</style>", "", page_of(report), flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|None)\b", text), re.findall(r".{30}\b(?:nan|inf|None)\b.{30}", text)


def test_a_whole_run(make_run: MakeRun) -> None:
    run = make_run(folds=5, seeds=(0, 1, 2), methods=THREE, fractions=(0.1, 0.5, 1.0))
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "residual" in report.conclusion[0]
    assert "phantom: nothing about patients" in " ".join(report.conclusion)
    names = {path.name for path in report.files}
    assert {"table.md", "table.csv", "table.tex", "index.html", "learning-curve.svg", "cost.png"} <= names
    assert {"forest-10.svg", "pr-curves-50.svg", "calibration-100.png", "examples-residual-pretrain.svg"} <= names
    best = [row for row in rows_of(run, "table.csv") if row["best"] == "True"]
    assert [row["method"] for row in best] == ["residual"] * 3
    markdown = (run / "report" / "table.md").read_text(encoding="utf-8")
    assert markdown.count("**") == 6
    grid = build_grid(read_run(run))
    assert f"| no skill | {grid.no_skill:.3f} |" in markdown
    assert 0.540 + 0.03 < grid.no_skill < 0.540 + 0.07  # the prevalence, and what small test parts add


def test_a_strong_effect_is_separable_and_none_is_not(make_run: MakeRun) -> None:
    grid = {"folds": 5, "seeds": (0, 1, 2), "fractions": (0.1,), "patients": 150}
    strong = write_report(make_run("strong", methods={"residual": 3.5, "supervised": 0.9}, **grid))
    assert strong.conclusion[0].startswith("With 10 % of the labels, residual is separably better than supervised")
    same = {"residual": 1.2, "byol": 1.2, "simclr": 1.2}
    none = write_report(make_run("none", methods=same, **grid))
    assert "are not separable" in none.conclusion[0]


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fractions=(0.1, 1.0))
    first = {path: path.read_bytes() for path in write_report(run).files}
    assert first == {path: path.read_bytes() for path in write_report(run).files}


def test_failed_missing_and_half_done_cells(make_run: MakeRun) -> None:
    run = make_run(
        methods=THREE,
        fractions=(0.1, 0.5, 1.0),
        fail=lambda m, f, k, s: "OSError: /data/miller/head.nii.gz is truncated" if (m, f) == ("byol", 1.0) else "",
        skip=lambda m, f, k, s: (m, f, k) == ("residual", 0.1, 2),
        unscored=lambda m, f, k, s: (m, f, k) == ("supervised", 0.5, 0),
    )
    report = write_report(run)
    assert_no_silent_nan(report)
    page = page_of(report)
    assert "byol at 100 %, fold 1, seed 0" in page
    assert "miller" not in page
    assert "is truncated" in page
    assert "3 failed, 1 missing and 1 half-done of 27 cells" in " ".join(report.conclusion)
    counts = {(r["method"], r["fraction"]): r for r in rows_of(run, "table.csv")}
    assert counts["byol", "1.0"]["n_failed"] == "3"
    assert counts["byol", "1.0"]["auprc_mean"] == ""
    assert counts["residual", "0.1"]["n_missing"] == "1"
    assert counts["supervised", "0.5"]["n_half_done"] == "1"
    pairs = [r for r in rows_of(run, "comparisons.csv") if r["fraction"] == "0.1" and r["first"] == "residual"]
    assert {r["n_pairs"] for r in pairs} == {"2"}  # only where all have a score
    assert counts["byol", "0.1"]["n_not_shared"] == "1"
    assert "failed‡" in (run / "report" / "table.md").read_text(encoding="utf-8")


def test_every_cell_failed(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fail=lambda *at: "StageError: the loss is not finite at step 3")
    (run / "predictions.csv").unlink()
    report = write_report(run)
    assert_no_silent_nan(report)
    assert report.conclusion[0] == "There is no result on sinus-phantom: 6 failed of 6 cells."
    assert "the loss is not finite at step 3" in page_of(report)


def test_one_fold_and_one_seed(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, official=True, folds=2)
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "One fold and one seed" in " ".join(report.conclusion)
    assert all(row["separable"] == "False" and row["p_t"] == "" for row in rows_of(run, "comparisons.csv"))
    assert all(row["auprc_std"] == "" for row in rows_of(run, "table.csv"))


def test_official_split_with_seeds(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, official=True, folds=4, seeds=(0, 1, 2))
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "not of other training patients" in " ".join(report.conclusion)
    assert all(0 <= float(row["p_t"]) <= 1 for row in rows_of(run, "comparisons.csv"))


def test_a_folder_of_before_version_5_has_new_statistics_and_says_what_it_lacks(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, folds=4, seeds=(0, 1, 2), shared_splits=True, result_version=4)
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "they are no probabilities" in page_of(report)
    assert "over folds, seeds averaged" in page_of(report)
    assert all(row["brier"] == row["calibration_error"] == "" for row in rows_of(run, "metrics.csv"))
    assert all(float(row["auroc"]) > 0 for row in rows_of(run, "metrics.csv"))
    (pair, *_) = analysed(run).comparisons[0.1]
    assert (pair.n_pairs, pair.t_df) == (12, 3)
    newer = make_run("newer", methods=TWO, folds=4, seeds=(0, 1, 2))
    assert analysed(newer).comparisons[0.1][0].t_df == 11
    assert "no probabilities" not in page_of(write_report(newer))


def test_p_values_of_an_official_split_do_not_depend_on_other_fractions(make_run: MakeRun) -> None:
    def tested(name: str, *fractions: float) -> float:
        run = make_run(name, methods=TWO, official=True, folds=4, seeds=(0, 1, 2), fractions=fractions)
        return analysed(run).comparisons[0.1][0].p_t

    assert tested("one", 0.1) == tested("two", 0.1, 1.0)


def test_one_method_and_one_fraction(make_run: MakeRun) -> None:
    report = write_report(make_run(methods={"byol": 1.2}, fractions=(0.25,)))
    assert_no_silent_nan(report)
    assert "only method of this run" in report.conclusion[0]
    assert "no pair of methods" in page_of(report)


def test_a_class_is_missing_from_a_test_part(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, patients=9, units_each=1, folds=3, shares=(0.8, 0.2))
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "one class only, so no AUPRC is defined" in page_of(report)
    assert sum(int(row["n_undefined"]) for row in rows_of(run, "table.csv")) > 0


def test_constant_scores_have_the_prevalence(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, constant=lambda m, f, k, s: m == "byol", patients=60)
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "byol: 3 cells with the same score for every test unit" in page_of(report)
    for row in rows_of(run, "table.csv"):
        if row["method"] == "byol":
            assert float(row["auprc_mean"]) == pytest.approx(build_grid(read_run(run)).prevalence, abs=1e-12)
            assert float(row["auprc_mean"]) < float(row["no_skill"])  # which a random ranking has


def analysed(run: Path) -> Analysis:
    """The statistics alone, without plots, where they are all that a test asks for."""
    return analyse(build_grid(read_run(run)))


def test_scores_turned_round_are_said_to_be_below_chance(make_run: MakeRun) -> None:
    run = make_run(methods={"byol": -3.0, "supervised": 1.5}, fractions=(0.1,))
    said = " ".join(conclude(analysed(run)))
    assert "Below no skill with its whole interval, so see whether labels are turned round: byol at 10 %." in said


def test_a_class_missing_among_several_is_said(make_run: MakeRun) -> None:
    rare = {"classes": ("a", "b", "c"), "shares": (0.55, 0.43, 0.02), "patients": 40, "units_each": 1}
    remarks = analysed(make_run(methods=TWO, fractions=(0.1,), **rare)).remarks
    assert any("of 3 test parts a class is missing" in remark for remark in remarks)


def test_everything_constant_is_a_tie(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, constant=lambda *at: True)
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "no method is separable from no skill" in report.conclusion[0]
    assert {float(row["p_t"]) for row in rows_of(run, "comparisons.csv")} == {1.0}
    assert {row["rank"] for row in rows_of(run, "estimates.csv")} == {"1"}


def test_tied_scores(make_run: MakeRun) -> None:
    assert_no_silent_nan(write_report(make_run(methods=TWO, decimals=1)))


def test_scores_that_are_not_finite_are_said(make_run: MakeRun) -> None:
    run = make_run(methods=TWO)
    text = (run / "predictions.csv").read_text(encoding="utf-8")
    first = text.splitlines()[1]
    broken = re.sub(r",0\.\d+,", ",nan,", first, count=1) if ",0." in first else first
    fields = first.split(",")
    fields[7] = "nan"
    broken = ",".join(fields)
    (run / "predictions.csv").write_text(text.replace(first, broken, 1), encoding="utf-8")
    page = page_of(write_report(run))
    assert "scores are not finite, so the cell is left out" in page
    assert "half-done" in page


def test_many_classes(make_run: MakeRun) -> None:
    run = make_run(
        methods=TWO, classes=("a", "b", "c", "d"), shares=(0.4, 0.3, 0.2, 0.1), is_phantom=False, dataset="organs"
    )
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "phantom" not in " ".join(report.conclusion)
    grid = build_grid(read_run(run))
    assert grid.prevalence == pytest.approx(0.25)
    no_skill = float(rows_of(run, "table.csv")[0]["no_skill"])
    assert no_skill == pytest.approx(grid.no_skill)
    assert 0.25 < no_skill < 0.32


def test_a_method_that_is_nearly_chance_is_called_so(make_run: MakeRun, tmp_path: Path) -> None:
    one = write_report(make_run("one", methods={"byol": 0.1, "supervised": 1.5}, fractions=(0.1,)))
    chance = build_grid(read_run(tmp_path / "one")).no_skill
    assert f"Not separable from no skill ({chance:.3f}): byol at 10 %." in " ".join(one.conclusion)
    both = write_report(make_run("both", methods={"byol": 0.1, "simclr": 0.1}, fractions=(0.1,)))
    assert "no method is separable from no skill" in both.conclusion[0]


def test_unequal_labels_are_said(make_run: MakeRun) -> None:
    run = make_run(methods=TWO)
    text = (run / "results.csv").read_text(encoding="utf-8").splitlines()
    column = text[0].split(",").index("n_labels_spent")
    for i, line in enumerate(text[1:], 1):
        fields = line.split(",")
        if fields[1] == "byol":
            fields[column] = str(int(fields[column]) + 100)
        text[i] = ",".join(fields)
    (run / "results.csv").write_text("\n".join(text) + "\n", encoding="utf-8")
    assert "did not spend the same labels" in " ".join(write_report(run).conclusion)


def test_reference_column_is_marked_as_from_another_cohort(make_run: MakeRun) -> None:
    run = make_run(methods={"residual": 1.5, "supervised": 0.9}, fractions=(0.1,))
    assert "0.79" not in (write_report(run).page.parent / "table.md").read_text(encoding="utf-8")
    text = (write_report(run, reference=True).page.parent / "table.md").read_text(encoding="utf-8")
    assert "Published, 10 % §" in text
    assert "| 0.79 |" in text
    assert "§ from another cohort" in text


def test_no_audit_and_a_leak_are_said_loudly(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fractions=(0.1,))
    (run / "audit.json").unlink()
    assert "has no leak audit" in page_of(write_report(run))
    finding = {"where": "training part of fold 0", "what": "same patient", "n": 2, "pairs": [["vaaa", "vbbb"]]}
    record = {"outcome": "leak", "checks": [], "findings": [finding], "warnings": []}
    (run / "audit.json").write_text(json.dumps(record), encoding="utf-8")
    page = page_of(write_report(run))
    assert "The audit found a leak" in page
    assert "training part of fold 0: same patient, 2 pairs" in page
    (run / "audit.json").write_text(json.dumps({"outcome": "leak", "planned": record, "served": record}), "utf-8")
    page = page_of(write_report(run))
    assert "served: finding: training part of fold 0: same patient, 2 pairs" in page
    assert "vaaa" not in page


def test_results_and_predictions_that_disagree_are_said(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fractions=(0.1,))
    text = (run / "results.csv").read_text(encoding="utf-8").splitlines()
    fields = text[1].split(",")
    fields[8] = "0.123"
    text[1] = ",".join(fields)
    (run / "results.csv").write_text("\n".join(text) + "\n", encoding="utf-8")
    assert "results.csv and predictions.csv differ in AUPRC" in page_of(write_report(run))


def test_nothing_identifying(make_run: MakeRun) -> None:
    report = write_report(make_run(methods=TWO, salt="secretcode"))
    for path in report.files:
        text = path.read_bytes().decode("utf-8", errors="ignore")
        for private in ("secretcode", "ward7", "/home", str(path.parent)):
            assert private not in text, (path.name, private)


def test_the_terminal_shows_the_whole_table_in_80_columns(make_run: MakeRun) -> None:
    report = write_report(make_run(methods={"residual": 1.5, "supervised": 0.9}))
    console = Console(width=80, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(report.table.rich())
    text = captured.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "no skill" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(methods=TWO, fail=lambda m, f, k, s: "no" if (m, k) == ("byol", 0) else "")
    tables = (write_report(run, reference=True).page.parent / "tables.tex").read_text(encoding="utf-8")
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{tables}\\end{{document}}"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, "a table is wider than the page"


def test_latex_is_escaped_and_balanced(make_run: MakeRun) -> None:
    text = (write_report(make_run(methods={"my_method": 1.2, "supervised": 0.9})).page.parent / "tables.tex").read_text(
        encoding="utf-8"
    )
    assert r"my\_method" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 6
    assert not re.search(r"(?<!\\)%", text)
    assert text.isascii(), {char for char in text if not char.isascii()}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.csv", None, "results.csv: not found, no cell is done yet"),
        ("results.csv", "", "results.csv: is no CSV"),
        ("results.csv", "dataset,method\n", "results.csv: has no column"),
        ("dataset.json", "{", "dataset.json: is no JSON"),
        ("dataset.json", None, "dataset.json: not found"),
        ("config.yaml", "a: [", "config.yaml: is no YAML"),
        ("predictions.csv", "method,fraction\n", "predictions.csv: has no column"),
    ],
)
def test_unreadable_files_are_one_clear_line(make_run: MakeRun, name: str, content: str | None, said: str) -> None:
    run = make_run(methods=TWO, fractions=(0.1,))
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(ReportError, match=re.escape(said)) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report").exists()


def test_a_number_that_is_none_names_its_line(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fractions=(0.1,))
    text = (run / "predictions.csv").read_text(encoding="utf-8").splitlines()
    fields = text[4].split(",")
    fields[7] = "0.5x"
    text[4] = ",".join(fields)
    (run / "predictions.csv").write_text("\n".join(text), encoding="utf-8")
    with pytest.raises(ReportError, match=r"line 5: score is '0.5x', not a number"):
        write_report(run)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_a_folder_without_the_class_called_gives_what_it_can_and_says_so(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fractions=(0.1,), predicted_column=False)
    report = write_report(run)
    assert_no_silent_nan(report)
    assert "does not tell which class was called in 6 of 6 scored cells" in page_of(report)
    assert "Recall by finding at" not in page_of(report)
    assert rows_of(run, "findings.csv") == []
    for row in rows_of(run, "metrics.csv"):
        assert row["f1"] == row["balanced_accuracy"] == ""
        assert 0 < float(row["auroc"]) < 1
    with_it = write_report(make_run("with", methods=TWO, fractions=(0.1,)))
    assert "does not tell which class" not in page_of(with_it)
    assert "Recall by finding at 10 % of the labels" in page_of(with_it)


def test_of_several_classes_the_class_called_follows_from_the_scores(make_run: MakeRun) -> None:
    grid = {"methods": TWO, "fractions": (0.1,), "classes": ("a", "b", "c"), "shares": (0.4, 0.3, 0.3)}
    runs = [make_run(f"run{column}", predicted_column=column, **grid) for column in (True, False)]
    texts = [page_of(write_report(run)) for run in runs]
    assert "does not tell which class" not in texts[1]
    assert rows_of(runs[0], "metrics.csv") == rows_of(runs[1], "metrics.csv")


def test_a_predicted_class_that_is_none_is_an_error(make_run: MakeRun) -> None:
    run = make_run(methods=TWO, fractions=(0.1,))
    text = (run / "predictions.csv").read_text(encoding="utf-8").splitlines()
    fields = text[1].split(",")
    fields[8] = "7"
    text[1] = ",".join(fields)
    (run / "predictions.csv").write_text("\n".join(text), encoding="utf-8")
    with pytest.raises(ReportError, match=r"line 2: a predicted class is not one of the 2 classes"):
        write_report(run)


def test_intervals_hold_the_mean(make_run: MakeRun) -> None:
    run = make_run(folds=5, methods=THREE, fractions=(0.1, 1.0))
    write_report(run)
    for row in rows_of(run, "estimates.csv"):
        assert float(row["low"]) < float(row["auprc_mean"]) < float(row["high"])
        assert not math.isnan(float(row["low"]))
