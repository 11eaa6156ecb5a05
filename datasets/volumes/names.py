"""File names as the disk has them: an umlaut is one sign or two, and tables and archives do not agree on it."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from functools import lru_cache
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
                alike = _names(found, found.stat().st_mtime_ns).get(_form(part), [])
            except OSError:
                return path
            if len(alike) != 1:
                return path
            step = found / alike[0]
        found = step
    return found


@lru_cache(maxsize=8)
def _names(folder: Path, _changed: int) -> dict[str, list[str]]:
    """The names in a folder by their form, kept until the folder has changed: a table may name many of one folder."""
    names: dict[str, list[str]] = defaultdict(list)
    for entry in folder.iterdir():
        names[_form(entry.name)].append(entry.name)
    return dict(names)


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
