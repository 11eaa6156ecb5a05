from __future__ import annotations

import json
import os
import pickle
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter

from voxbench.datasets.base import Dataset, DatasetError, DatasetOptions, Item
from voxbench.datasets.volumes import bank as bank_module
from voxbench.datasets.volumes.bank import BankDamagedError, VolumeBank, content_hash, open_bank


class Noise(Dataset):
    """Smooth random volumes in steps of 1/255."""

    name = "noise"
    about = "for tests"

    def __init__(self, n: int = 6, side: int = 14, seed: int = 0) -> None:
        super().__init__(DatasetOptions(), None)
        self.n, self.side, self.seed = n, side, seed
        self.reads = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return ("normal", "anomalous")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (1, self.side, self.side, self.side)

    def items(self) -> Sequence[Item]:
        return [Item(volume=f"v{i}", patient=f"p{i // 2}", label=i % 2, side="left") for i in range(self.n)]

    def read(self, item: Item) -> npt.NDArray[np.float32]:
        self.reads += 1
        rng = np.random.default_rng([self.seed, int(item.volume[1:])])
        whole = rng.integers(0, 256, self.shape, dtype=np.uint8)
        return whole.astype(np.float32) / np.float32(255)

    def fingerprint(self) -> str:
        return f"noise/{self.n}/{self.side}/{self.seed}"  # a slash must not become a folder


class Bytes(Noise):
    name = "bytes"
    storage: ClassVar[Any] = "uint8"


class Halves(Noise):
    name = "halves"
    storage: ClassVar[Any] = "float16"


@pytest.mark.parametrize(("kind", "tolerance"), [(Noise, 0.0), (Bytes, 1e-7), (Halves, 3e-4)])
def test_a_bank_gives_back_what_the_dataset_reads(kind: type[Noise], tolerance: float, tmp_path: Path) -> None:
    dataset = kind()
    told: list[tuple[int, int]] = []
    bank = open_bank(dataset, tmp_path / "cache", lambda done, total: told.append((done, total)))
    assert bank.items == tuple(dataset.items())
    assert told == [(i + 1, 6) for i in range(6)]
    batch = bank.batch([4, 0, 4])
    assert batch.dtype == torch.float32
    assert batch.shape == (3, 1, 14, 14, 14)
    for row, index in zip(batch, (4, 0, 4), strict=True):
        expected = torch.from_numpy(dataset.read(bank.items[index]))
        torch.testing.assert_close(row, expected, atol=tolerance, rtol=0)
    batch.zero_()  # a copy: the bank stays as it is
    assert bank.batch(torch.tensor([0])).max() > 0.9


def test_it_is_built_once(tmp_path: Path) -> None:
    first = Noise()
    open_bank(first, tmp_path)
    again = Noise()
    open_bank(again, tmp_path)
    assert (first.reads, again.reads) == (6, 0)
    other = Noise(seed=1)
    open_bank(other, tmp_path)
    assert other.reads == 6
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    bank = open_bank(Noise(), tmp_path / "cache")
    for folder in (tmp_path / "cache", bank.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def damage_cut(folder: Path) -> None:
    with (folder / "volumes.npy").open("r+b") as file:
        file.truncate((folder / "volumes.npy").stat().st_size - 5)


def damage_byte(folder: Path) -> None:
    with (folder / "volumes.npy").open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def damage_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"format": 1, "complete"')


def damage_incomplete(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "complete": False}))


def damage_missing(folder: Path) -> None:
    (folder / "blocks.npy").unlink()


def damage_pickle(folder: Path) -> None:
    np.save(folder / "blocks.npy", np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage", [damage_cut, damage_byte, damage_meta, damage_incomplete, damage_missing, damage_pickle]
)
def test_a_damaged_bank_is_built_anew(damage: Any, tmp_path: Path) -> None:
    whole = open_bank(Noise(), tmp_path)
    expected, folder = whole.batch(range(6)), whole.folder
    damage(folder)
    with pytest.raises(BankDamagedError):
        VolumeBank(folder).check()
    dataset = Noise()
    again = open_bank(dataset, tmp_path)
    assert dataset.reads == 6
    assert again.folder == folder
    assert torch.equal(again.batch(range(6)), expected)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing is left behind"


