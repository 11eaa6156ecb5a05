"""The contract between a source of volumes and the harness.

Axes, everywhere: an array is ``[C, D, H, W]`` in RAS+ order, D = x (left to right), H = y (back to front), W = z (up).
Values are in [0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Split = Literal["train", "val", "test"]


class DatasetError(Exception):
    """The data, or a setting of the dataset, cannot be used; the message is for the user and needs no traceback.

    `problems` are independent one-line findings (which row or file, what is wrong, what to do), all of them at once.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {problem}" for problem in self.problems)])


class DatasetOptions(BaseModel):
    """Base of every dataset's own options (`--set dataset.KEY=VALUE`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One volume and what is known of it."""

    volume: str  # unique and stable within the dataset
    patient: str  # never empty; splits are made between patients
    label: int | None = None  # index into `Dataset.classes`; None = unlabelled pool
    unit: str = ""  # what is scored: crops of one sinus share it, and their scores are averaged; "" = the volume itself
    side: Literal["left", "right"] | None = None
    finding: str | None = None  # finer than the label, for evaluation only
    split: Split | None = None  # the official split, where there is one

    @property
    def scored_unit(self) -> str:
        """What one score stands for: `unit`, or the volume itself."""
        return self.unit or self.volume


class Dataset(ABC):
    """A source of volumes: an unlabelled pool, a labelled set, and who they come from.

    A source is one file with one subclass, registered in the entry-point group ``voxbench.datasets``.
    `__init__` stores its arguments; files are opened, and errors raised, by `items` and `read`.
    """

    Options: ClassVar[type[DatasetOptions]] = DatasetOptions
    name: ClassVar[str]
    about: ClassVar[str]  # one line for `bench list datasets`
    public_ids: ClassVar[bool] = False  # True: patient ids name no person (phantoms, index numbers of public sets)
    storage: ClassVar[Literal["uint8", "float16", "float32"]] = "float32"
    """How a bank keeps the volumes on disk; "uint8" only where every value is a whole multiple of 1/255."""
    is_phantom: ClassVar[bool] = False  # True: the report says that nothing about patients follows
    split_caveat: ClassVar[str] = ""  # what nobody can prove of its splits, in a sentence that the leak audit repeats
    real_images: ClassVar[bool] = True  # False: a program made every voxel, so slices may leave the user's machine

    def __init__(self, options: Any, root: Path | None = None) -> None:
        """`options` is an instance of `Options`; `root` is the user's --data-root (or the path given as --dataset)."""
        self.options = options
        self.root = root
        self.progress: Callable[[int, int], None] | None = None
        """Set by a caller who wants to hear (files done, files in all) while `items` reads them."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names by label; two classes: (negative, positive). For sinuses ("normal", "anomalous")."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """[C, D, H, W] of every volume."""

    @abstractmethod
    def items(self) -> Sequence[Item]:
        """All volumes, pool and labelled, in a stable order. Raises DatasetError with every problem found."""

    @abstractmethod
    def read(self, item: Item) -> npt.NDArray[np.float32]:
        """One volume, float32 [C, D, H, W] in [0, 1]. Called from several threads and processes."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that decides the volumes and labels (files' content, options, generator version).

        Keys of cached volumes and of results depend on it. Must not depend on where the files lie.
        """

    @property
    def normal(self) -> int | None:
        """The label that means "nothing found", for methods that learn from normal volumes; None = there is none."""
        return 0 if len(self.classes) == 2 else None

    @property
    def has_official_split(self) -> bool:
        """Whether items carry `split` and it is to be honoured: seeds then take the place of folds."""
        return False

    def lesion_mask(self, item: Item) -> npt.NDArray[np.bool_] | None:
        """Where the finding is, bool [D, H, W]; for evaluation only, never for training. None = not known."""
        del item
        return None
