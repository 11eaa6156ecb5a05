"""`bench` on terminals without Unicode, on narrow ones, and into closed pipes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import BENCH, environment

PLAIN = {
    "ascii pipe": {"PYTHONIOENCODING": "ascii"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("kind", ["ascii pipe", pytest.param("C locale", marks=pytest.mark.long)])
def test_no_command_fails_for_want_of_a_character(
    kind: str, finished: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    report = finished / "report" / "table.md"
    before = report.read_bytes()
    again = command("--methods", "supervised", "--fractions", "0.3,1.0", "--out", str(finished), "--workers", "1")
    for words, code in (
        (again, 0),
        ([*BENCH, "report", str(finished)], 0),
        ([*BENCH, "list", "methods"], 0),
        ([*BENCH, "report", str(tmp_path / "Müller ± …")], 2),
        ([*BENCH, "nö"], 2),
    ):
        own = environment(HOME=str(tmp_path), **PLAIN[kind])
        done = subprocess.run(words, env=own, capture_output=True, timeout=200)
        assert done.returncode == code, (words, done.stderr)
        assert b"Traceback" not in done.stderr and b"UnicodeEncodeError" not in done.stderr
        shown = done.stdout.decode("latin-1" if kind == "latin-1 pipe" else "ascii")
        if words == again:
            assert ("±" if kind == "latin-1 pipe" else "+-") in shown
    assert report.read_bytes() == before and "±".encode() in before


@pytest.mark.parametrize("words", [("list", "methods", "--json"), ("run", "--help")])
def test_a_reader_who_leaves_is_no_traceback(words: tuple[str, ...]) -> None:
    process = subprocess.Popen([*BENCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert said == b""


def test_a_run_whose_reader_leaves_still_ends_with_its_files(command: Callable[..., list[str]], tmp_path: Path) -> None:
    words = command("--methods", "supervised", "--fractions", "1.0", "--out", str(tmp_path / "run"), "--workers", "1")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=200)
    assert (process.returncode, said) == (0, b"")
    assert (tmp_path / "run" / "report" / "index.html").is_file()


@pytest.mark.parametrize("columns", ["40"])
def test_no_table_is_cut_on_a_narrow_terminal(
    columns: str, finished: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    plan = command("--methods", "supervised,simclr", "--fractions", "0.3,1.0", "--out", str(finished), "--dry-run")
    report = [*BENCH, "report", str(finished)]
    for words in (plan, report, [*BENCH, "list", "methods"]):
        own = environment(COLUMNS=columns, HOME=str(tmp_path))
        done = subprocess.run(words, env=own, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert "…" not in done.stdout
        assert "supervised" in done.stdout
        if words == plan:
            assert "6/6" in done.stdout and "0/7" in done.stdout and "1 x simclr" in done.stdout
        if words == report:
            scores = (finished / "report" / "table.md").read_text(encoding="utf-8")
            for score in re.findall(r"\d\.\d{3} ± \d\.\d{3}", scores):
                assert score.replace(" ± ", " ±") in done.stdout
