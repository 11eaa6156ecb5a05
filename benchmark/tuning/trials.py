"""Trials on disk: a sealed record each, from which a search goes on as if it had never been stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voxbench.benchmark.records.seal import is_whole, sealed
from voxbench.benchmark.records.store import read_json, write_json
from voxbench.benchmark.settings.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of settings of a method, and how it did."""

    method: str
    number: int  # 0 is the default
    settings: dict[str, Any]
    auprc: float | None  # on validation, mean over the folds and seeds of the search; None: it failed
    error: str | None = None  # why, in a line
    scores: tuple[float, ...] = ()  # a fold and seed each
    seconds: float = 0.0  # of training, on however many devices
    cells: tuple[str, ...] = ()  # keys in the search's store


class Trials:
    """The trials of a search folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[tuple[str, int], Trial] = {}

    def get(self, method: str, number: int) -> Trial | None:
        """A trial that has ended; None where there is none, or its record is not as it was written."""
        if (method, number) not in self._read:
            trial = _trial(self._path(method, number))
            if trial is None:
                return None
            self._read[method, number] = trial
        return self._read[method, number]

    def before(self, method: str, number: int) -> list[Trial]:
        """The trials 0 to `number` - 1 of a method that have ended, in order."""
        found = (self.get(method, earlier) for earlier in range(number))
        return [trial for trial in found if trial is not None]

    def add(self, trial: Trial) -> None:
        """Keeps a trial that has ended."""
        write_json(self._path(trial.method, trial.number), sealed(asdict(trial)))

    def _path(self, method: str, number: int) -> Path:
        return self.folder / "trials" / method / f"{number:04d}.json"


def best(trials: Sequence[Trial]) -> Trial | None:
    """The highest AUPRC; of equals the first, so that the default stands unless something is better."""
    return max((trial for trial in trials if trial.auprc is not None), key=lambda t: t.auprc or 0.0, default=None)


def _trial(path: Path) -> Trial | None:
    try:
        record = read_json(path)
    except BenchError:  # cut short: as if it had not ended
        return None
    if record is None or not is_whole(record):
        return None
    values = {key: value for key, value in record.items() if key in Trial.__dataclass_fields__}
    return Trial(**{**values, "scores": tuple(values["scores"]), "cells": tuple(values["cells"])})
