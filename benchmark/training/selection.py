"""Which step's weights a fine-tuning ends with: the last, or those of the lowest validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.recipes import FinetuneRecipe
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.evaluate import UndefinedMetricError, by_unit, metrics
from voxbench.benchmark.training.train import Training

Predict = Callable[[tuple[int, ...], set[int]], Tensor]
"""Positions in the bank -> logits [M, K] on the CPU; the set gets what was served."""

POINTS = 20  # of a curve
STEEP = 0.4  # share of the fall of the training loss; a straight line has half of it in its second half
LEAST_FALL = 0.05  # of a loss that begins at the logarithm of the number of classes


class Selection(Protocol):
    """Called after each step; `best_step` and `curve` stand in the cell's record."""

    curve: list[dict[str, float | None]]
    best_step: int
    seen: set[int]

    def __call__(self, training: Training) -> bool:
        """True ends the training."""

    @property
    def falling(self) -> bool:
        """Whether more steps would have lowered the loss further."""

    def take(self, model: nn.Module) -> None:
        """Gives `model` the weights that were chosen."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: all that the steps so far have left."""

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from `state`."""


def selection_for(context: Context, plan: CellPlan, weight: Tensor, predict: Predict, steps: int) -> Selection:
    """What the recipe asks for. `weight` is the loss's, [K]."""
    if context.config.finetune.selection == "none":
        return LastStep(steps)
    return BestOnValidation(context, plan, weight, predict, steps)


class LastStep:
    """The last step of the schedule: nothing is spent on choosing.

    On the few labels that there are, the lowest validation loss is mostly luck: over 15 cells at 10 % of the phantom it
    chose networks of 0.614 AUPRC where the last step had 0.663.
    """

    def __init__(self, steps: int) -> None:
        self.every = max(1, math.ceil(steps / POINTS))
        self.curve: list[dict[str, float | None]] = []
        self.best_step = 0
        self.seen: set[int] = set()
        self.losses: list[Tensor] = []

    def __call__(self, training: Training) -> bool:
        """Notes the mean loss since the last point."""
        self.losses.append(training.loss)
        self.best_step = training.step
        if training.step % self.every == 0 or training.step == training.steps:
            mean = float(torch.stack([loss.to(training.loss.device) for loss in self.losses]).mean())
            self.curve.append({"step": training.step, "train_loss": mean, "val_loss": None, "val_auprc": None})
            self.losses = []
        return False

    @property
    def falling(self) -> bool:
        """Whether the second half of the steps brought more than `STEEP` of the fall, or there was hardly any."""
        losses = [float(point["train_loss"] or 0.0) for point in self.curve]
        if len(losses) < POINTS:
            return True  # fewer steps than points
        first, middle, last = (sum(losses[i : i + 2]) / 2 for i in (0, POINTS // 2 - 1, POINTS - 2))
        return first - last < LEAST_FALL or (middle - last) / (first - last) > STEEP

    def take(self, model: nn.Module) -> None:
        """It has them."""

    def state(self) -> dict[str, Any]:
        """The curve and the losses since its last point."""
        return {"best_step": self.best_step, "curve": self.curve, "losses": self.losses}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from `state`."""
        self.best_step, self.curve, self.losses = state["best_step"], state["curve"], state["losses"]


class BestOnValidation:
    """The lowest validation loss, with early stopping: the recipe of Bhattacharya et al. 2024."""

    def __init__(self, context: Context, plan: CellPlan, weight: Tensor, predict: Predict, steps: int) -> None:
        self.val = plan.val
        self.predict = predict
        self.weight = weight.double().cpu()
        self.recipe: FinetuneRecipe = context.config.finetune_recipe(plan.method)
        self.every = max(1, math.ceil(steps / self.recipe.evaluations))
        self.may_stop_from = math.ceil(steps * max(self.recipe.warmup, self.recipe.stop_from))
        self.items = [context.bank.items[i] for i in plan.val]
        self.labels = torch.tensor([int(item.label or 0) for item in self.items])
        self.best: dict[str, Tensor] = {}
        self.best_loss = math.inf
        self.best_step = 0
        self.stale = 0
        self.curve: list[dict[str, float | None]] = []
        self.seen: set[int] = set()

    def __call__(self, training: Training) -> bool:
        """Looks at validation now and then, and says when to stop."""
        if training.step % self.every and training.step < training.steps:
            return False
        logits = self.predict(self.val, self.seen)
        training.module.train()
        loss = float(functional.cross_entropy(logits.double(), self.labels, self.weight))
        if not math.isfinite(loss):
            raise BenchError(f"the validation loss is {loss} at step {training.step}: lower finetune.lr")
        point = {"step": training.step, "train_loss": float(training.loss), "val_loss": loss}
        self.curve.append({**point, "val_auprc": self._auprc(logits)})
        if loss < self.best_loss:
            self.best = {k: v.detach().clone() for k, v in training.module.state_dict().items()}
            self.best_loss, self.best_step, self.stale = loss, training.step, 0
        elif training.step >= self.may_stop_from:  # a rate that still rises, or has just peaked, tells nothing
            self.stale += 1
        return self.stale >= self.recipe.patience

    @property
    def falling(self) -> bool:
        """Whether the last look was the best."""
        return bool(self.curve) and self.best_step == self.curve[-1]["step"]

    def take(self, model: nn.Module) -> None:
        """Those of the lowest loss."""
        model.load_state_dict(self.best)

    def state(self) -> dict[str, Any]:
        """The best weights so far, the curve, and how long nothing has been better."""
        best = {"best": self.best, "best_loss": self.best_loss, "best_step": self.best_step}
        return {**best, "stale": self.stale, "curve": self.curve, "seen": sorted(self.seen)}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from `state`."""
        self.best, self.best_loss, self.best_step = state["best"], state["best_loss"], state["best_step"]
        self.stale, self.curve = state["stale"], state["curve"]
        self.seen.update(state["seen"])

    def _auprc(self, logits: Tensor) -> float | None:
        """Of validation, for the curve alone: the loss selects. None where a class is missing from it."""
        try:
            equal = [1 / logits.shape[1]] * logits.shape[1]  # the loss's weights are still in: classes count the same
            return metrics(by_unit(self.items, logits.softmax(dim=1).numpy()), equal)["auprc"]
        except UndefinedMetricError:
            return None
