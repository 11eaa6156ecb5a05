"""What of a run folder W&B already has: ``RUN/wandb/ledger.json``, so that nothing is sent twice."""

from __future__ import annotations

import os
from pathlib import Path

from voxbench.benchmark.records.store import read_json, write_json


class Ledger:
    """Run id -> digest of what was sent, one list for each place that it was sent to."""

    def __init__(self, run: Path, mode: str, project: str) -> None:
        self.path = run / "wandb" / "ledger.json"
        self.place = mode if mode == "offline" else " ".join(["online", *_server()])
        self.place += f" {project}"

    def has(self, identity: str, digest: str) -> bool:
        """Whether exactly this was sent before."""
        return self._all().get(self.place, {}).get(identity) == digest

    def note(self, identity: str, digest: str) -> None:
        """Remembers that it was sent; written at once, so that a killed process forgets nothing."""
        places = self._all()
        places[self.place] = {**places.get(self.place, {}), identity: digest}
        write_json(self.path, places)

    def _all(self) -> dict[str, dict[str, str]]:
        return read_json(self.path) or {}


def _server() -> list[str]:
    names = ("WANDB_BASE_URL", "WANDB_ENTITY")
    return [value for name in names if (value := os.environ.get(name))]
