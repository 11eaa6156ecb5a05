"""Results on disk: a JSON file a cell and a folder a stage, whole or absent, and claims on work in progress.

Whole is what its seal says (seal.py). What is not counts as absent; the run that finds it puts it into ``damaged/`` and
computes it again.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Set
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from voxbench.benchmark.records.seal import file_seal, is_whole, sealed
from voxbench.benchmark.settings.errors import BenchError
from voxbench.datasets.files import TEMPORARY, write_whole

CLAIM_BEAT_S = 15.0
CLAIM_STALE_S = 120.0
WRITTEN_IN_S = 5.0  # a table or a setting, which are written without a claim
_RECORD = frozenset({"result_version", "key", "status"})  # what each cell and stage has
TARGETS = "targets.bin"  # beside the record of a stage, until it is finished
_DIGEST = hashlib.sha256().digest_size  # bytes at the end of a checkpoint


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


def own_folder(run: Path, *names: str) -> Path:
    """``private/`` of a run folder, or a folder below it: its owner's alone."""
    folder = run
    for name in ("private", *names):
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    return folder


class Store:
    """One run folder; docs/run-folder.md describes every file in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.damaged: set[Path] = set()  # that were met since the last `set_aside`

    def cell_path(self, method: str, key: str) -> Path:
        """Where a cell's result lies."""
        return self.root / "cells" / method / f"{key}.json"

    def stage_folder(self, key: str) -> Path:
        """Where a stage's files lie."""
        return self.root / "stages" / key

    def write_cell(self, method: str, key: str, record: Mapping[str, Any]) -> None:
        """Keeps a cell's result, ok or failed."""
        write_json(self.cell_path(method, key), sealed(record))

    def write_stage(self, key: str, record: Mapping[str, Any]) -> None:
        """Keeps a stage's record, ok or failed, with the seals of its weights."""
        folder = self.stage_folder(key)
        files = {path.name: file_seal(path) for path in sorted(folder.glob("*.safetensors"))}
        write_json(folder / "stage.json", sealed({**record, "files": files}))

    def cell(self, method: str, key: str) -> dict[str, Any] | None:
        """A cell's result, ok or failed; None where there is no whole one."""
        return self._record(self.cell_path(method, key), key)

    def stage(self, key: str) -> dict[str, Any] | None:
        """A stage's record, ok or failed; None where there is no whole one."""
        return self._record(self.stage_folder(key) / "stage.json", key)

    def has_results(self) -> bool:
        """Whether any stage or cell has a record."""
        return any(self.root.glob("cells/*/*.json")) or any(self.root.glob("stages/*/stage.json"))

    def cells(self) -> list[dict[str, Any]]:
        """All whole results in the folder, by path."""
        paths = sorted((self.root / "cells").glob("*/*.json"))
        found = []
        for path in paths:
            cell = self._record(path, path.stem)
            if cell is not None and cell.get("cell", {}).get("method", path.parent.name) != path.parent.name:
                self.damaged.add(path)  # a copy in another method's folder
            elif cell is not None:
                found.append(cell)
        return found

    def has_weights(self, key: str) -> bool:
        """Whether a finished stage's weights are all there and as they were written."""
        folder = self.stage_folder(key)
        seals = (self.stage(key) or {}).get("files", {})
        lost = [folder / name for name, seal in seals.items() if _seal_of(folder / name) != seal]
        self.damaged.update([folder / "stage.json", *lost] if lost else [])
        return not lost

    def set_aside(self) -> list[str]:
        """Moves the damaged files that were met into ``damaged/``; their names in the run folder."""
        there = [path for path in sorted(self.damaged) if path.exists()]
        for path in there:
            self._move_aside(path)
        self.damaged.clear()
        return [path.relative_to(self.root).as_posix() for path in there]

    def save_weights(self, key: str, name: str, state: Mapping[str, Tensor]) -> None:
        """State dict to ``stages/<key>/<name>.safetensors``."""
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
        write_whole(self.stage_folder(key) / f"{name}.safetensors", lambda file: file.write(to_bytes(whole)))

    def load_weights(self, key: str, name: str) -> dict[str, Tensor]:
        """What `save_weights` wrote. Raises BenchError for a damaged file."""
        path = self.stage_folder(key) / f"{name}.safetensors"
        seal = (self.stage(key) or {}).get("files", {}).get(path.name)
        if seal is not None and _seal_of(path) != seal:
            raise BenchError(f"{path}: damaged since it was written: run the same command again, which trains it anew")
        return load_file(path)

    def drop_weights(self, key: str) -> None:
        """Removes all of a stage but its record; who needs it once more trains it anew."""
        for path in (*self.stage_folder(key).glob("*.safetensors"), self.stage_folder(key) / "examples.npz"):
            path.unlink(missing_ok=True)

    def save_checkpoint(self, key: str, state: Mapping[str, Any]) -> None:
        """An unfinished job, to go on from after a stop. The one before it is kept as well."""
        whole = io.BytesIO()  # torch would turn a full disk into an error of its own, without the cause
        torch.save(dict(state), whole)
        parts = (whole.getbuffer(), hashlib.sha256(whole.getbuffer()).digest())
        last, before = self._checkpoints(key)
        with contextlib.suppress(FileNotFoundError):  # the first, or another attempt at the job was faster
            last.replace(before)
        write_whole(last, lambda file: file.writelines(parts))

    def load_checkpoint(self, key: str) -> dict[str, Any] | None:
        """The last whole checkpoint of an unfinished job, on the CPU: a training moves what it keeps on its device.

        None where there is none: damaged ones are set aside, and the job begins anew.
        """
        for path in self._checkpoints(key):
            try:
                state = _unpacked(path.read_bytes())
            except FileNotFoundError:
                continue
            if state is not None:
                return state
            self._move_aside(path)
        return None

    def drop_checkpoint(self, key: str) -> None:
        """Removes what a finished job no longer needs: its checkpoints, and a stage's targets, which can be large."""
        for path in (*self._checkpoints(key), self.stage_folder(key) / TARGETS):
            path.unlink(missing_ok=True)

    def write_table(self, name: str, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """A CSV file in the run folder; a missing value is an empty field."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value is None else value for key, value in row.items()})
        write_text(self.root / name, buffer.getvalue())

    def seal_tables(self, *names: str) -> None:
        """Notes the seals of tables, for those who read them."""
        write_json(self.root / "tables.json", {name: file_seal(self.root / name) for name in names})

    def write_yaml(self, name: str, value: Mapping[str, Any]) -> None:
        """A YAML file in the run folder."""
        write_text(self.root / name, yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True))

    def write_private(self, name: str, text: str) -> None:
        """A file in ``private/``, readable by its owner only."""
        write_text(own_folder(self.root) / name, text, private=True)

    def claim(self, key: str) -> Claim | None:
        """The right to work on `key`; None while another live process has it."""
        return Claim.take(self.root / "claims" / key)

    def at_work(self) -> dict[str, dict[str, Any]]:
        """Keys that live processes have claimed, each with its owner's `host` and `pid`."""
        found = {path.name: Claim.owner(path) for path in (self.root / "claims").glob("*")}
        return {key: owner for key, owner in found.items() if owner is not None}

    def tidy(self) -> None:
        """Removes what killed processes left, where none is at work here."""
        if self.at_work():
            return
        left = [path for path in (self.root / "claims").glob("*") if Claim.owner(path) is None]
        for pattern in ("", "cells/*/", "stages/*/", "checkpoints/", "private/", "private/*/"):
            left += [path for path in self.root.glob(f"{pattern}{TEMPORARY}*") if _age(path) > WRITTEN_IN_S]
        for path in left:
            path.unlink(missing_ok=True)
        unfinished = {path.name.partition(".")[0] for path in self.root.glob("checkpoints/*.pt")}
        for key in unfinished | {path.parent.name for path in self.root.glob(f"stages/*/{TARGETS}")}:
            cells = (self._record(path, key) for path in self.root.glob(f"cells/*/{key}.json"))
            if any((record or {}).get("status") == "ok" for record in (self.stage(key), *cells)):
                self.drop_checkpoint(key)

    def _record(self, path: Path, key: str) -> dict[str, Any] | None:
        """What was written there for `key`; else None, and `damaged` holds a file that is something else."""
        try:
            record = read_json(path, _RECORD)
        except BenchError:  # cut short, or another file in its place
            record = {}
        if record is None:
            return None
        if record.get("key") != key or not is_whole(record):
            self.damaged.add(path)
            return None
        return record

    def _checkpoints(self, key: str) -> tuple[Path, Path]:
        """The last, and the one before it, which is there if the last is found damaged."""
        folder = self.root / "checkpoints"
        return folder / f"{key}.pt", folder / f"{key}.before.pt"

    def _move_aside(self, path: Path) -> None:
        place = self.root / "damaged" / path.relative_to(self.root)
        place.parent.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in place.parent.glob(f"{place.name}*"))
        with contextlib.suppress(FileNotFoundError):  # another process has moved it already
            path.replace(place.with_name(f"{place.name}.{number}"))


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
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
            except OSError as error:  # a full disk: an empty claim would block others until it is stale
                path.unlink(missing_ok=True)
                raise OSError(error.errno, error.strerror, str(path)) from error
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

    @classmethod
    def owner(cls, path: Path) -> dict[str, Any] | None:
        """Who holds a claim, as far as it is known; None for a stale one, and where there is none."""
        try:
            age = _age(path)
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            host, pid = itemgetter("host", "pid")(json.loads(text))
        except (ValueError, TypeError, KeyError):
            host, pid = None, None  # its maker has not written it yet, or never will
        if host == socket.gethostname() and not (isinstance(pid, int) and _alive(pid)):
            return None
        return {"host": host, "pid": pid} if age <= CLAIM_STALE_S else None

    @classmethod
    def _stale(cls, path: Path) -> bool:
        return path.exists() and cls.owner(path) is None  # one that is gone was just released


def _age(path: Path) -> float:
    """Seconds since it was last written, or until then, where the clock has gone back; 0 where it is gone."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def _unpacked(content: bytes) -> dict[str, Any] | None:
    """What a checkpoint's file holds; None where it is damaged."""
    body = content[:-_DIGEST]
    if hashlib.sha256(body).digest() != content[-_DIGEST:]:
        return None
    try:
        return dict(torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError):  # what only running code could load, or no file of torch's
        return None


def _seal_of(path: Path) -> str | None:
    return file_seal(path) if path.is_file() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
