"""What lies in PREPARED: private names on one side, salted codes on the other; every file is written whole or not.

PREPARED/private/ (owner only): `key`, `sources.csv`, `seen.json`, DICOM conversions.
Elsewhere only codes: `crops/`, `heads/`, `manifest.csv`, `excluded.csv`, `prepare.json`, `index.html`.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import SYSTEM_FILES, cause, remedy, write_whole

Record = dict[str, Any]  # what is kept of a head: JSON
MANIFEST = ("path", "patient_id", "label", "side", "split", "finding", "unit", "axes")
SOURCES = ("crop", "scan", "patient_id", "side", "code", "finding_as_told")
EXCLUDED = ("patient_id", "side", "reason")


def write(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """`write_whole` for bytes or text: a stop at any moment leaves the old file or the new one."""
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    write_whole(path, lambda file: file.write(data), private=private)


def table(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """CSV text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def dump(value: object) -> str:
    """JSON text, sorted and indented."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


class Store:
    """A PREPARED folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def private(self) -> Path:
        """The folder that never leaves the house."""
        return self.root / "private"

    def is_prepared(self) -> bool:
        """Whether the folder is a PREPARED one: its key is of our making, and no other file of that name."""
        path = self.private / "key"
        try:
            return path.is_file() and re.fullmatch(rb"[0-9a-f]{64}", path.read_bytes()) is not None
        except PermissionError:
            return (self.root / "prepare.json").is_file()  # another user's

    def check(self) -> None:
        """Raises DatasetError if the folder holds something else, or cannot be written to."""
        try:
            if self.root.exists() and not self.root.is_dir():
                raise DatasetError(f"--out {self.root}: this is a file; name a folder")
            if self.root.is_dir() and not self.is_prepared() and {p.name for p in self.root.iterdir()} - SYSTEM_FILES:
                raise DatasetError(f"--out {self.root}: the folder holds other files; name a new or an empty one")
            above = next(p for p in (self.root.absolute(), *self.root.absolute().parents) if p.exists())
        except OSError as error:
            raise DatasetError(f"--out {self.root}: {cause(error)}; {remedy(error)}") from error
        if not os.access(above, os.W_OK):
            raise DatasetError(f"--out {self.root}: {above} cannot be written to; name another folder")

    def open(self) -> bytes:
        """Make the folder if need be, and return its key."""
        try:
            self.private.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.private.chmod(0o700)
            if not self.is_prepared():
                write(self.private / "key", secrets.token_hex(32), private=True)
            return (self.private / "key").read_bytes()
        except OSError as error:
            raise DatasetError(f"--out {self.root}: {cause(error)}; {remedy(error)}") from error

    def seen(self) -> dict[str, list[Any]]:
        """Files already checked: path -> [stamp, SHA-256, modality]."""
        try:
            found = json.loads((self.private / "seen.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}  # a cache: without it, files are read again
        return dict(found)

    def record_path(self, code: str) -> Path:
        """Where a head's record lies."""
        return self.root / "heads" / f"{code}.json"

    def record(self, code: str) -> Record | None:
        """What an earlier call kept of a head."""
        try:
            return dict(json.loads(self.record_path(code).read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def is_whole(self, record: Record) -> bool:
        """Whether all files of a head are there."""
        return all((self.root / name).is_file() for name in record["files"])

    def keep_only(self, records: Mapping[str, Record], scans: Collection[Path]) -> None:
        """Delete crops, pictures, records and conversions that this call does not have: a patient withdrawn is gone.

        Only after the manifest is written, so that a stop before it leaves what the old manifest names.
        """
        kept = {name for record in records.values() for name in record["files"]}
        kept |= {self.record_path(code).relative_to(self.root).as_posix() for code in records}
        for path in [*self.root.glob("crops/*/p*.nii.gz"), *self.root.glob("heads/p*.j*")]:
            if path.relative_to(self.root).as_posix() not in kept:
                path.unlink()
        for empty in self.root.glob("crops/p*"):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()
        converted = {scan.parent for scan in scans}
        for folder in self.private.glob("converted/*"):
            if folder not in converted:
                shutil.rmtree(folder)


def code_of(key: bytes, patient: str) -> str:
    """A patient's code: keyed, so that nobody without the key can try names (HMAC-SHA-256, 48 bits)."""
    return "p" + hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:12]


def digest(value: object) -> str:
    """A hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
