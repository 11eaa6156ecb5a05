"""Keys of results and seeds of randomness: both are hashes of what decides them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

RESULT_VERSION = 6
"""Raised whenever the same configuration would give other numbers than before: old results are then not reused."""


def digest(value: Any, length: int = 16) -> str:
    """Hexadecimal SHA-256 of a JSON-like value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def derive_seed(*parts: str | int | float | None) -> int:
    """A seed for one purpose (say, ``derive_seed(seed, "encoder")``): unrelated purposes get unrelated numbers."""
    return int(digest(list(parts), 15), 16)


def generator(*parts: str | int | float | None) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`; the same on every machine."""
    return torch.Generator().manual_seed(derive_seed(*parts))
