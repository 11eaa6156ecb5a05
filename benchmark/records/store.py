"""Results on disk: a JSON file a cell and a folder a stage, complete or absent, and claims on work in progress."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from voxbench.benchmark.settings.errors import BenchError
from voxbench.datasets.files import write_whole

CLAIM_BEAT_S = 15.0
CLAIM_STALE_S = 120.0
_RECORD = frozenset({"result_version", "key", "status"})  # what each cell and stage has


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """`write_whole` for text, in UTF-8 whatever the machine's language is."""
    write_whole(path, lambda file: file.write(text.encode(errors="backslashreplace")), private=private)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`write_whole` for JSON; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, keys: Set[str] = frozenset()) -> dict[str, Any] | None:
    """The object in `path`; None where there is no file. Raises BenchError for a damaged one, or one without `keys`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # also bytes that are no text
        raise BenchError(f"{path}: not valid JSON ({error}): delete the file, and it is computed again") from error
    if not isinstance(value, dict):
        raise BenchError(f"{path}: not a JSON object: delete the file, and it is computed again")
    if not keys <= value.keys():
        raise BenchError(f"{path}: no record of a run: move it elsewhere, and what is missing is made anew")
    return value


class Store:
    """One run folder; docs/run-folder.md describes every file in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def cell_path(self, method: str, key: str) -> Path:
        """Where a cell's result lies."""
        return self.root / "cells" / method / f"{key}.json"

    def stage_folder(self, key: str) -> Path:
        """Where a stage's files lie."""
        return self.root / "stages" / key

    def cell(self, method: str, key: str) -> dict[str, Any] | None:
        """A cell's result, ok or failed."""
        return read_json(self.cell_path(method, key), _RECORD)

    def stage(self, key: str) -> dict[str, Any] | None:
        """A stage's record, ok or failed."""
        return read_json(self.stage_folder(key) / "stage.json", _RECORD)

    def has_results(self) -> bool:
        """Whether any stage or cell has a record."""
        return any(self.root.glob("cells/*/*.json")) or any(self.root.glob("stages/*/stage.json"))

    def cells(self) -> list[dict[str, Any]]:
        """All results in the folder, by path."""
        found = (read_json(path, _RECORD) for path in sorted((self.root / "cells").glob("*/*.json")))
        return [cell for cell in found if cell is not None]

    def save_weights(self, key: str, name: str, state: Mapping[str, Tensor]) -> None:
        """State dict to ``stages/<key>/<name>.safetensors``."""
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
        write_whole(self.stage_folder(key) / f"{name}.safetensors", lambda file: file.write(to_bytes(whole)))

    def load_weights(self, key: str, name: str) -> dict[str, Tensor]:
        """What `save_weights` wrote."""
        return load_file(self.stage_folder(key) / f"{name}.safetensors")

    def save_checkpoint(self, key: str, state: Mapping[str, Any]) -> None:
        """An unfinished stage, to go on from after a stop."""
        whole = io.BytesIO()  # torch would turn a full disk into an error of its own, without the cause
        torch.save(dict(state), whole)
        write_whole(self.stage_folder(key) / "checkpoint.pt", lambda file: file.write(whole.getbuffer()))

    def load_checkpoint(self, key: str) -> dict[str, Any] | None:
        """The last checkpoint of an unfinished stage, on the CPU: a training moves what it keeps on its device."""
        path = self.stage_folder(key) / "checkpoint.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None

    def drop_checkpoint(self, key: str) -> None:
        """Removes what a finished stage no longer needs: its checkpoint, and its targets, which can be large."""
        for name in ("checkpoint.pt", "targets.npy", "targets-made.npy"):
            (self.stage_folder(key) / name).unlink(missing_ok=True)

    def write_table(self, name: str, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """A CSV file in the run folder; a missing value is an empty field."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value is None else value for key, value in row.items()})
        write_text(self.root / name, buffer.getvalue())

    def write_yaml(self, name: str, value: Mapping[str, Any]) -> None:
        """A YAML file in the run folder."""
        write_text(self.root / name, yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True))

    def write_private(self, name: str, text: str) -> None:
        """A file in ``private/``, readable by its owner only."""
        folder = self.root / "private"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        write_text(folder / name, text, private=True)

    def claim(self, key: str) -> Claim | None:
        """The right to work on `key`; None while another live process has it."""
        return Claim.take(self.root / "claims" / key)


class Claim:
    """A file that says "in work": kept fresh by a thread while held, taken over when it has gone stale.

    Two processes that take over one stale claim in the same instant may both work; the result is the same and is
    written whole by either, so only time is lost.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._keep_fresh, daemon=True)
        self._beat.start()

    @classmethod
    def take(cls, path: Path) -> Claim | None:
        """Makes the file, which only one process can; a stale one is removed first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                if not cls._stale(path):
                    return None
                path.unlink(missing_ok=True)
                continue
            with os.fdopen(descriptor, "w") as file:
                json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
            return cls(path)
        return None

    def release(self) -> None:
        """Gives the work free."""
        self._over.set()
        self._beat.join()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _keep_fresh(self) -> None:
        while not self._over.wait(CLAIM_BEAT_S):
            if self.path.exists():
                self.path.touch()

    @staticmethod
    def _stale(path: Path) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
            text = path.read_text()
        except FileNotFoundError:
            return False  # just released
        try:
            owner = json.loads(text)
        except json.JSONDecodeError:
            owner = {}  # its maker has not written it yet, or never will
        if owner.get("host") == socket.gethostname() and not _alive(int(owner["pid"])):
            return True
        return age > CLAIM_STALE_S


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
