"""What a cell may say: headings and words to compare, numbers as labels, and the words for "not known"."""

from __future__ import annotations

import re

from voxbench.datasets.tables.ids import same

SIGNS = r"""na n/a n.a. n.a na. n/d n.d. nan -nan +nan nat null #na \n k.a. na_character_ na_integer_ na_real_
-9 -99 -999 -9999 1.#ind -1.#ind 1.#qnan"""
# As R, BIDS, pandas, SQL, Stata, SAS and SPSS write a value that is not there, in small letters.
MISSING = frozenset(SIGNS.split()) | {"#n/a n/a", "k. a.", "#getting_data"}
NO_WORD = re.compile(r"[-\u2010-\u2015\u2212]+|[.\u2026]+|\?+|_+|/+|\._")  # - -- — . ... ? ??? and the like; not -/-
IN_BRACKETS = frozenset({"blank", "empty", "none", "missing", "unknown"})  # as tools write it: (blank), [missing]
BRACKETED = re.compile(r"[(<[{](.*)[)>\]}]")
UNKNOWN = frozenset(
    {"missing", "unknown", "unk", "undefined", "not known", "not available", "not applicable", "not assigned"}
    | {"not given", "not recorded", "not reported", "no data", "no value", "missing value"}
    | {"tbd", "unbekannt", "keine angabe", "unlabelled", "unlabeled"}
)
EXCEL_ERROR = re.compile(r"#[a-z/0_]+[!?]|#n/[a-z]|#nv|err:\d+|#wert!|#bezug!")
STATA_CODE = re.compile(r"\.[a-z_]")  # .a to .z, also of SAS
WHOLE = re.compile(r"(\d+)[.,]0+")


def plain(text: str) -> str:
    """A heading or a word to compare: lower case, underscores as spaces, no space twice."""
    return same(text.replace("_", " ").casefold())


def stands_for_nothing(text: str) -> bool:
    """Whether a cell holds a sign that programs write where there is no value: NA, n/a, NaN, NULL, -, ?, #N/A, ..."""
    word = _bare(text)
    found = (pattern.fullmatch(word) for pattern in (NO_WORD, EXCEL_ERROR, STATA_CODE))
    put_by_tool = word in IN_BRACKETS and BRACKETED.fullmatch(same(text)) is not None
    return word in MISSING or put_by_tool or any(found)


def _bare(text: str) -> str:
    """Small letters without brackets around them, blanks about a bar, or the .0 that makes a number of -999."""
    word = same(text.casefold())
    word = BRACKETED.sub(r"\1", word) if BRACKETED.fullmatch(word) else word
    return re.sub(r"^(-9+)[.,]0+$", r"\1", re.sub(r" ?/ ?", "/", word))


def says_unknown(text: str) -> bool:
    """The same, or a word of people for it: missing, unknown, ... Not `none`, which is a finding: there is none."""
    return stands_for_nothing(text) or _bare(plain(text)) in UNKNOWN


def names_nobody(text: str) -> bool:
    """Whether a cell that must name a patient, a file or a unit names none; here `none` says nothing, too."""
    return says_unknown(text) or _bare(plain(text)) == "none"


def whole_number(text: str) -> str:
    """A label as it was meant: spreadsheets write 1 as 1.0 (or 1,0)."""
    found = WHOLE.fullmatch(text)
    return found.group(1) if found else text
