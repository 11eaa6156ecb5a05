"""Whether two texts name one thing: what is the same, and what only looks the same and is asked about."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

Key = Callable[[str], str]

# Also brackets, and what a spreadsheet puts before a number that is a text.
SEPARATORS = re.compile(r"""[\s_.,:;/|\\'’"“”„=#()\[\]-]+""")
MINUS = "\u2212"
PREFIX = re.compile(r"(?:sub|subj|subject|pat|patient|participant|id)(?:-+|(?=\d))(?=.)")
# Cyrillic and Greek letters, small or capital, that look like a Latin one: a keyboard was in another mode.
LATIN = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455"
    "\u03b1\u03b2\u03b5\u03b6\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7",
    "abekmhopctyxijsabezhikmnoptyx",
)
WHOLE_NUMBER = re.compile(r"(\d+)[.,]0+")
POWER_OF_TEN = re.compile(r"\d[.,]\d+[eE]\+\d+")
AS_TEXT = "is a number that a spreadsheet has rounded; format the column as text, fill it in anew and export it again"


def rounded(text: str) -> bool:
    """Whether a spreadsheet has written a long number in powers of ten, as 1.23E+11: many ids become one."""
    return POWER_OF_TEN.fullmatch(text.strip()) is not None


def same(text: str) -> str:
    """A text as it looks: ä is one sign however it is stored, no sign is invisible, no blank stands twice or outside.

    Two texts that this makes equal are one thing to everybody who reads them. ASCII with single blanks is not changed.
    """
    visible = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return unicodedata.normalize("NFC", " ".join(visible.split()))


def alike(text: str) -> str:
    """A key that two spellings of one id share: 7, 007, 7.0 and sub-7; P7, p7, P-7 and P_007. Blind to `same`, too.

    A separator between two digits counts, for 1-11 and 11-1 are two patients.
    """
    return _stripped(_without_prefix(_without_fraction(_one_form(text)))) or same(text)


def first_spellings(texts: Iterable[str]) -> dict[str, str]:
    """Each text -> the first one that is the `same`; a text that is always written in one way stays as it is."""
    first: dict[str, str] = {}
    return {text: first.setdefault(same(text), text) for text in texts}


def look_alikes(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Each pair (the first of its kind, another spelling) of different ids that may well be one, in their order."""
    first: dict[str, str] = {}
    pairs = []
    for one in dict.fromkeys(map(same, ids)):
        whole = _stripped(_without_fraction(_one_form(one))) or one  # sub-pat1 is pat1, but sub-1 need not be sub-pat1
        other = first.setdefault(alike(one), first.get(whole, one))
        first.setdefault(whole, one)
        if other != one:
            pairs.append((other, one))
    return pairs


def difference(one: str, other: str) -> str:
    """What two ids that are `alike` differ by: "capitals", "zeros in front", ...; "spelling" where it is more."""
    steps: tuple[tuple[str, Key], ...] = (
        ("blanks or Unicode form", same),
        ("capitals", str.casefold),
        ("letters of another alphabet", lambda text: text.casefold().translate(LATIN)),
        ("zeros in front", _without_zeros),
        ("a .0 at the end", _without_fraction),
        ("a prefix as sub-", lambda text: _without_prefix(text.casefold())),
        ("signs between", lambda text: _without_separators(_one_dash(text))),
        ("a prefix as sub-", lambda text: text.casefold().removeprefix("sub-")),
        ("capitals and zeros", lambda text: _without_zeros(text.casefold())),
    )
    return next((name for name, key in steps if key(one) == key(other)), "spelling")


def _one_dash(text: str) -> str:
    """All separators as one dash, those at the ends gone."""
    dashes = "".join("-" if unicodedata.category(sign) in ("Pd", "Pc") or sign == MINUS else sign for sign in text)
    return SEPARATORS.sub("-", dashes).strip("-")


def _one_form(text: str) -> str:
    """Small letters, wide and joined signs as plain ones, Latin for what looks like it."""
    return unicodedata.normalize("NFKC", same(unicodedata.normalize("NFKC", text)).casefold()).translate(LATIN)


def _without_fraction(text: str) -> str:
    """7 for 7.0, as a column of numbers with a gap is written; 7.10 stays."""
    end = WHOLE_NUMBER.search(text)
    alone = end is not None and end.end() == len(text) and not re.search(r"\d[.,]?$", text[: end.start()])
    return text[: end.end(1)] if end is not None and alone else text


def _without_prefix(text: str) -> str:
    """01 for sub-01; a prefix that is the whole id stays."""
    return PREFIX.sub("", _one_dash(text), count=1) if PREFIX.match(_one_dash(text)) else text


def _without_zeros(text: str) -> str:
    """7 for 007, in every number of the text; 0 stays."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _stripped(text: str) -> str:
    """P7 for P-007."""
    return _without_separators(_without_zeros(text))


def _without_separators(text: str) -> str:
    """P7 for P-7; a separator between two digits is a dash."""
    return re.sub(r"(?<!\d)-|-(?!\d)", "", _one_dash(text))
