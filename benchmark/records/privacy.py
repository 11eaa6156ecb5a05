"""Salted codes for patients and volumes: the same on one user's machines, and no way back without the salt."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from voxbench.benchmark.settings.errors import BenchError
from voxbench.datasets.base import Dataset, Item


@dataclass(frozen=True)
class Coder:
    """HMAC-SHA256 of an id under a secret salt, cut to 48 bits."""

    salt: bytes

    def patient(self, item: Item) -> str:
        """Code of the item's patient."""
        return self._code("p", item.patient)

    def volume(self, item: Item) -> str:
        """Code of the item's volume."""
        return self._code("v", item.volume)

    def unit(self, item: Item) -> str:
        """Code of what is scored: the volume, or the unit that its crops share."""
        return self._code("v", item.scored_unit)

    @property
    def check(self) -> str:
        """Tells whether two runs had the same salt, and nothing of it."""
        return self._code("s", "the same salt")

    def _code(self, kind: str, name: str) -> str:
        return f"{kind}{hmac.new(self.salt, f'{kind}:{name}'.encode(), hashlib.sha256).hexdigest()[:12]}"


def coder_for(dataset: Dataset) -> Coder:
    """The coder of a dataset: the user's salt, or a fixed one where ids name no person (phantoms, public numbers).

    The user's salt is made at first use, readable by the user only, so that runs can be paired patient by patient;
    ``VOXBENCH_SALT`` overrides it, for runs on several machines.
    """
    if dataset.public_ids:
        return Coder(b"voxbench: these ids name no person")
    given = os.environ.get("VOXBENCH_SALT")
    return Coder(given.encode() if given else _user_salt(Path(platformdirs.user_config_dir("voxbench")) / "salt"))


def _user_salt(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, new = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):  # a link is made whole or not at all, and by one process alone
            os.link(new, path)
        Path(new).unlink()
    salt = path.read_bytes()
    if not salt:
        raise BenchError(f"{path} is empty: delete it, and it is made anew")
    return salt


def key_table(coder: Coder, items: Sequence[Item]) -> str:
    """CSV code -> id of all items, for ``private/ids.csv``."""
    quoted = (
        (
            coder.unit(item),
            coder.volume(item),
            coder.patient(item),
            item.scored_unit,
            item.volume,
            item.patient,
        )
        for item in items
    )
    lines = [",".join('"' + field.replace('"', '""') + '"' for field in row) for row in quoted]
    return "\n".join(["unit_code,volume_code,patient_code,unit,volume,patient", *lines]) + "\n"
