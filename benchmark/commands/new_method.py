"""What ``bench new-method`` does: a file with a whole small method, to be changed into one's own."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.errors import BenchError
from voxbench.datasets.files import write_whole

TEMPLATE = '''"""NAME: what it learns from, and the paper.

Check it with `bench check FILE:CLASS`, run it with `bench run --methods supervised,FILE:CLASS`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods.base import Batch, Encoder, Method, Options, Stage


class CLASSOptions(Options):
    """Set with `--set methods.NAME.KEY=VALUE`."""

    out: int = Field(64, ge=1)
    temperature: float = Field(0.2, gt=0)


class CLASS(Method):
    """Two views of a volume are found among the views of the batch's other volumes."""

    Options: ClassVar[type[Options]] = CLASSOptions
    name: ClassVar[str] = "NAME"
    about: ClassVar[str] = "a line for `bench list methods`, with the source (Author et al., year)"

    def __init__(self, encoder: Encoder, options: CLASSOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        self.head = nn.Linear(encoder.widths[-1], options.out)

    def stages(self) -> Sequence[Stage]:
        """What is optimised, in order."""
        return (Stage(name="NAME", module=self, loss=self.loss, views=2, embed=self.embed),)

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, out] of length 1, in float32."""
        return functional.normalize(self.head(self.encoder(x)).float(), dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """A scalar in float32; all randomness comes from batch.rng."""
        first, second = (self.embed(view) for view in batch.views)
        logits = first @ second.T / self.options.temperature  # [B, B]
        return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
'''


def execute(name: str, folder: Path, console: Console) -> None:
    """Writes ``NAME.py`` into `folder`. Raises BenchError for a name that cannot be one, or is taken."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BenchError(f"{name!r} is no name for a method: small letters and digits, with - between words")
    if name in registry.names("methods"):
        raise BenchError(f"another method is called {name!r}: choose another name")
    path = folder / f"{name.replace('-', '_')}.py"
    if path.exists():
        raise BenchError(f"{path} is there already: choose another name or --folder")
    kind = "".join(word.capitalize() for word in name.split("-"))
    text = TEMPLATE.replace("CLASS", kind).replace("FILE", str(path)).replace("NAME", name)
    write_whole(path, lambda file: file.write(text.encode()))
    console.print(f"{path}: change it, then `bench check {path}:{kind}`", soft_wrap=True, highlight=False)
