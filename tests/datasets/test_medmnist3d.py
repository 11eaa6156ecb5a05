from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import medmnist
import numpy as np
import pytest
from medmnist.info import INFO

from voxbench.datasets import medmnist3d
from voxbench.datasets.base import DatasetError
from voxbench.datasets.medmnist3d import (
    AdrenalMNIST3D,
    FractureMNIST3D,
    MedMNIST3D,
    MedMNIST3DOptions,
    NoduleMNIST3D,
    OrganMNIST3D,
    SynapseMNIST3D,
    VesselMNIST3D,
)

SETS = (AdrenalMNIST3D, FractureMNIST3D, NoduleMNIST3D, OrganMNIST3D, SynapseMNIST3D, VesselMNIST3D)
SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = Path(os.environ.get("VOXBENCH_TEST_DATA", SHARED)) / "medmnist"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small file in MedMNIST's form, known to the package by its MD5."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n in (("train", 5), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n, dtype=np.uint8) % 2)[:, None]
    np.savez_compressed(tmp_path / "adrenalmnist3d.npz", **arrays)
    md5 = hashlib.md5((tmp_path / "adrenalmnist3d.npz").read_bytes()).hexdigest()
    monkeypatch.setitem(INFO, "adrenalmnist3d", {**INFO["adrenalmnist3d"], "MD5": md5})
    return tmp_path


def adrenal(root: Path, **options: Any) -> AdrenalMNIST3D:
    return AdrenalMNIST3D(MedMNIST3DOptions(**options), root)


def test_items_and_volumes_are_those_of_the_file(small: Path) -> None:
    dataset = adrenal(small, size=28)
    items = dataset.items()
    assert [item.volume for item in items][4:8] == ["train-0004", "val-0000", "val-0001", "test-0000"]
    assert [item.split for item in items] == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    assert [item.label for item in items] == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]
    assert len({item.patient for item in items}) == 10
    stored = np.load(small / "adrenalmnist3d.npz")["test_images"][2]
    for item in (items[9], items[0], items[9]):  # back and forth between the splits
        volume = dataset.read(item)
    assert volume.shape == dataset.shape == (1, 28, 28, 28)
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(volume[0], stored.astype(np.float32) / np.float32(255))


def test_cross_validation_on_request(small: Path) -> None:
    official, cross = adrenal(small, size=28), adrenal(small, size=28, split="cv")
    assert official.has_official_split
    assert not cross.has_official_split
    assert all(item.split is None for item in cross.items())
    assert official.fingerprint() != cross.fingerprint()


def test_a_fingerprint_needs_no_file_and_not_the_place(tmp_path: Path) -> None:
    prints = {adrenal(root).fingerprint() for root in (tmp_path / "a", tmp_path / "b")}
    assert len(prints) == 1
    prints |= {adrenal(tmp_path, size=28).fingerprint()}
    prints |= {kind(MedMNIST3DOptions(), tmp_path).fingerprint() for kind in SETS}
    assert len(prints) == 7


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_another_file_is_refused(damage: str, small: Path) -> None:
    path = small / "adrenalmnist3d.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DatasetError, match=r"adrenalmnist3d\.npz: its MD5 is .* remove it and get it again"):
        adrenal(small, size=28).items()


def test_a_missing_file_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", no_network)
    with pytest.raises(DatasetError) as raised:
        adrenal(tmp_path).items()
    text = str(raised.value)
    assert text.startswith(f"adrenalmnist3d: adrenalmnist3d_64.npz is not in {tmp_path}")
    assert "--data-root" in text
    assert INFO["adrenalmnist3d"]["url_64"] in text
    assert "\n" not in text


def test_the_other_size_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", no_network)
    with pytest.raises(DatasetError) as raised:
        adrenal(small, size=64).items()
    assert "adrenalmnist3d_64.npz is not in" in str(raised.value)
    assert "but adrenalmnist3d.npz is: pass --set dataset.size=28" in str(raised.value)
    (small / "adrenalmnist3d.npz").rename(small / "adrenalmnist3d_64.npz")
    with pytest.raises(DatasetError, match=r"holds volumes of 28\^3; rename it to adrenalmnist3d\.npz, and pass --set"):
        adrenal(small, size=64).items()


def test_the_file_in_place_of_its_folder(small: Path) -> None:
    with pytest.raises(DatasetError, match=f"a file; name its folder: --data-root {small}"):
        adrenal(small / "adrenalmnist3d.npz", size=28).items()


def test_a_missing_file_is_downloaded_through_the_package(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (small / "adrenalmnist3d.npz").read_bytes(), tmp_path / "elsewhere"

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        assert url == INFO["adrenalmnist3d"]["url"]
        (Path(root) / filename).write_bytes(source)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    assert len(adrenal(target, size=28).items()) == 10


@pytest.mark.parametrize("kind", SETS)
def test_each_set_is_as_the_package_has_it(kind: type[MedMNIST3D]) -> None:
    dataset = kind(MedMNIST3DOptions(), None)
    info = INFO[dataset.name]
    assert info["python_class"] == kind.__name__
    assert getattr(medmnist, kind.__name__).flag == dataset.name
    assert dataset.shape == (info["n_channels"], 64, 64, 64)
    assert len(dataset.classes) == len(info["label"])
    assert (dataset.normal is None) == (kind not in (AdrenalMNIST3D, VesselMNIST3D))


def test_classes_stand_in_the_order_of_their_labels() -> None:
    assert AdrenalMNIST3D(MedMNIST3DOptions(), None).classes == ("normal", "hyperplasia")
    assert NoduleMNIST3D(MedMNIST3DOptions(), None).classes[1] == "malignant"
    assert OrganMNIST3D(MedMNIST3DOptions(), None).classes[10] == "pancreas"
    assert medmnist3d.SPLITS == ("train", "val", "test")


@pytest.mark.skipif(
    not (REAL / "adrenalmnist3d_64.npz").is_file(), reason=f"the real adrenalmnist3d_64.npz is not in {REAL}"
)
def test_the_real_adrenal_set() -> None:
    dataset = adrenal(REAL)
    items = dataset.items()
    assert [sum(item.split == split for item in items) for split in medmnist3d.SPLITS] == [1188, 98, 298]
    assert sum(item.label == 1 for item in items) == 259 + 22 + 69
    volume = dataset.read(items[-1])
    assert volume.shape == (1, 64, 64, 64)
    assert set(np.unique(volume)) == {0.0, 1.0}
