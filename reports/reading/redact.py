"""Texts made by machines (errors, settings, versions) without anything that names a person, a place or a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# A run folder's own tables keep their names; other data files are often named after a patient.
_FILE = re.compile(
    r"(?<![^\s'\"(:=])(?!(?:results|predictions)\.csv\b)"
    r"[^\s'\"(<]*\.(?:nii(?:\.gz)?|npz|npy|mha|mhd|nrrd|dcm|csv|safetensors)\b",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?<![\w.<>:/])(?:~|[A-Za-z]:)?(?:[/\\][^\s'\":,;()<>/\\]+)+[/\\]?")
_URL = re.compile(r"\b\w+://\S+")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
_PRIVATE_KEYS = ("host", "user", "home", "path", "argv", "command", "cwd", "node", "login", "root", "cache", "source")


def redact(text: str) -> str:
    """`text` with paths, addresses and data files' names replaced by what they are."""
    for pattern, instead in ((_URL, "<address>"), (_MAIL, "<address>"), (_FILE, "<file>"), (_PATH, "<path>")):
        text = pattern.sub(instead, text)
    return text


def facts(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as (dotted name, text) pairs; empty values and names that tell who or where are left out."""
    found: list[tuple[str, str]] = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        if any(private in str(key).lower() for private in _PRIVATE_KEYS) or value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping):
            found += facts(value, f"{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found.append((name, redact(", ".join(str(part) for part in value))))
        else:
            found.append((name, redact(str(value))))
    return found
