"""Salted codes for patients and volumes: the same on one user's machines, and no way back without the salt."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxbench.benchmark.records.salt import kept_salt, known_salt
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


PUBLIC = Coder(b"voxbench: these ids name no person")


def coder_for(dataset: Dataset, run: Path) -> Coder:
    """The coder of a run folder: of its salt, or of a fixed one where ids name no person (phantoms, public numbers).

    The salt is made where there is none, and the folder keeps it: see `salt`.
    """
    return PUBLIC if dataset.public_ids else Coder(kept_salt(run))


def known_coder(dataset: Dataset, run: Path) -> Coder | None:
    """The coder that a run in this folder would have; None where its salt would be made. Writes nothing."""
    if dataset.public_ids:
        return PUBLIC
    salt = known_salt(run)
    return None if salt is None else Coder(salt)


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
