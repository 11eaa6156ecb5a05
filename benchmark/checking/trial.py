"""A stage of a method on a few phantoms, to be tried again and again from the same state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from voxbench.benchmark.planning.stages import checked_stages
from voxbench.benchmark.settings.assemble import build_method
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import ContractError
from voxbench.benchmark.training.batches import batch_of, looks
from voxbench.benchmark.training.moved import Moved, features_differ
from voxbench.benchmark.training.passes import Passes
from voxbench.benchmark.training.targets import evaluating
from voxbench.benchmark.training.train import Hooks, optimise, start
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.datasets.views.policies import policies
from voxbench.datasets.volumes.bank import VolumeBank
from voxbench.methods.base import Batch, Method, Stage

BATCH = 6
STEPS = 20  # of training that a rule looks at
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is tried, and on what."""

    config: Config
    name: str
    bank: VolumeBank

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[C, D, H, W] of a volume."""
        channels, depth, height, width = self.bank.shape
        return channels, depth, height, width

    def made(self, seed: int = 0) -> tuple[Method, tuple[Stage, ...]]:
        """The method under a seed, and its stages. Raises MethodError or BenchError where they break a rule."""
        method = build_method(self.config, self.name, self.shape, seed, None)
        return method, checked_stages(self.name, method)

    def trials(self, seed: int = 0) -> list[Trial]:
        """A trial a stage; each finds the stages before it trained for some steps and finished."""
        method, stages = self.made(seed)
        return [Trial(self, method, stages, index) for index in range(len(stages))]


class Trial:
    """One stage. What it is asked for begins from the state that it was in when first asked."""

    def __init__(self, bench: Bench, method: Method, stages: Sequence[Stage], index: int) -> None:
        self.bench, self.method, self.stage = bench, method, stages[index]
        self.before = list(stages[:index])
        self.recipe = bench.config.stage_recipe(next(iter(bench.config.methods)), self.stage.budget)
        self.loader = Loader(
            bench.bank,
            range(len(bench.bank)),
            batch=BATCH,
            policy=policies()["none"],
            looks=looks(bench.config.augmentation, self.stage),
            seed=index,
            device=CPU,
            targets=None if self.stage.targets is None else self._targets,
            clean=self.stage.clean,
        )
        self.kept: dict[str, Tensor] | None = None

    def reset(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Back to `state`, or that of the beginning, in training mode; the first is that of the beginning."""
        if self.kept is None:
            self.kept = _copied(self.method) if state is None else dict(state)
        self.method.load_state_dict(self.kept if state is None else state)
        self.method.zero_grad(set_to_none=True)
        self.method.train()

    def batch(self, step: int = 0, **changes: Any) -> Batch:
        """What the loss is given at a step, with `changes` to it."""
        return replace(batch_of(self.loader.draw(step), self.loader, step / STEPS), **changes)

    def loss(self, batch: Batch, *, training: bool = True, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Of one batch, from `state`, or that of the beginning."""
        self.reset(state)
        self.method.train(training)
        return self._told(batch)

    def loss_of(self, draw: Draw, progress: float = 0.0) -> Tensor:
        """Of what the loader drew, from the state that it is in."""
        return self._told(batch_of(draw, self.loader, progress))

    def _told(self, batch: Batch) -> Tensor:
        assert self.stage.loss is not None  # no rule asks a stage without one
        return self.stage.loss(batch)

    def trained(self) -> Trained:
        """What some steps from the beginning, and the stage's end, make of it, as in a run.

        Raises MethodError where the encoder is not trained that should be, or is that should not.
        """
        self.reset()
        passes = Passes(self.method, self.some[:2])
        moved = Moved(self.method, self.stage, passes)
        steps = STEPS if self.stage.loss is not None else 0
        training = start(self.stage.module, self.recipe, steps, self.stage.groups)

        def loss(draw: Draw) -> Tensor:
            return self.loss_of(draw, training.step / STEPS)

        hooks = Hooks(before_step=self.stage.before_step, after_step=self.stage.after_step)
        try:
            optimise(training, passes.counted(loss), self.loader, self.recipe, hooks=hooks)
        finally:
            passes.close()
        state, apart = _copied(self.method), features_differ(self.method.encoder, self.some)
        if self.stage.finish is not None:
            with torch.no_grad(), evaluating(self.method):
                self.stage.finish(self.loader.plain())
        if self.stage.finish is None or features_differ(self.method.encoder, self.some) or not apart:
            moved.check()  # else it is the finish that is at fault
            apart = False
        return Trained(passes, [point["loss"] for point in training.curve], state, _copied(self.method), lost=apart)

    def pressed(self, steps: int) -> list[float]:
        """Losses of one batch that is learnt by heart at a constant rate, from the beginning; its state stays so."""
        self.reset()
        batch = self.batch()
        optimiser = start(self.stage.module, self.recipe, steps, self.stage.groups).optimizer
        losses = []
        for step in range(steps):
            value = self._told(replace(batch, rng=torch.Generator().manual_seed(0), progress=step / steps))
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if self.stage.after_step is not None:
                self.stage.after_step((step + 1) / steps)
            losses.append(value.item())
        return losses

    @property
    def some(self) -> Tensor:
        """[BATCH, C, D, H, W], without augmentation."""
        return self.bench.bank.batch(range(BATCH), CPU)

    def _targets(self, rows: Sequence[int]) -> Tensor:
        assert self.stage.targets is not None
        volumes = self.bench.bank.batch(list(rows), CPU)
        with torch.no_grad(), evaluating(self.method):
            maps = self.stage.targets(volumes)
        if maps.shape != volumes.shape:
            raise ContractError(f"its targets give {list(maps.shape)} for volumes {list(volumes.shape)}")
        return maps.float()


@dataclass(frozen=True)
class Trained:
    """What training made of a stage."""

    passes: Passes
    losses: list[float]
    state: Mapping[str, Tensor]  # of the method, before the stage's end
    ended: Mapping[str, Tensor]  # and after it
    lost: bool  # whether that end took the differences between volumes from the encoder


def _copied(method: Method) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}
