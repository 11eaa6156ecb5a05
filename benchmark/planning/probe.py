"""What an encoder promises, tried out on two volumes before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from voxbench.benchmark.settings.errors import BenchError, unexpected
from voxbench.benchmark.settings.keys import generator
from voxbench.methods.base import Encoder, MethodError
from voxbench.methods.parts.sparse import grid, masks_for, spread

VOLUMES = 2
SAME = 1e-4  # of the largest feature: sums in another order are not exact
Shape = tuple[int, int, int, int]
T = TypeVar("T")


def probe(encoder: Encoder, shape: Shape) -> list[str]:
    """Notes on what is odd about `encoder` on volumes of `shape` [C, D, H, W].

    Its weights and buffers are left as they were. Raises BenchError, in a line that names it, for what is wrong.
    """
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    try:
        with torch.random.fork_rng(devices=[]):
            _check_declared(encoder)
            levels, features = _tried(encoder, partial(_both, encoder, _volumes(shape)))
            _check_shapes(encoder, shape, levels, features)
            return _unreached(encoder, levels, features)
    finally:
        encoder.zero_grad(set_to_none=True)
        encoder.load_state_dict(kept)


def check_sparse(encoder: Encoder, shape: Shape) -> None:
    """Raises MethodError where the encoder does not treat masked places as absent (`Encoder.pyramid`)."""
    for patch in encoder.strides:
        _check_masked(encoder, shape, patch)


def _check_masked(encoder: Encoder, shape: Shape, patch: int) -> None:
    """`check_sparse` for patches of so many voxels along an edge."""
    volumes = _volumes(shape)
    visible = torch.rand(VOLUMES, 1, *grid(shape[1:], patch), generator=generator("probe", "mask")) < 0.5
    visible.flatten(1)[:, 0], visible.flatten(1)[:, -1] = True, False
    others = torch.where(spread(visible, patch, shape[1:]), volumes, 1 - volumes)  # only what is masked differs
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    levels = []
    for given in (volumes, others):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)  # dropout, where there is any, is the same in both
            levels.append(_tried(encoder, partial(encoder.pyramid, given, visible)))
        encoder.load_state_dict(kept)  # a pass moves running statistics
    masks = masks_for(visible, shape[1:], encoder.strides)
    for one, two in zip(*levels, strict=True):
        most = SAME * one.abs().max()
        if bool((one - two).abs().max() > most):
            raise MethodError(
                f"encoder {encoder.name} does not heed `visible`: its features depend on masked voxels, so a masked "
                "method would see what it is to predict"
            )
        if bool((one * (1 - masks[tuple(one.shape[2:])])).abs().max() > most):
            raise MethodError(
                f"encoder {encoder.name} does not heed `visible`: its features at masked places are not 0"
            )


def _check_declared(encoder: Encoder) -> None:
    widths, strides = getattr(encoder, "widths", None), getattr(encoder, "strides", None)
    for what, value in (("widths", widths), ("strides", strides)):
        if not isinstance(value, Sequence) or not value or not all(isinstance(one, int) and one > 0 for one in value):
            raise BenchError(f"encoder {encoder.name}: its {what} are {value!r}: give a tuple of whole numbers above 0")
    assert isinstance(widths, Sequence) and isinstance(strides, Sequence)
    if len(widths) != len(strides):
        raise BenchError(f"encoder {encoder.name}: {len(widths)} widths and {len(strides)} strides: give one a level")
    if any(coarse % fine or coarse <= fine for fine, coarse in pairwise(strides)):
        raise BenchError(
            f"encoder {encoder.name}: its strides are {tuple(strides)}: fine to coarse, each a multiple of the one "
            "before and larger"
        )


def _volumes(shape: Shape) -> Tensor:
    return torch.rand(VOLUMES, *shape, generator=generator("probe", "volumes"))


def _both(encoder: Encoder, volumes: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    levels = encoder.pyramid(volumes)
    features: Tensor = encoder(volumes)
    return levels, features


def _tried(encoder: Encoder, do: Callable[[], T]) -> T:
    try:
        return do()
    except MethodError:
        raise
    except Exception as error:  # a third party's code may fail in any way
        raise BenchError(f"encoder {encoder.name} fails on volumes of this data set: {unexpected(error)}") from error


def _check_shapes(encoder: Encoder, shape: Shape, levels: Sequence[Tensor], features: Tensor) -> None:
    promised = [
        [VOLUMES, width, *grid(shape[1:], stride)]
        for width, stride in zip(encoder.widths, encoder.strides, strict=True)
    ]
    given = [list(level.shape) for level in levels]
    if given != promised:
        raise BenchError(
            f"encoder {encoder.name}: for volumes {[VOLUMES, *shape]} its pyramid is {given}, and its widths "
            f"{tuple(encoder.widths)} and strides {tuple(encoder.strides)} promise {promised}"
        )
    if list(features.shape) != [VOLUMES, encoder.widths[-1]]:
        raise BenchError(
            f"encoder {encoder.name}: its pooled features are {list(features.shape)}, and its widths promise "
            f"{[VOLUMES, encoder.widths[-1]]}"
        )
    if not all(bool(torch.isfinite(one).all()) for one in (*levels, features)):
        raise BenchError(f"encoder {encoder.name}: its features are not finite as it is initialised")


def _unreached(encoder: Encoder, levels: Sequence[Tensor], features: Tensor) -> list[str]:
    """A note where no gradient reaches some parameters. Raises BenchError where it reaches none."""
    rng = generator("probe", "gradients")
    total = sum((one * torch.randn(one.shape, generator=rng)).sum() for one in (*levels, features))
    trained = [(name, p) for name, p in encoder.named_parameters() if p.requires_grad]
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in trained if p.grad is None]
    if len(without) == len(trained):
        raise BenchError(f"encoder {encoder.name}: no gradient reaches its parameters: its features are detached")
    if not without:
        return []
    return [
        f"encoder {encoder.name}: {len(without)} of {len(trained)} parameters get no gradient, first {without[0]}: "
        "they stay as they are initialised"
    ]
