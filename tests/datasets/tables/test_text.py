"""Tables that are text: no row is lost or shifted without a word, and each has the number that a spreadsheet shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.tables.reader import Table, read_table

HEADER = "patient,side,finding,comment\n"


def read(folder: Path, content: str | bytes, name: str = "s.csv") -> Table:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(folder / name, {"patient": ["patient"], "side": ["side"]}, {"finding": ["finding"]})


def patients(table: Table) -> list[tuple[int, str]]:
    return [(number, row["patient"]) for number, row in table.rows]


@pytest.mark.parametrize(
    ("rows", "bad", "why", "good"),
    [
        ('1,left,cyst,\n2,left,cyst,"2 cm\n3,left,cyst,\n', [3], "is never closed", [2, 4]),
        ('1,left,"cyst,\n2,left,cyst,\n3,left,"cyst,\n', [2, 4], "check the quotes", [3]),
        ('1,left,cyst,"2 cm\n2,left,cyst,\n3,left,cyst,2 cm"\n4,left,,\n', [2], "closed in a later row", [3, 4, 5]),
        ('1,left,cyst,"2 cm\n2,left,cyst,3 cm"\n', [2], "closed in a later row", [3]),
        ('1,"left,cyst,\n2,left",cyst,\n3,left,cyst,\n', [2], "closed in a later row", [3, 4]),
        ('0,left\n1,left,cyst,"2 cm\n2,left\n3,left,cyst,2 cm"\n', [3], "closed in a later row", [2, 4, 5]),
        ('1,left,cyst,"2" wide\n2,left,cyst,\n', [2], "not closed where its cell ends", [3]),
        ('"1,left,cyst,\n2,left,cyst,\n', [2], "is never closed", [3]),
        ('1,left,cyst,\n2,left,cyst,"\n', [3], "is never closed", [2]),
        ("1,left,2,5,cyst\n2,left,,\n", [2], "5 cells where the header has 4", [3]),
        ("1,left,2,5,,\n2,left,,\n", [2], "6 cells where the header has 4", [3]),
        ("1,left,,\n2,left\x00,,\n3,left,,\n", [3], "NUL bytes", [2, 4]),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_all_others_are_read(
    rows: str, bad: list[int], why: str, good: list[int], tmp_path: Path
) -> None:
    table = read(tmp_path, HEADER + rows)
    assert [problem.split(":")[0] for problem in table.problems] == [f"s.csv row {number}" for number in bad]
    assert all(why in problem for problem in table.problems)
    assert [number for number, _ in table.rows] == good
    assert {cell[0] for cell in (*table.doubtful, *dict(patients(table)).values()) if cell} >= set("12")


def test_a_quote_that_swallows_more_than_a_field_may_hold(tmp_path: Path) -> None:
    rows = "".join(f"{number},left,cyst,a remark of some length\n" for number in range(9000))
    table = read(tmp_path, f'{HEADER}p,left,cyst,"2 cm\n{rows}')
    assert table.problems == (
        "s.csv row 2: a quote that opens here is never closed; close or remove it, and check the quotes below",
    )
    assert len(table.rows) == 9000


def test_what_is_in_order_is_read(tmp_path: Path) -> None:
    """Texts of several lines with separators and quotes, signs for inches, rows that Excel cut, blank rows."""
    table = read(
        tmp_path,
        HEADER + '1,left,cyst,"two lines,\nwith a comma, and one more, too"\n2,left,cyst,5" wide\n3,left\n\n,,,\n'
        '4,left,"cyst","he said ""2 cm"""\n"a\r\nb",left,cyst,\n5,left,cyst,x',
    )
    assert table.problems == ()
    assert patients(table) == [(2, "1"), (3, "2"), (4, "3"), (7, "4"), (8, "a\r\nb"), (9, "5")]


