"""The six 3D sets of MedMNIST v2/v3, at 28^3 or 64^3.

Yang et al., "MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image
classification", Scientific Data 10:41 (2023); class names, sizes and MD5 sums are those of the `medmnist`
package. A file ``<name>.npz`` (28^3) or ``<name>_64.npz`` is looked for in the data root and checked by its
MD5 before it is read; where it is missing it is downloaded through that package.

What the files do not say:

- Patients. There are no patient ids, so one volume is taken for one patient. With ``split=cv`` volumes of
  one patient (e.g. both adrenal glands) can lie on both sides of a fold, and scores are then too good:
  prefer the official split (of AdrenalMNIST3D the package says that it was made "on a patient level").
- Axes. Neither the paper nor the package states an orientation; arrays are taken as they are. The left-right
  flip of the augmentation is therefore a flip along the first axis, whatever that is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from voxbench.datasets.base import Dataset, DatasetError, DatasetOptions, Item, Split
from voxbench.datasets.machine import has_home

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class MedMNIST3DOptions(DatasetOptions):
    """`--set dataset.KEY=VALUE`."""

    size: Literal[28, 64] = 64  # voxels along each side
    split: Literal["official", "cv"] = "official"  # "cv": cross-validation over all volumes


class MedMNIST3D(Dataset):
    """What the six sets share; there is no unlabelled pool: the training volumes serve without their
    labels."""

    Options: ClassVar[type[DatasetOptions]] = MedMNIST3DOptions
    storage = "uint8"  # the files hold bytes
    public_ids: ClassVar[bool] = True
    nothing_found: ClassVar[int | None] = None
    split_caveat: ClassVar[str] = (
        "MedMNIST publishes no patient ids: one volume is taken for one patient, and that no patient is on both sides "
        "of a split cannot be checked."
    )

    def __init__(self, options: Any, root: Path | None = None) -> None:
        super().__init__(options, root)
        self._lock = threading.Lock()
        self._open: tuple[Split, npt.NDArray[np.uint8]] | None = None  # one at a time: to 0.3 GB
        self._checked = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, as the package has them."""
        labels = _info(self.name)["label"]
        return tuple(labels[str(index)] for index in range(len(labels)))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """One channel; all sides are equal."""
        return (1, self.options.size, self.options.size, self.options.size)

    @property
    def normal(self) -> int | None:
        """Label 0 where the paper calls that class normal or healthy."""
        return self.nothing_found

    @property
    def has_official_split(self) -> bool:
        """Whether `split` is "official"."""
        return bool(self.options.split == "official")

    @property
    def path(self) -> Path:
        """Where the file is, or will be downloaded to."""
        if self.root is None and not has_home():
            raise DatasetError(f"{self.name}: there is no home folder to look for its file in: name one, --data-root")
        folder = self.root if self.root is not None else Path.home() / ".medmnist"
        return folder / f"{self.name}{self._suffix}.npz"

    def items(self) -> Sequence[Item]:
        """Training, validation and test volumes in the order of the file."""
        made: list[Item] = []
        for split in SPLITS:
            labels = self._member(f"{split}_labels").reshape(-1)
            for index, label in enumerate(labels):
                made.append(self._item(split, index, int(label)))
        return made

    def read(self, item: Item) -> npt.NDArray[np.float32]:
        """Bytes over 255."""
        split, index = item.volume.split("-")
        with self._lock:  # of several threads one decompresses
            if self._open is None or self._open[0] != split:
                self._open = None  # given back before the next is read
                self._open = (_split(split), self._member(f"{split}_images"))
            volume = self._open[1][int(index)]
        made: npt.NDArray[np.float32] = volume[None].astype(np.float32) / np.float32(255)
        return made

    def fingerprint(self) -> str:
        """From the file's MD5, known without the file, and the options."""
        text = f"medmnist3d:1:{self._md5}:{self.options.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def _suffix(self) -> str:
        return _suffix(self.options.size)

    @property
    def _md5(self) -> str:
        return str(_info(self.name)[f"MD5{self._suffix}"])

    def _refuse_other_size(self, md5: str) -> None:
        """Raises DatasetError if the file is the set's in its other size, under the wrong name."""
        for size in (28, 64):
            if md5 == _info(self.name)[f"MD5{_suffix(size)}"]:
                raise DatasetError(
                    f"{self.path}: holds volumes of {size}^3; rename it to {self.name}{_suffix(size)}.npz, "
                    f"and pass --set dataset.size={size}"
                )

    def _item(self, split: Split, index: int, label: int) -> Item:
        name = f"{split}-{index:04d}"
        official = split if self.has_official_split else None
        return Item(volume=name, patient=name, label=label, split=official)

    def _member(self, name: str) -> npt.NDArray[np.uint8]:
        self._ensure()
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                member: npt.NDArray[np.uint8] = archive[name]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{self.path}: {name} cannot be read ({error})") from error
        return member

    def _ensure(self) -> None:
        """The file is there and is the one the package knows."""
        if self._checked:
            return
        if self.root is not None and self.root.is_file():
            raise DatasetError(f"--data-root {self.root}: a file; name its folder: --data-root {self.root.parent}")
        if not self.path.is_file():
            self._download()
        digest = hashlib.md5(usedforsecurity=False)
        with self.path.open("rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
        if digest.hexdigest() != self._md5:
            self._refuse_other_size(digest.hexdigest())
            raise DatasetError(
                f"{self.path}: its MD5 is {digest.hexdigest()}, not {self._md5}: cut short, altered or of "
                "another release; remove it and get it again"
            )
        self._checked = True

    def _download(self) -> None:
        info = _info(self.name)
        import medmnist

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(io.StringIO()):
                made = getattr(medmnist, info["python_class"])
                made(split="test", download=True, root=str(self.path.parent), size=self.options.size)
        except (RuntimeError, OSError) as error:
            other = 28 if self.options.size == 64 else 64
            twin = self.path.with_name(f"{self.name}{_suffix(other)}.npz")
            if twin.is_file():
                raise DatasetError(
                    f"{self.name}: {self.path.name} is not in {self.path.parent}, but {twin.name} is: "
                    f"pass --set dataset.size={other}"
                ) from error
            raise DatasetError(
                f"{self.name}: {self.path.name} is not in {self.path.parent} and could not be downloaded; "
                f"get it from {info[f'url{self._suffix}']} and give its folder as --data-root"
            ) from error


def _info(name: str) -> Mapping[str, Any]:
    from medmnist.info import (
        INFO,  # late: the package takes two seconds to import, and `bench list` needs none of it
    )

    info: Mapping[str, Any] = INFO[name]
    return info


def _suffix(size: int) -> str:
    """Of file names and of keys of the package."""
    return "" if size == 28 else f"_{size}"


def _split(name: str) -> Split:
    return next(split for split in SPLITS if split == name)


class AdrenalMNIST3D(MedMNIST3D):
    """Shapes of 1,584 adrenal glands of 792 patients from CT: normal, or with a mass or hyperplasia."""

    name = "adrenalmnist3d"
    about = "adrenal gland shapes from CT, normal or hyperplasia; MedMNIST v2 (Yang et al. 2023)"
    nothing_found = 0  # "normal adrenal gland" (the package's description)
    split_caveat = (
        "AdrenalMNIST3D holds the left and the right gland of each patient, and which two belong together is not "
        "published: also its official split may hold one patient on both sides, and no audit can tell."
    )


class FractureMNIST3D(MedMNIST3D):
    """1,370 rib fractures in CT of three kinds; none of them is normal."""

    name = "fracturemnist3d"
    about = "rib fractures in CT, three kinds; MedMNIST v2 (Yang et al. 2023), RibFrac"


class NoduleMNIST3D(MedMNIST3D):
    """1,633 lung nodules in CT. A benign nodule is a finding, so no class is normal."""

    name = "nodulemnist3d"
    about = "lung nodules in CT, benign or malignant; MedMNIST v2 (Yang et al. 2023), LIDC-IDRI"


class OrganMNIST3D(MedMNIST3D):
    """1,742 organs of eleven kinds in abdominal CT; the classes are organs, not findings."""

    name = "organmnist3d"
    about = "organs in abdominal CT, eleven kinds; MedMNIST v2 (Yang et al. 2023), LiTS"


class SynapseMNIST3D(MedMNIST3D):
    """1,759 synapses in electron microscopy, inhibitory or excitatory; neither is abnormal."""

    name = "synapsemnist3d"
    about = "synapses in electron microscopy, inhibitory or excitatory; MedMNIST v2 (Yang et al. 2023)"


class VesselMNIST3D(MedMNIST3D):
    """1,908 segments of brain vessels from MR angiography, healthy or with an aneurysm."""

    name = "vesselmnist3d"
    about = "brain vessel segments from MRA, healthy or aneurysm; MedMNIST v2 (Yang et al. 2023), IntrA"
    nothing_found = 0  # "healthy vessel segments" (the package's description)
