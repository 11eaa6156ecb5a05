"""The contract between a method and the harness.

A method owns its heads, targets and losses. It never owns data, labels, folds, an optimiser, a device or a
training loop: those belong to the harness and are the same for all methods. Volumes are float32
``[B, C, D, H, W]`` in [0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from voxbench.methods.errors import MethodError as MethodError

Role = Literal["method", "baseline", "yardstick"]
"""What a row stands for: a method; no pretraining, what each is measured against; or a formula that a network should
beat."""


class Options(BaseModel):
    """Base of the own options of a method (`--set methods.NAME.KEY=V`) or encoder (`--set encoder.KEY=V`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Encoder(nn.Module, ABC):
    """The common 3D encoder: all methods start from one initialisation of it, and hand it to fine-tuning.

    Registered in the entry-point group ``voxbench.encoders``. The constructor takes (options, in_channels), and
    `shape`, [C, D, H, W] of a volume, where it has a parameter of that name.
    """

    Options: ClassVar[type[Options]] = Options
    name: ClassVar[str]
    about: ClassVar[str]
    widths: tuple[int, ...]  # channels of each level, fine to coarse; the last is F
    strides: tuple[int, ...]  # total downsampling of each level, fine to coarse, e.g. (2, 4, 8, 16)
    token_width: int | None = None  # channels of the embeddings in which `filled` puts a token; None = it has none

    @abstractmethod
    def pyramid(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, ...]:
        """Feature maps, fine to coarse: level i is [B, widths[i], d, h, w] d = ceil(D / strides[i]) ...

        `visible`, bool [B, 1, d, h, w] of the size of one level, asks for sparse semantics: no feature depends on a
        masked voxel, features at masked places are zero, and batch statistics are taken over visible places only
        (SparK, Tian et al., ICLR 2023, section 3.1). A place of a coarser level is visible where any under it is.
        """

    def filled(self, x: Tensor, visible: Tensor, token: Tensor) -> tuple[Tensor, ...]:
        """`pyramid` with `token` [token_width] in place of the embedding of each masked patch (SimMIM, BEiT).

        `visible` is bool [B, 1, d, h, w] at the coarsest level. Raises MethodError where it has no such embeddings.
        """
        del x, visible, token
        raise MethodError(f"encoder {self.name} has no embeddings to put a mask token in (token_width is None)")

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        """Its modules in the order in which a volume passes them, a group a layer, for `finetune.layer_decay`.

        () = not told: then all of it is one layer.
        """
        return ()

    def pooled(self, x: Tensor) -> Tensor:
        """[B, F] of the volumes: the mean of the coarsest level, unless an encoder has its own (a class token)."""
        return self.pyramid(x)[-1].mean(dim=(2, 3, 4))  # [B, F, d, h, w] -> [B, F]

    @final  # type: ignore[misc]  # torch declares `forward` as an attribute
    def forward(self, x: Tensor) -> Tensor:
        """Pooled features [B, F]: all that fine-tuning sees."""
        return self.pooled(x)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a stage's loss is given at one step."""

    views: tuple[Tensor, ...]  # what `Stage.views` asks for: views of the same volumes, each [B, C, D, H, W]
    target: Tensor | None  # what `Stage.targets` made, moved by the same spatial augmentation as views[0]
    rng: torch.Generator  # on the CPU, seeded by the step: all of a loss's randomness comes from here
    clean: Tensor | None = None  # with `Stage.clean`: the volumes moved as views[0] is, and nothing else done to them
    progress: float = 0.0  # of the stage, in [0, 1)
    items: tuple[int, ...] = ()  # [B] which of the stage's volumes these are, 0 .. `size` - 1
    patients: tuple[int, ...] = ()  # [B] a number a patient: volumes of one patient are no negatives of each other
    size: int = 0  # volumes of the stage, for a memory of all of them


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a volume, such as a small crop (DINO, Caron et al., ICCV 2021, section 3.1)."""

    augmentation: str = "contrastive"  # a named policy
    strengths: Mapping[str, Any] = field(default_factory=dict)  # of that policy, where this view differs from it
    size: float = 1.0  # of each side, as a share of the volume's: 0.5 is an eighth of its voxels

    @property
    def identity(self) -> list[Any]:
        """What decides the view, for a key."""
        return [self.augmentation, dict(self.strengths), self.size]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters with a rate and decay of their own, as factors of the recipe's."""

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    decay: float = 1.0
    steady: bool = False  # whether the rate is the recipe's highest throughout, without warm-up and cosine


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the weights come from that a method gives the encoder in `__init__`."""

    file: Path
    seen: str  # what they are said to have learnt from, in a line: a table shows it


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One optimisation that the harness runs, checkpoints and caches on its own.

    The state of `module` is all that is kept of a stage: what later stages need must be in it.
    """

    name: str
    module: nn.Module  # its requires_grad parameters are optimised
    loss: Callable[[Batch], Tensor] | None
    """-> scalar, float32. None: nothing is optimised, and `finish` makes all that there is of a prior stage."""
    views: int | Sequence[View] = 1  # how many of `augmentation`, or each as it says itself
    augmentation: Literal["contrastive", "geometric", "none"] = "contrastive"
    cohort: Literal["all", "normal", "all+normal"] = "all"
    """"all": without labels. "normal" volumes spend theirs, and the table says how many; so do those of "all+normal"
    that are not of "all"."""
    held_out: float = 0.0
    """Share of the patients, in [0, 0.5], that a stage is not trained on: `finish` gets their volumes in place of its
    own, to measure what training saw too often. At least one patient; none where that would leave training below two
    volumes."""
    budget: Literal["pretrain", "prior"] = "pretrain"  # "prior": own budget, encoder not trained
    targets: Callable[[Tensor], Tensor] | None = None
    """Volumes [B, C, D, H, W] -> maps of the same spatial size in [0, 1]; made once before the stage."""
    before_step: Callable[[float], None] | None = None
    """Given progress in [0, 1) between the gradients and the optimiser's step, which may change the gradients."""
    after_step: Callable[[float], None] | None = None  # given progress in (0, 1]; moving averages live here
    clean: bool = False  # whether `Batch.clean` is wanted
    groups: Sequence[Group] = ()  # of the module's parameters; those in none have the recipe's rate and decay
    finish: Callable[[Iterable[Tensor]], None] | None = None
    """Called once after the last step, in eval mode and without gradients, with batches of the stage's
    unaugmented volumes, which can be gone through more than once; may set buffers of `module`."""
    embed: Callable[[Tensor], Tensor] | None = None
    """Volumes -> embeddings [B, E] whose spread is watched for collapse (joint-embedding methods)."""
    reconstruct: Callable[[Tensor, torch.Generator], Tensor] | None = None
    """Volumes [B, C, D, H, W] -> what a report's figure shows for them, of the same size."""
    shows: Literal["residual", "reconstruction"] = "residual"
    """What `reconstruct` gives. How well lesions are found is scored on a residual as it is, and on a reconstruction's
    absolute difference from the volume, over several draws."""

    @property
    def looks(self) -> tuple[View, ...]:
        """`views` one by one."""
        if isinstance(self.views, int):
            return (View(augmentation=self.augmentation),) * self.views
        return tuple(self.views)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that `bench tune` may try for an option."""

    low: float
    high: float
    log: bool = False  # whether each factor is as likely, in place of each difference
    whole: bool = False  # integers only


@dataclass(frozen=True)
class Choice:
    """Values that `bench tune` may try for an option."""

    values: tuple[Any, ...]


Tunable = Mapping[str, Range | Choice]
"""Options by name."""


class Method(nn.Module, ABC):
    """A pretraining method.

    One file, one subclass, registered in the entry-point group ``voxbench.methods`` or given as
    ``--methods path/to/file.py:Class``. Modules made in `__init__` are initialised under the harness's seed.
    """

    Options: ClassVar[type[Options]] = Options
    name: ClassVar[str]
    about: ClassVar[str]  # one line with the source, for `bench list methods`
    role: ClassVar[Role] = "method"
    variant: ClassVar[bool] = False  # of another method: `--methods all` leaves it out, it runs where it is named
    encoder_free: ClassVar[bool] = False  # whether its results do not depend on the encoder, as a formula's
    sparse: ClassVar[bool] = False  # whether it calls `pyramid` with `visible`: not every encoder can be asked to
    tunable: ClassVar[Tunable] = {}  # of its options, at most two, that `bench tune` searches
    weights: Weights | None = None  # set in `__init__` by a method that starts from weights of its own

    def __init__(self, encoder: Encoder, options: Any, shape: tuple[int, int, int, int]) -> None:
        """`options` is an instance of `Options`; `shape` is [C, D, H, W] of a volume."""
        super().__init__()
        self.encoder = encoder
        self.options = options
        self.shape = shape

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages in order; () = no pretraining. Those of budget "pretrain" train the encoder in place.

        Fine-tuning starts from `encoder` as the last stage left it, without stages from it as `__init__` left it.
        """

    def digest(self) -> str:
        """What else decides its results, such as a hash of a file that it reads; a changed one is trained anew.

        Its own source, the modules beside it that it imports, its options and the weights that it sets are known.
        """
        return ""


class Volumes(ABC):
    """Volumes that need not be in memory together: they come in batches, and again as often as they are asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self) -> Iterator[Tensor]:
        """All of them in order, float32 [B, C, D, H, W] in [0, 1], on the device of the method's modules."""

    @final
    def features(self, make: Callable[[Tensor], Tensor]) -> npt.NDArray[np.float64]:
        """[N, F]: what `make` gives for each batch, [B, F], without gradients."""
        with torch.no_grad():
            parts = [make(batch).detach().double().cpu().numpy() for batch in self.batches()]
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What a predictor is fitted on."""

    volumes: Volumes  # all that a cell spends labels on: its training and its validation part
    labels: npt.NDArray[np.int64]  # [N] 0 .. classes - 1, each of them there
    patients: npt.NDArray[np.int64]  # [N] a number a patient: inner folds are to be made between patients
    classes: int
    pool: Volumes  # unlabelled, what a stage of pretraining would see; empty unless `Predictor.learns_from_pool`
    seed: int  # all of a fit's randomness comes from here


class Predictor(Method):
    """A method that brings its own predictor: in place of fine-tuning it is fitted, and gives each volume its scores.

    It may have stages; then `encoder`, and all else that they keep, is as the last one left it. Validation selects
    nothing here, so the labels of both parts are its to learn from.
    """

    learns_from_pool: ClassVar[bool] = False

    def stages(self) -> Sequence[Stage]:
        """None."""
        return ()

    def suits(self, sample: Volumes) -> None:
        """Raises MethodError where volumes such as these, some of the data set's, are not what it is for."""
        del sample

    @abstractmethod
    def fit(self, data: Labelled) -> None:
        """Learns from volumes and labels. Called once, in eval mode."""

    @abstractmethod
    def scores(self, volumes: Volumes) -> npt.NDArray[np.float64]:
        """[N, classes]: a probability a class, for volumes whose labels it never sees."""
