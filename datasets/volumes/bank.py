"""All volumes of a dataset in one memory-mapped array, written once under a cache folder.

A bank is a folder ``<cache>/<dataset>-<hash of its fingerprint>/`` with rights for its owner only:

- ``volumes.npy``: [N, C, D, H, W] in the dataset's `storage` type, in the order of `Dataset.items`;
- ``blocks.npy``: float16 [N, 16, 16, 16], block means over all channels, from which copies are looked for;
- ``copies.json``: the copies that were found, written when they are first asked for;
- ``meta.json``: what the folder holds, the items, the content hashes, a checksum of each array.

It is built in a temporary folder and renamed into place: a reader sees a whole bank or none, and of two
processes that build at once one wins and the other takes its bank. A bank that fails its checks is built
anew.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from voxbench.datasets.base import Dataset, DatasetError, Item
from voxbench.datasets.files import FULL, cause
from voxbench.datasets.volumes.copies import BLOCKS, Copy, find_copies
from voxbench.datasets.volumes.copies import VERSION as COPIES_VERSION
from voxbench.datasets.volumes.resident import Resident

FORMAT = 2  # of the folder; a bank of another format is built anew
READERS = 4  # threads that read while the bank is built
_STALE_SECONDS = 24 * 3600  # a temporary folder older than this was left by a killed build

Progress = Callable[[int, int], None]
Array = npt.NDArray[Any]


class BankDamagedError(DatasetError):
    """The folder is not a whole bank: cut short, altered, or of another format."""


class ClosedVolumeError(RuntimeError):
    """A volume was asked for that may not be read here."""


class VolumeBank:
    """Read access to a bank. Cheap to send to another process: it is opened again there."""

    def __init__(self, folder: Path, closed: frozenset[int] = frozenset()) -> None:
        """Open the bank in `folder`; raises BankDamagedError where its files do not fit together.

        `closed` are rows that no batch may hold, such as the test volumes while settings are searched.
        """
        self.folder = folder
        self.closed = closed
        meta = _read_meta(folder)
        try:
            self.fingerprint: str = meta["fingerprint"]
            self.items: tuple[Item, ...] = tuple(Item(**item) for item in meta["items"])
            self.hashes: tuple[str, ...] = tuple(meta["hashes"])
            self.shape: tuple[int, int, int, int] = tuple(meta["shape"])
            storage = np.dtype(meta["storage"])
            self._checksums: dict[str, int] = meta["checksums"]
            self._volumes: Array = np.load(folder / "volumes.npy", mmap_mode="r", allow_pickle=False)
            self._resident = Resident(self._volumes)
            self._blocks: Array = np.load(folder / "blocks.npy", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BankDamagedError(f"{folder}: {error}") from error
        expected = (len(self.items), *self.shape)
        if self._volumes.shape != expected or self._volumes.dtype != storage:
            raise BankDamagedError(f"{folder}: volumes {self._volumes.shape} of {self._volumes.dtype}")
        if len(self.hashes) != len(self.items) or len(self._blocks) != len(self.items):
            raise BankDamagedError(f"{folder}: {len(self.items)} items, {len(self.hashes)} hashes")

    def __reduce__(self) -> tuple[type[VolumeBank], tuple[Path, frozenset[int]]]:
        return VolumeBank, (self.folder, self.closed)

    def __len__(self) -> int:
        return len(self.items)

    def check(self) -> None:
        """Read every byte; raises BankDamagedError where one has changed since the bank was built."""
        for name, checksum in self._checksums.items():
            if _file_checksum(self.folder / name) != checksum:
                raise BankDamagedError(f"{self.folder / name}: content has changed")

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The volumes of these rows, float32 [B, C, D, H, W] in [0, 1] on `device`; a copy.

        Raises ClosedVolumeError where one of them is closed.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if self.closed and not self.closed.isdisjoint(rows.tolist()):
            raise ClosedVolumeError("a volume was asked for that is closed here: one of a test patient")
        whole = self._resident.on(torch.device(device))
        if whole is None:
            stored = torch.from_numpy(self._volumes[rows]).to(device)  # moved small, made float there
        else:
            stored = whole.index_select(0, torch.from_numpy(rows).to(device))
        volumes = stored.to(torch.float32)
        return volumes.div_(255) if stored.dtype == torch.uint8 else volumes

    @cached_property
    def copies(self) -> tuple[Copy, ...]:
        """Pairs of volumes of different patients that are copies of one another, in the order of rows.

        Looked for once; later they are read from the bank's folder, if that could be written.
        """
        file = self.folder / "copies.json"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["version"] == COPIES_VERSION:
                return tuple(Copy(**pair) for pair in kept["copies"])
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or cut short: looked for anew
            pass
        blocks = torch.from_numpy(self._blocks.astype(np.float32))
        patients = [str(item.patient) for item in self.items]
        found = find_copies(blocks, patients, self.batch, self.shape[1:])
        told = {"version": COPIES_VERSION, "copies": [asdict(copy) for copy in found]}
        with contextlib.suppress(OSError):  # a cache that is full or only to be read: looked for again next time
            _write_whole(file, json.dumps(told))
        return found


def open_bank(dataset: Dataset, cache: Path, progress: Progress | None = None) -> VolumeBank:
    """The bank of `dataset` under `cache`, built first where it is missing or damaged.

    `progress` is called with (volumes done, volumes in all) while it is built. Raises DatasetError where
    the dataset has problems, a volume breaks the contract, or the cache folder cannot take it.
    """
    fingerprint = dataset.fingerprint()
    folder = cache / f"{dataset.name}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:24]}"
    bank = _open_whole(folder, dataset, fingerprint)
    if bank is not None:
        return bank
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(cache)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))  # rights 0700
    except OSError as error:
        raise DatasetError(f"cache folder {cache}: {cause(error)}; choose one you can write to (--cache)") from error
    try:
        _build(dataset, fingerprint, building, progress)
        return _install(building, folder, dataset, fingerprint)
    except OSError as error:
        if error.errno in FULL:
            raise DatasetError(
                f"cache folder {cache} is full; free some space or choose another (--cache) with room"
            ) from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)  # gone already where all went well


def _open_whole(folder: Path, dataset: Dataset, fingerprint: str) -> VolumeBank | None:
    """The bank in `folder`, or None where there is none that is whole and of this dataset."""
    try:
        bank = VolumeBank(folder)
        bank.check()
    except (BankDamagedError, FileNotFoundError):
        return None
    return bank if (bank.fingerprint, bank.shape) == (fingerprint, dataset.shape) else None


def _install(building: Path, folder: Path, dataset: Dataset, fingerprint: str) -> VolumeBank:
    for _ in range(5):  # each further turn means that another process came in between
        try:
            os.replace(building, folder)  # noqa: PTH105 - on a folder, and its failure matters
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            other = _open_whole(folder, dataset, fingerprint)  # another process was faster
            if other is not None:
                return other
            damaged = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
            try:
                os.replace(folder, damaged)  # noqa: PTH105
            except FileNotFoundError:
                pass  # another process has moved it away already
            finally:
                shutil.rmtree(damaged, ignore_errors=True)
            continue
        bank = _open_whole(folder, dataset, fingerprint)
        if bank is not None:
            return bank
        break
    raise DatasetError(f"{folder}: could not be put in place; remove it and run again")


def _build(dataset: Dataset, fingerprint: str, folder: Path, progress: Progress | None) -> None:
    items = tuple(dataset.items())
    if not items:
        raise DatasetError(f"{dataset.name}: there are no volumes")
    storage = np.dtype(dataset.storage)
    need = len(items) * int(np.prod(dataset.shape)) * storage.itemsize
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DatasetError(
            f"cache folder {folder.parent}: {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free; use another (--cache)"
        )
    hashes: list[str] = []
    blocks = np.empty((len(items), BLOCKS, BLOCKS, BLOCKS), dtype=np.float16)
    # Written in order and not through a memory map: a full disk is then an error and not a crash.
    with (folder / "volumes.npy").open("wb") as file:
        _write_header(file, (len(items), *dataset.shape), storage)
        for index, volume in enumerate(_read_all(dataset, items)):
            file.write(_stored(volume, storage, items[index]).tobytes())
            hashes.append(content_hash(volume))
            blocks[index] = _block_means(volume)
            if progress is not None:
                progress(index + 1, len(items))
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / "blocks.npy", blocks)
    meta = {
        "format": FORMAT,
        "complete": True,
        "dataset": dataset.name,
        "fingerprint": fingerprint,
        "shape": dataset.shape,
        "storage": storage.name,
        "checksums": {name: _file_checksum(folder / name) for name in ("volumes.npy", "blocks.npy")},
        "hashes": hashes,
        "items": [asdict(item) for item in items],
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_all(dataset: Dataset, items: Sequence[Item]) -> Iterator[npt.NDArray[np.float32]]:
    """Volumes in order, read by a few threads, few in memory at a time; DatasetError has all flaws."""
    problems: list[str] = []
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(items), 4 * READERS):
            some = items[start : start + 4 * READERS]
            for item, volume in zip(some, pool.map(dataset.read, some), strict=True):
                flaw = _flaw(volume, dataset.shape)
                if flaw is not None:
                    problems.append(f"{item.volume}: {flaw}")
                elif not problems:
                    yield volume
    if problems:
        raise DatasetError(f"{dataset.name}: volumes that cannot be used:", problems)


def _flaw(volume: Array, shape: tuple[int, ...]) -> str | None:
    if volume.shape != shape or volume.dtype != np.float32:
        return f"{volume.dtype} {volume.shape}, where the dataset promises float32 {shape}"
    low, high = float(volume.min()), float(volume.max())  # NaN wins in both
    if not (low >= 0 and high <= 1):
        return f"values from {low:g} to {high:g}, where the dataset promises [0, 1]"
    return None


def _stored(volume: npt.NDArray[np.float32], storage: np.dtype[Any], item: Item) -> Array:
    if storage != np.uint8:
        return volume.astype(storage)
    whole = np.rint(volume * 255).astype(np.uint8)
    if not np.allclose(whole / np.float32(255), volume, rtol=0, atol=1e-6):
        raise DatasetError(f"{item.volume}: not in steps of 1/255: the dataset must not declare uint8 storage")
    return whole


def content_hash(volume: npt.NDArray[np.float32]) -> str:
    """The same for a volume [C, D, H, W] in [0, 1] and its left-right mirror image; from steps of 1/255."""
    whole = np.rint(volume * 255).astype(np.uint8)
    sides = (np.ascontiguousarray(side).tobytes() for side in (whole, whole[:, ::-1]))
    shape = repr(volume.shape).encode()
    return min(hashlib.blake2b(shape + side, digest_size=16).hexdigest() for side in sides)


def _block_means(volume: npt.NDArray[np.float32]) -> Array:
    means: Array = F.adaptive_avg_pool3d(torch.from_numpy(volume.mean(axis=0))[None], BLOCKS)[0].numpy()
    return means


def _write_whole(file: Path, text: str) -> None:
    """A reader sees all of it or nothing."""
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, file)  # noqa: PTH105 - as everywhere here
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BankDamagedError(f"{folder / 'meta.json'}: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or meta.get("complete") is not True:
        raise BankDamagedError(f"{folder / 'meta.json'}: not of a complete bank of format {FORMAT}")
    return meta


def _file_checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _remove_stale(cache: Path) -> None:
    """Remove what killed builds left behind."""
    for folder in cache.glob(".building-*"):
        try:
            newest = max(path.stat().st_mtime for path in itertools.chain([folder], folder.iterdir()))
        except FileNotFoundError:
            continue  # its owner has just finished
        if time.time() - newest > _STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
