"""What a cell may say: headings and words to compare, numbers as labels, and the words for "not known"."""

from __future__ import annotations

import re

from voxbench.datasets.tables.ids import same

SIGNS = r"""na n/a n.a. n.a n/d n.d. nan -nan +nan null <na> #na (null) \n k.a.
- -- --- – — ? ?? ??? . .. ... ._ -9 -99 -999 -9999 1.#ind -1.#ind 1.#qnan -1.#qnan"""
# As R, BIDS, pandas, SQL, Stata, SAS and SPSS write a value that is not there, in small letters.
MISSING = frozenset(SIGNS.split()) | {"#n/a n/a", "k. a."}
UNKNOWN = frozenset(
    {"missing", "unknown", "unk", "undefined", "not known", "not available", "not applicable", "not assigned"}
    | {"not given", "no data", "tbd", "unbekannt", "unlabelled", "unlabeled"}
)
EXCEL_ERROR = re.compile(r"#[a-z/0_]+[!?]|#n/a|#n/v|#nv|err:\d+|#wert!|#bezug!")
STATA_CODE = re.compile(r"\.[a-z_]")  # .a to .z, also of SAS
WHOLE = re.compile(r"(\d+)[.,]0+")


def plain(text: str) -> str:
    """A heading or a word to compare: lower case, underscores as spaces, no space twice."""
    return same(text.replace("_", " ").casefold())


def stands_for_nothing(text: str) -> bool:
    """Whether a cell holds a sign that programs write where there is no value: NA, n/a, NaN, NULL, -, ?, #N/A, ..."""
    word = same(text.casefold())
    return word in MISSING or EXCEL_ERROR.fullmatch(word) is not None or STATA_CODE.fullmatch(word) is not None


def says_unknown(text: str) -> bool:
    """The same, or a word of people for it: missing, unknown, ... Not `none`, which is a finding: there is none."""
    return stands_for_nothing(text) or plain(text) in UNKNOWN


def names_nobody(text: str) -> bool:
    """Whether a cell that must name a patient, a file or a unit names none; here `none` says nothing, too."""
    return says_unknown(text) or plain(text) == "none"


def whole_number(text: str) -> str:
    """A label as it was meant: spreadsheets write 1 as 1.0 (or 1,0)."""
    found = WHOLE.fullmatch(text)
    return found.group(1) if found else text
