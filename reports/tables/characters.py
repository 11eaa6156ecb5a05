"""Characters that a terminal or pipe in ASCII or latin-1 lacks, and what stands for them there."""

from __future__ import annotations

import codecs

HANDLER = "voxbench-plain"  # for `errors=` of a stream

_PLAIN = {
    "±": "+-",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "‐": "-",
    "‑": "-",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "→": "->",
    "←": "<-",
    "†": "*",
    "‡": "**",
    "§": "(s)",
    "•": "*",
    "°": " deg",
    "µ": "u",
    "μ": "u",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\N{NO-BREAK SPACE}": " ",
    "\N{NARROW NO-BREAK SPACE}": " ",
    "\N{THIN SPACE}": " ",
}
_ACROSS, _DOWN = "─━═╌╍┄┅┈┉╴╶╸╺╼╾", "│┃║╎╏┆┇┊┋╵╷╹╻╽╿"


def plain(text: str, encoding: str) -> str:
    """`text` as a stream of this encoding can show it; what is not known is written as its code."""
    try:
        return text.encode(encoding, HANDLER).decode(encoding)
    except LookupError:  # an encoding that Python does not know
        return text.encode("ascii", HANDLER).decode("ascii")


def _instead(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    if character in _ACROSS:
        return "-"
    if character in _DOWN:
        return "|"
    if "\u2500" <= character <= "\u257f":  # corners and crossings
        return "+"
    if "\u2580" <= character <= "\u259f":  # blocks
        return "#"
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode("ascii")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_instead, error.object[error.start : error.end])), error.end


codecs.register_error(HANDLER, _replace)
