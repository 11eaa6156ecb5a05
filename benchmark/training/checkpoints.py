"""Checkpoints of a training, by the clock and where the run is to end: the same for a stage and for a fine-tuning."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch

from voxbench.benchmark.records.store import Store
from voxbench.benchmark.training.context import Progress, StoppedError
from voxbench.benchmark.training.train import NonFiniteLossError, Training
from voxbench.datasets.views.loader import Loader

CHECKPOINT_EVERY_S = 120.0


class Part(Protocol):
    """What has a state beside the training's own."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it loads with ``weights_only=True``."""

    def load(self, state: dict[str, Any]) -> None:
        """Takes up where `state` was made."""


class Checkpoints:
    """Those of one job, and what of it was done before this process.

    Batches follow from seed and step, and each step seeds the global generator anew: no generator's state is kept.
    """

    def __init__(self, store: Store, key: str, loader: Loader, progress: Progress, part: Part) -> None:
        """`part` goes on with the training; `progress` is told of each step."""
        self.store, self.key, self.loader, self.progress, self.part = store, key, loader, progress, part
        self.seconds_before = 0.0
        self.steps_before = 0
        self.clock = self.saved = time.perf_counter()

    def resume(self, training: Training) -> None:
        """Goes on from the last whole checkpoint, if there is one."""
        state = self.store.load_checkpoint(self.key)
        if state is not None:
            training.load(state["training"])
            self.part.load(state["part"])
            self.loader.seen.update(state["seen"])
            self.seconds_before = float(state["seconds"])
            self.steps_before = training.step

    def __call__(self, training: Training) -> None:
        """After each step. Raises StoppedError where the run is to end, after a checkpoint; NonFiniteLossError."""
        try:
            self.progress(training.step, training.steps)
        except StoppedError:
            self._keep(training)
            raise
        if time.perf_counter() - self.saved > CHECKPOINT_EVERY_S and training.step < training.steps:
            self._keep(training)

    def steps_here(self, training: Training) -> int:
        """Steps that this process took."""
        return training.step - self.steps_before

    def _keep(self, training: Training) -> None:
        # On a GPU losses are looked at in bundles: a checkpoint in between must not keep what is lost already.
        if not all(bool(torch.isfinite(weight).all()) for weight in training.module.parameters()):
            raise NonFiniteLossError(f"weights are not finite at step {training.step}: lower the learning rate (lr)")
        self.saved = time.perf_counter()
        state = {
            "training": training.state(),
            "part": self.part.state(),
            "seen": sorted(self.loader.seen),
            "seconds": self.seconds_before + self.saved - self.clock,
        }
        self.store.save_checkpoint(self.key, state)
