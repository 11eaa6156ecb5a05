"""What is one id, what only looks like one, and what is not to be asked about."""

from __future__ import annotations

import unicodedata

import pytest

from voxbench.datasets.tables.ids import alike, difference, first_spellings, look_alikes, same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller", unicodedata.normalize("NFD", "Müller")),
        ("Anna  Muster", "Anna Muster"),
        ("Anna\u00a0Muster", "Anna Muster"),
        ("\u00a0P7\u2003", "P7"),
        ("P\u200b7\ufeff", "P7"),
        ("P 7\t", "P 7"),
        ("P\u00ad7", "P7"),
    ],
)
def test_what_looks_the_same_is_the_same(one: str, other: str) -> None:
    assert one != other
    assert same(one) == same(other)
    assert look_alikes([one, other]) == []


@pytest.mark.parametrize("text", ["P001", "1-11", "sub-01", "Anna Muster", "1.0", "a_b", "Müller"])
def test_a_plain_id_stays_as_it_is(text: str) -> None:
    assert same(text) == text


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("P001", "p001", "capitals"),
        ("STRASSE", "Straße", "capitals"),
        ("7", "007", "zeros in front"),
        ("P01-02", "P1-2", "zeros in front"),
        ("1", "1.0", "a .0 at the end"),
        ("1", "1,0", "a .0 at the end"),
        ("1", "sub-1", "a prefix as sub-"),
        ("Sub_1", "1", "a prefix as sub-"),
        ("subject 3", "3", "a prefix as sub-"),
        ("P-7", "P_7", "signs between"),
        ("P7", "P 7", "signs between"),
        ("P\u20117", "P-7", "signs between"),
        ("'007", "007", "signs between"),
        ("P\u22127", "P-7", "signs between"),
        ("P(7)", "P7", "signs between"),
        ("\u0420\u0415\u0422-1", "PET-1", "letters of another alphabet"),
        ("\u03a17", "P7", "letters of another alphabet"),
        ("#7", "7", "signs between"),
        ('="007"', "007", "signs between"),
        ("AnnaMuster", "Anna Muster", "signs between"),
        ("P001", "p1", "capitals and zeros"),
        ("sub-01", "1.0", "spelling"),
        ("１２", "12", "spelling"),
    ],
)
def test_another_spelling_is_asked_about(one: str, other: str, how: str) -> None:
    assert same(one) != same(other)
    assert alike(one) == alike(other)
    assert look_alikes(["x", one, "y", other, one]) == [(same(one), same(other))]
    assert difference(one, other) == how


@pytest.mark.parametrize(
    "ids",
    [
        ["1-11", "11-1", "111"],
        ["1.1", "1.10", "11"],
        ["P1", "P10", "P100", "C1"],
        ["0", "00x", "10", "100", "10.1"],
        ["id", "1", "patient", "sub"],
        ["-", "_", "?"],
        ["case-1", "control-1", "1"],
        ["2.1.0", "2.1", "21"],
        ["sub-01", "sub-pat01", "sub-con01"],
        ["Иванов", "Петров", "Ivanov", "Petrov", "Γεωργίου"],
    ],
)
def test_different_ids_are_left_alone(ids: list[str]) -> None:
    assert look_alikes(ids) == []


def test_of_three_spellings_each_is_held_against_the_first() -> None:
    assert look_alikes(["1", "01", "001", "2"]) == [("1", "01"), ("1", "001")]


def test_the_first_spelling_stands_for_all_and_a_consistent_one_stays() -> None:
    composed, split = "Müller", unicodedata.normalize("NFD", "Müller")
    assert first_spellings([split, composed, "a  b"]) == {split: split, composed: split, "a  b": "a  b"}


@pytest.mark.parametrize("ids", [["sub-pat01", "x", "pat01"], ["pat01", "sub-pat01"]])
def test_a_prefix_before_an_id_that_has_one_itself(ids: list[str]) -> None:
    assert look_alikes(ids) == [(ids[0], ids[-1])]
    assert difference(ids[0], ids[-1]) == "a prefix as sub-"
