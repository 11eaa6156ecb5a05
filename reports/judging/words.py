"""Numbers and lists as a reader says them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """`0.812 (0.771 to 0.850)`; without an interval the value alone; `–` for NaN."""
    if math.isnan(value):
        return "–"
    if math.isnan(low) or math.isnan(high):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def signed(value: float) -> str:
    """`+0.031`, `−0.004`."""
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def p_value(value: float) -> str:
    """`0.032`, `< 0.001`; `–` where it could not be tested."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, noun: str) -> str:
    """`1 fold`, `3 folds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
