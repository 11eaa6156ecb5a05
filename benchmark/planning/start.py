"""What a method starts from that is not the common initialisation, such as published weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from voxbench.benchmark.settings.assemble import Shape, build_encoder, build_method
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.registry import file_digest
from voxbench.methods.base import Encoder, Method, MethodError


@dataclass(frozen=True, kw_only=True)
class Start:
    """`digest` decides results, `said` is for a table; both are "" for a method that sets no weights."""

    digest: str = ""
    said: str = ""


def start_of(config: Config, name: str, shape: Shape, built: Method) -> Start:
    """How the encoder of `built`, made under seed 0, differs from the common one.

    What is the same under another seed was not drawn: it was read from somewhere, and its content is in the digest.
    Raises MethodError where the file that a method names cannot be read.
    """
    common = build_encoder(config, shape, 0, None, name)
    if built.weights is None and not _differing(built.encoder, common):
        return Start()
    again = build_method(config, name, shape, 1, None).encoder
    drawn = set(_differing(built.encoder, again))
    content = hashlib.sha256()
    for tensor in sorted({*_differing(built.encoder, common)} - drawn):
        content.update(tensor.encode())
        content.update(built.encoder.state_dict()[tensor].contiguous().cpu().numpy().tobytes())
    digest = content.hexdigest()[:16]
    if built.weights is None:
        return Start(digest=digest, said=f"weights set by its __init__ (content {digest[:8]}), it does not say of what")
    weights = built.weights
    try:
        file = file_digest(weights.file)
    except OSError as error:
        raise MethodError(f"{name}: its weights {weights.file} cannot be read ({error.strerror})") from error
    return Start(
        digest=f"{file} {digest}", said=f"{weights.file.name} (SHA-256 {file}), said to have seen: {weights.seen}"
    )


def _differing(one: Encoder, other: Encoder) -> list[str]:
    ours, theirs = one.state_dict(), other.state_dict()
    return [name for name, value in ours.items() if not torch.equal(value, theirs[name])]
