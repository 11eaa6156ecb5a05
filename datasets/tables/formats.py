"""How a spreadsheet program shows a number: the id 7 in the format 000 is 007."""

from __future__ import annotations

import re
from datetime import datetime, time

from openpyxl.styles.numbers import is_date_format
from openpyxl.utils.datetime import from_excel

# A quoted text, an escaped sign, a colour or a currency, a width or a filling, a placeholder, any other sign.
PARTS = re.compile(r'"([^"]*)"|\\(.)|(\[[^\]]*\])|([_*].)|([0#])|(.)', re.DOTALL)
LITERAL = frozenset("-+/()[]:;!^&'~{}<>=$ ") | frozenset("0123456789")


def shown(value: float, code: str, epoch: datetime) -> str:
    """A number as text: a day as 2026-11-27, zeros in front and fixed texts as the format has them, else plainly.

    Decimals, thousands and per cent of a format are left out: 1.00 is 1, and 1,000 is 1000.
    """
    if code != "General" and is_date_format(code):
        return _day(value, epoch)
    if not float(value).is_integer():
        return str(value)
    whole = str(int(value))
    return _padded(whole, code.split(";")[0]) or whole if value >= 0 else whole


def _padded(digits: str, code: str) -> str:
    """The digits filled into a format of zeros and fixed texts, from the right as Excel does; "" for other formats."""
    parts: list[tuple[bool, str]] = []  # (a place for a digit, the sign there)
    for quoted, escaped, colour, width, digit, other in PARTS.findall(code):
        if digit or quoted or escaped:
            parts.append((bool(digit), digit or quoted or escaped))
        elif other and other not in LITERAL:
            return ""
        elif other and not (colour or width):
            parts.append((False, other))
    places = [at for at, (is_place, _) in enumerate(parts) if is_place]
    if not places or (all(parts[at][1] == "#" for at in places) and len(places) == len(parts)):
        return ""
    filled = dict(zip(reversed(places), reversed(digits), strict=False))
    filled[places[0]] = digits[: max(0, len(digits) - len(places))] + filled.get(places[0], "")
    text = ""
    for at, (is_place, sign) in enumerate(parts):
        text += (filled.get(at) or ("0" if sign == "0" else "")) if is_place else sign
    return text.strip()


def _day(value: float, epoch: datetime) -> str:
    try:
        moment = from_excel(value, epoch)
    except (ValueError, OverflowError):
        return str(value)
    if isinstance(moment, datetime) and moment.time() == time():
        return moment.date().isoformat()
    return str(moment)