def test_a_bank_travels_to_another_process_as_its_path(tmp_path: Path) -> None:
    bank = open_bank(Noise(side=24), tmp_path)
    packed = pickle.dumps(bank)
    assert len(packed) < 1000
    assert torch.equal(pickle.loads(packed).batch([1]), bank.batch([1]))


def test_two_that_build_at_once_have_one_whole_bank(tmp_path: Path) -> None:
    barrier = threading.Barrier(2, timeout=60)

    class Slow(Noise):
        def items(self) -> Sequence[Item]:
            barrier.wait()  # both have found no bank, and both build
            return super().items()

    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(open_bank, Slow(n=20, side=20), tmp_path) for _ in range(2)]
        one, two = (build.result() for build in builds)
    assert one.folder == two.folder
    assert torch.equal(one.batch(range(20)), two.batch(range(20)))
    assert [path.name for path in tmp_path.iterdir()] == [one.folder.name]


def test_a_failed_build_leaves_nothing_and_names_every_flaw(tmp_path: Path) -> None:
    class Bad(Noise):
        def read(self, item: Item) -> npt.NDArray[np.float32]:
            volume = super().read(item)
            if item.volume == "v1":
                volume[0, 3, 3, 3] = np.nan
            if item.volume == "v4":
                volume = volume[:, :5]
            return volume

    with pytest.raises(DatasetError) as raised:
        open_bank(Bad(), tmp_path)
    assert "v1: values from nan to nan" in str(raised.value)
    assert "v4: float32 (1, 5, 14, 14)" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_only_for_values_that_are_bytes(tmp_path: Path) -> None:
    class Inexact(Bytes):
        def read(self, item: Item) -> npt.NDArray[np.float32]:
            return super().read(item) * np.float32(0.77)

    with pytest.raises(DatasetError, match="must not declare uint8"):
        open_bank(Inexact(), tmp_path)


def test_a_full_or_closed_cache_folder_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="choose one you can write to"):
        open_bank(Noise(), tmp_path / "file" / "cache")
    usage = bank_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(bank_module.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DatasetError, match="0 MB free; use another"):
        open_bank(Noise(), tmp_path / "cache")


def test_left_overs_of_killed_builds_are_removed_once_old(tmp_path: Path) -> None:
    for name, age in ((".building-old", 2 * 24 * 3600), (".building-new", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "volumes.npy").write_text("x")
        for path in (tmp_path / name / "volumes.npy", tmp_path / name):
            when = path.stat().st_mtime - age
            os.utime(path, (when, when))
    open_bank(Noise(), tmp_path)
    assert not (tmp_path / ".building-old").exists()
    assert (tmp_path / ".building-new").exists()


def test_the_hash_sees_content_and_not_mirroring() -> None:
    volume = Noise().read(Item(volume="v0", patient="p"))
    assert content_hash(volume) == content_hash(volume[:, ::-1])
    assert content_hash(volume) == content_hash(volume + np.float32(1e-4)), "what storage rounds away"
    assert content_hash(volume) != content_hash(volume[:, :, ::-1])
    changed = volume.copy()
    changed[0, 0, 0, 0] = 1 - changed[0, 0, 0, 0]
    assert content_hash(volume) != content_hash(changed)


class Twins(Noise):
    """Volumes of which the last is the first one, moved by two voxels; patients differ."""

    def read(self, item: Item) -> npt.NDArray[np.float32]:
        number = int(item.volume[1:])
        drawn = np.random.default_rng(number % (self.n - 1)).random(self.shape[1:])
        smooth = gaussian_filter(drawn, 1.5)
        made = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
        return np.roll(made, 2 * (number == self.n - 1), axis=2)[None]


def test_copies_are_looked_for_once_and_kept_with_the_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = open_bank(Twins(n=9, side=24), tmp_path)
    found = bank.copies
    assert [(copy.a, copy.b) for copy in found] == [(0, 8)]
    monkeypatch.setattr(bank_module, "find_copies", lambda *_: pytest.fail("looked for again"))
    assert VolumeBank(bank.folder).copies == found
    monkeypatch.undo()
    (bank.folder / "copies.json").write_text('{"version": 1, "cop')  # cut short
    assert VolumeBank(bank.folder).copies == found
    assert sorted(path.name for path in bank.folder.iterdir()) == [
        "blocks.npy",
        "copies.json",
        "meta.json",
        "volumes.npy",
    ]


def test_no_volumes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there are no volumes"):
        open_bank(Noise(n=0), tmp_path)