def test_a_flaw_below_a_text_of_several_lines_names_row_and_line(tmp_path: Path) -> None:
    table = read(tmp_path, HEADER + '1,left,cyst,"a\nb\nc"\n2,left,cyst,"open\n3,left,a,b,c\n')
    assert [problem.split(";")[0] for problem in table.problems] == [
        "s.csv row 3: a quote that opens here (line 5 of the file) is never closed",
        "s.csv row 4: 5 cells where the header has 4",
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("first", "sign"),
    [("", ","), ("", ";"), ("", "\t"), ("sep=;", ";"), ('"sep=;"', ";"), ("SEP=|", "|"), ("sep=,", ",")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_however_a_program_writes_it(first: str, sign: str, encoding: str, ending: str, tmp_path: Path) -> None:
    lines = [
        *([first] if first else []),
        sign.join(["patient", "side", "finding"]),
        sign.join(["Müller", "left", "cyst"]),
    ]
    table = read(tmp_path, ending.join([*lines, ""]).encode(encoding))
    assert table.rows == ((2, {"patient": "Müller", "side": "left", "finding": "cyst"}),)


def test_a_line_of_a_separator_counts_even_against_the_header(tmp_path: Path) -> None:
    table = read(tmp_path, 'sep=;\npatient;side;"finding, or what, is, seen";finding\n7;left;a,b;cyst\n')
    assert table.rows == ((2, {"patient": "7", "side": "left", "finding": "cyst"}),)
    quoted = read(tmp_path, '"remarks, of, any, kind";patient;side;finding\n;7;left;cyst\n')
    assert patients(quoted) == [(2, "7")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER.encode("utf-16-le"), "this is not text, or damaged"),
        (HEADER.encode("utf-32"), "not text, or damaged|not readable"),
        ((HEADER + "Müller,left,,\n").encode("latin-1"), r'not UTF-8 text \(byte 30\); save it as "CSV UTF-8"'),
        (b"", "the spreadsheet is empty"),
        (b"sep=;\n", "the spreadsheet is empty"),
        (b'patient,"side,finding\n7,left,cyst\n', "row 1: a quote that opens here is never closed"),
    ],
)
def test_what_is_no_table_has_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 's.csv'}: ")
    assert "\n" not in str(caught.value)


def test_headings_with_signs_that_nobody_sees(tmp_path: Path) -> None:
    table = read(tmp_path, "\u200bPatient\u00a0,\ufeffSIDE,finding \n7,left,cyst\n")
    assert patients(table) == [(2, "7")]


def test_quotes_are_looked_at_in_a_table_with_a_blank_after_each_comma(tmp_path: Path) -> None:
    table = read(tmp_path, 'patient, side, finding, comment\n1, left, cyst,"a\n2, left, cyst, b\n3, left, cyst, c"\n')
    assert [problem.split(":")[0] for problem in table.problems] == ["s.csv row 2"]
    assert [number for number, _ in table.rows] == [3, 4]


def test_a_heading_whose_quote_is_closed_in_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="row 1: a quote that opens here is closed in a later row only"):
        read(tmp_path, 'patient,side,finding,"comment\n1,left,cyst,\n2,left,cyst,2 cm"\n3,left,cyst,\n')


def test_a_text_of_several_lines_with_figures_is_no_row(tmp_path: Path) -> None:
    """Decimal commas beside rows that Excel cut to two cells, and a heading of two lines."""
    rows = '1,left\n2,left,cyst,"large:\n1,5 cm"\n3,"left\n",cyst,x\n"4\n",left,cyst,y\n'
    table = read(tmp_path, 'patient,side,finding,"size,\nin cm"\n' + rows)
    assert table.problems == ()
    assert [row["patient"] for _, row in table.rows] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("row", ['"{0}","{0}",left,cyst,x\n', "{0},left,cyst,x,\n"])
def test_where_every_row_is_longer_each_is_named_and_the_header_is_suspected(row: str, tmp_path: Path) -> None:
    problems = read(tmp_path, HEADER + "".join(row.format(number) for number in range(9))).problems
    assert [problem.split(":")[0] for problem in problems] == [f"s.csv row {number}" for number in range(2, 11)]
    assert all("5 cells where the header has 4; quote a value" in problem for problem in problems)
    assert all(
        "every row is so: is a heading missing (in R: write row.names = FALSE)" in problem for problem in problems
    )
    few = read(tmp_path, f"{HEADER}1,left,cyst,x\n" + row.format(2) * 5).problems
    assert len(few) == 5 and not any("every row" in problem for problem in few)
