"""Which words say nothing, and which say something."""

from __future__ import annotations

import pytest

from voxbench.datasets.tables.words import names_nobody, says_unknown, stands_for_nothing, whole_number

SIGNS = ["NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "<NA>", "-", "--", "–", "?", ".", ".a", "#N/A", "#VALUE!"]

OTHERS = ["-999.0", "NaT", "N / A", "#N/D", "[null]", "(blank)", "(none)", "NA_character_", "\u2212", "---", "__"]


@pytest.mark.parametrize("word", [*SIGNS, "#DIV/0!", "#REF!", "#NAME?", "n.a.", " NA\u00a0", "\\N", "-999", *OTHERS])
def test_a_sign_stands_for_nothing_everywhere(word: str) -> None:
    assert stands_for_nothing(word) and says_unknown(word) and names_nobody(word)


@pytest.mark.parametrize("word", ["unknown", "Missing", "not known", "Not_Available", "undefined"])
def test_a_word_of_people_says_that_nothing_is_known(word: str) -> None:
    assert not stands_for_nothing(word)
    assert says_unknown(word) and names_nobody(word)


def test_none_is_a_finding_and_no_name() -> None:
    assert not says_unknown("None")
    assert names_nobody("None")


@pytest.mark.parametrize(
    "word",
    [
        "",
        "0",
        "1",
        "-1",
        "no",
        "normal",
        "Nadia",
        "N1",
        "#7",
        "a.",
        ".5",
        "x-",
        "other",
        "+",
        "+/-",
        "-/-",
        "-1.0",
        "empty",
        "(a)",
    ],
)
def test_other_words_say_something(word: str) -> None:
    assert not says_unknown(word) and not names_nobody(word)


@pytest.mark.parametrize(
    ("cell", "label"), [("1.0", "1"), ("0,0", "0"), ("1.00", "1"), ("1.5", "1.5"), ("1.", "1."), ("v1.0", "v1.0")]
)
def test_a_number_as_spreadsheets_write_it(cell: str, label: str) -> None:
    assert whole_number(cell) == label
