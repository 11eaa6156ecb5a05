"""The rules that an encoder is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from voxbench.benchmark.checking.verdict import BrokenRuleError, NoteError, Verdict, verdict
from voxbench.benchmark.planning.probe import Shape, check_sparse, probe
from voxbench.benchmark.settings.assemble import build_encoder
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training.moved import features_differ
from voxbench.benchmark.training.targets import evaluating
from voxbench.methods.base import Encoder, MethodError

ODD = (20, 24, 28)  # voxels: sizes that few strides divide


def check_encoder(config: Config, shape: Shape) -> Iterator[Verdict]:
    """A verdict a rule; none after a rule without which the others mean nothing."""
    first = verdict("it can be made for these volumes", lambda: _made(config, shape))
    yield first
    if first.outcome == "broken":
        return
    rules: tuple[tuple[str, Callable[[], None]], ...] = (
        (
            "levels, widths, strides and features are as promised, and gradients reach them",
            lambda: _probe(config, shape),
        ),
        ("the seed decides how it begins", lambda: _seeded(config, shape)),
        (
            "it tells volumes apart, and one volume's features do not depend on the others",
            lambda: _alone(config, shape),
        ),
        ("it can be asked for visible places only", lambda: _sparse(config, shape)),
        (f"it takes volumes of {' x '.join(map(str, ODD))}", lambda: _odd(config, shape)),
    )
    for rule, holds in rules:
        yield verdict(rule, holds)


def _made(config: Config, shape: Shape) -> Encoder:
    return build_encoder(config, shape, 0, None)


def _probe(config: Config, shape: Shape) -> None:
    notes = probe(_made(config, shape), shape)
    if notes:
        raise NoteError("; ".join(notes))


def _seeded(config: Config, shape: Shape) -> None:
    one, two = (_made(config, shape).state_dict() for _ in range(2))
    drawn = next((name for name in one if not torch.equal(one[name], two[name])), None)
    if drawn is not None:
        raise BrokenRuleError(f"{drawn} differs from one making to the next: draw from PyTorch's generator in __init__")


def _alone(config: Config, shape: Shape) -> None:
    encoder = _made(config, shape)
    volumes = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), evaluating(encoder):
        together, alone = encoder(volumes), encoder(volumes[:1])
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-5):
        raise BrokenRuleError("in eval mode a volume's features depend on what else is in the batch")
    if not features_differ(encoder, volumes):
        raise BrokenRuleError("it gives every volume the same features")


def _sparse(config: Config, shape: Shape) -> None:
    try:
        check_sparse(_made(config, shape), shape)
    except MethodError as error:
        raise NoteError(f"{error}: methods that mask, such as spark, leave it out") from error


def _odd(config: Config, shape: Shape) -> None:
    odd = (shape[0], *ODD)
    try:
        probe(build_encoder(config, odd, 0, None), odd)
    except (BenchError, MethodError) as error:
        raise NoteError(f"{error}: it is for other sizes") from error
