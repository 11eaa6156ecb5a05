"""Seals: the SHA-256 of a record or file, by which one that was cut, edited or hit by a flipped bit is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxbench.benchmark.settings.keys import digest

SEAL = "seal"  # the key that a record keeps it under
SEALED_SINCE = 5  # result version; records of before have none, and stand in no table any more
LENGTH = 64  # hexadecimal digits: all of a SHA-256


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its seal. Raises ValueError for NaN, which is not JSON."""
    plain = json.loads(json.dumps({**record}, allow_nan=False))  # as it will be read
    plain.pop(SEAL, None)
    return {**plain, SEAL: digest(plain, LENGTH)}


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record is as it was written, as far as its seal tells."""
    version = record.get("result_version")
    if isinstance(version, int) and version < SEALED_SINCE and SEAL not in record:
        return True
    body = {key: value for key, value in record.items() if key != SEAL}
    try:
        return bool(record.get(SEAL) == digest(body, LENGTH))
    except ValueError:  # NaN, which Python reads though it is not JSON
        return False


def file_seal(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
