"""Tables on terminals of any width and any set of characters: a number is never cut, and none is lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from voxbench.reports.tables.characters import plain
from voxbench.reports.tables.fitted import Fitted
from voxbench.reports.tables.table import Entry, Table

METHODS = ("supervised", "a_rather_long_method_name_v2", "residual")
SCORES = ("0.812 ± 0.034", "0.907 ± 0.110", "0.955 ± 0.001")


def table() -> Table:
    return Table(
        title="AUPRC on a cohort with a name of some length",
        columns=("Method", "10 %", "50 %", "100 %", "Labels", "Minutes", "Memory"),
        rows=tuple(
            (
                Entry(method),
                *(Entry(score, note="†‡", bold=True) for score in SCORES),
                Entry("40/80/120"),
                Entry("123.45"),
                Entry("12.33 GiB"),
            )
            for method in METHODS
        ),
        footers=((Entry("no skill"), *(Entry("0.533"),) * 3, *(Entry("–", faint=True),) * 3),),
        notes=("† not separable from the best.",),
    )


def shown(what: Fitted, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(what)
    return file.getvalue()


@pytest.mark.parametrize("width", [200, 100, 80, 79, 60, 53, 46, 45, 40, 30, 24])
def test_every_entry_stands_in_one_piece_at_any_width(width: int) -> None:
    text = shown(table().rich(), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for score in SCORES:
        assert text.count(score.replace(" ± ", " ±") + "†‡") == len(METHODS)
    for entry in ("40/80/120", "123.45", "12.33 GiB"):
        assert text.count(entry) == len(METHODS)
    if width >= 30:
        assert all(method in text for method in METHODS)
    assert "not separable" in text


def test_a_wide_terminal_has_one_table_and_a_narrow_one_parts_that_name_their_rows() -> None:
    assert shown(table().rich(), 120).count("supervised") == 1
    parts = shown(table().rich(), 60)
    assert parts.count("supervised") == parts.count("no skill") == 3
    blocks = shown(table().rich(), 40).splitlines()
    assert blocks[blocks.index("supervised") + 1] == "  10 %: 0.812 ±0.034†‡"


def test_even_narrower_than_a_name_nothing_is_lost() -> None:
    text = shown(table().rich(), 12)
    assert "…" not in text
    assert "0.812" in text and "±0.034†‡" in text
    assert "a_rather_long_method_name_v2" in text.replace("\n", "")


def test_columns_of_words_share_the_width_or_stand_below_the_name() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve"
    row = (Text("simclr"), Text(words), Text("temperature=0.1, hidden=256, out=128"))
    what = Fitted(title="", columns=("name", "about", "options"), rows=(row,), prose=frozenset({1, 2}))
    beside, below = shown(what, 80), shown(what, 40)
    assert beside.startswith("name") and max(map(len, beside.splitlines())) <= 80
    assert below.startswith("simclr\n  about: one two") and "temperature=0.1" in below
    for text in (beside, below):
        assert all(word in text.split() for word in words.split()) and "…" not in text


def test_an_ascii_terminal_gets_the_same_numbers_in_straight_columns() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")  # strict: anything else is an error
    Console(file=file, width=140).print(table().rich())
    file.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    rows = [line for line in lines if line.startswith((*METHODS, "no skill"))]
    assert len(rows) == 4
    assert all("0.812 +-0.034***" in row for row in rows[:3])
    assert len({len(row.rstrip()) for row in rows[:3]}) == 1


@pytest.mark.parametrize(
    ("text", "encoding", "right"),
    [
        ("0.8 ± 0.1 … 1–2 × 3 − 4 ≥ 5", "ascii", "0.8 +- 0.1 ... 1-2 x 3 - 4 >= 5"),
        ("0.8 ± 0.1 … é", "latin-1", "0.8 ± 0.1 ... é"),
        ("0.8 ± 0.1 … é", "utf-8", "0.8 ± 0.1 … é"),
        ("── │ ╭╯", "ascii", "-- | ++"),
        ("Müller_β", "ascii", "M\\xfcller_\\u03b2"),
        ("file\udcff.nii", "utf-8", "file\\xff.nii"),
    ],
)
def test_what_stands_for_characters_that_are_not_there(text: str, encoding: str, right: str) -> None:
    assert plain(text, encoding) == right
