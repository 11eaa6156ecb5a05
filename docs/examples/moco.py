"""MoCo v2: He et al., CVPR 2020, and Chen et al., arXiv 2003.04297. Contrast against a queue of earlier volumes.

Run it with `bench run --methods supervised,simclr,docs/examples/moco.py:MoCo`.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods.base import Batch, Encoder, Method, Options, Stage


class MoCoOptions(Options):
    """Chen et al. have a queue of 65,536, a temperature of 0.2 and a momentum of 0.999."""

    queue: int = Field(256, ge=2)
    temperature: float = Field(0.2, gt=0)
    momentum: float = Field(0.99, ge=0, le=1)
    out: int = Field(64, ge=1)


class MoCo(Method):
    """Keys come from a slowly moving copy; volumes of the same patient are no negatives."""

    Options: ClassVar[type[Options]] = MoCoOptions
    name: ClassVar[str] = "moco"
    about: ClassVar[str] = "MoCo v2: contrast against a queue of keys (Chen et al., arXiv 2003.04297)"
    queue: Tensor  # [K, out]
    owners: Tensor  # [K] the patient of each key; -1: none yet

    def __init__(self, encoder: Encoder, options: MoCoOptions, shape: tuple[int, int, int, int]) -> None:
        super().__init__(encoder, options, shape)
        width = encoder.widths[-1]
        self.online = nn.ModuleList(
            [encoder, nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, options.out))]
        )
        self.slow = deepcopy(self.online).requires_grad_(False)
        self.register_buffer("queue", functional.normalize(torch.randn(options.queue, options.out), dim=1))
        self.register_buffer("owners", torch.full((options.queue,), -1))

    def stages(self) -> Sequence[Stage]:
        """One: contrastive."""
        return (Stage(name="moco", module=self, loss=self.loss, views=2, after_step=self.follow, embed=self.embed),)

    def embed(self, x: Tensor, *, slow: bool = False) -> Tensor:
        """[B, C, D, H, W] -> [B, out] of length 1."""
        encoder, head = self.slow if slow else self.online
        return functional.normalize(head(encoder(x)).float(), dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """InfoNCE (He et al., equation 1); then the keys join the queue."""
        query = self.embed(batch.views[0])
        with torch.no_grad():
            key = self.embed(batch.views[1], slow=True)
        patients = torch.tensor(batch.patients, device=query.device)
        other = (query @ self.queue.T).masked_fill(patients[:, None] == self.owners[None], -torch.inf)
        logits = torch.cat(((query * key).sum(1, keepdim=True), other), 1) / self.options.temperature  # [B, 1 + K]
        self.queue = torch.cat((key, self.queue))[: len(self.queue)]
        self.owners = torch.cat((patients, self.owners))[: len(self.owners)]
        return functional.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Moves the copy, as fast at the end as at the beginning."""
        del progress
        for old, new in zip(self.slow.parameters(), self.online.parameters(), strict=True):
            old.lerp_(new, 1 - self.options.momentum)
