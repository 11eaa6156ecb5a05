"""File names as the disk has them: an umlaut is one sign or two, and tables and archives do not agree on it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def as_stored(path: Path) -> Path:
    """The file that `path` names but for the Unicode form of its signs; `path` itself where there is no one such."""
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        step = found / part
        if not os.path.lexists(step):
            try:
                alike = [entry.name for entry in found.iterdir() if _form(entry.name) == _form(part)]
            except OSError:
                return path
            if len(alike) != 1:
                return path
            step = found / alike[0]
        found = step
    return found


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
