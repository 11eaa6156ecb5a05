"""Carrying out one cell: fine-tune the encoder on a label fraction, select on validation, score the test part once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.records.costs import Meter, device_name
from voxbench.benchmark.settings.assemble import build_encoder, build_method, load_encoder, placed, seeded
from voxbench.benchmark.settings.config import FinetuneRecipe
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION, derive_seed
from voxbench.benchmark.training.context import Context, Progress
from voxbench.benchmark.training.evaluate import Scored, UndefinedMetricError, by_unit, choose_threshold, metrics
from voxbench.benchmark.training.train import Training, optimise, start
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.methods.base import Encoder, MethodError

PREDICT_BATCH = 64


class Classifier(nn.Module):
    """Encoder and head: features F -> F/2 -> ReLU -> classes (Bhattacharya et al. 2024: 512-256-ReLU-2)."""

    def __init__(self, encoder: Encoder, classes: int, hidden: int) -> None:
        super().__init__()
        features = encoder.widths[-1]
        hidden = hidden or max(features // 2, classes)
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> logits [B, K]."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


def run_cell(context: Context, plan: CellPlan, progress: Progress) -> dict[str, Any]:
    """Fine-tunes and tests one cell; its record, without who was tested (the runner salts and saves it).

    Raises BenchError where a class has no label to learn from, UndefinedMetricError, NonFiniteLossError.
    """
    if plan.hopeless is not None:
        raise BenchError(plan.hopeless)
    recipe = context.config.finetune
    weight = class_weights(context, plan)
    with Meter(context.device) as meter:
        model = _model(context, plan)
        loader = Loader(
            context.bank,
            plan.train,
            batch=recipe.batch,
            policy=context.policies["finetune"],
            seed=derive_seed(plan.seed, plan.fold, plan.fraction, "finetune"),
            device=context.device,
            labelled=True,
        )
        steps = max(recipe.min_steps, recipe.epochs * loader.steps_per_epoch)
        training = start(model, recipe, steps)
        selection = _Selection(context, plan, model, weight, steps, progress)

        def loss(draw: Draw) -> Tensor:
            assert draw.labels is not None  # the loader is made with labels
            return functional.cross_entropy(model(draw.views[0]), draw.labels, weight)

        optimise(training, loss, loader, recipe, on_step=selection)
        model.load_state_dict(selection.best)
        val = _scored(context, plan.val, model, selection.seen)
        threshold = choose_threshold(val) if val.scores.shape[1] == 2 else None
        tested: set[int] = set()
        test = _scored(context, plan.test, model, tested)
        values = metrics(test, threshold)
    return {
        "result_version": RESULT_VERSION,
        "key": plan.key,
        "status": "ok",
        "metrics": values,
        "threshold": threshold,
        "test": test,
        "curve": selection.curve,
        "best_step": selection.best_step,
        "finetune_seconds": meter.seconds,
        "peak_memory_mb": meter.peak_memory_mb,
        "volumes_per_second": training.step * loader.batch / meter.seconds,
        "device": device_name(context.device),
        "seen": {
            "train": sorted(context.bank.hashes[i] for i in loader.seen),
            "val": sorted(context.bank.hashes[i] for i in selection.seen),
            "test": sorted(context.bank.hashes[i] for i in tested),
        },
    }


def class_weights(context: Context, plan: CellPlan) -> Tensor:
    """N / (K N_c) on the training part, [K] (Bhattacharya et al. 2024)."""
    classes = context.dataset.classes
    counts = torch.zeros(len(classes))
    for i in plan.train:
        counts[int(context.bank.items[i].label or 0)] += 1
    return (counts.sum() / (len(classes) * counts)).to(context.device)


def predict(context: Context, members: Sequence[int], model: nn.Module, seen: set[int]) -> npt.NDArray[np.float64]:
    """Logits [M, K] of unaugmented volumes, in eval mode and float32; `seen` gets what was served, for the audit.

    On a GPU convolutions may use TF32, as PyTorch's default has it.
    """
    model.eval()
    parts = []
    with torch.no_grad():
        for first in range(0, len(members), PREDICT_BATCH):
            batch = members[first : first + PREDICT_BATCH]
            parts.append(model(context.bank.batch(batch, context.device)).float().cpu())
            seen.update(batch)
    return torch.cat(parts).double().numpy()


def _model(context: Context, plan: CellPlan) -> Classifier:
    encoder = build_encoder(context.config, context.dataset.shape, plan.seed, plan.replicate)
    load_encoder(encoder, _handed_over(context, plan))
    with seeded(plan.seed, plan.fold, plan.fraction, "head"):
        model = Classifier(encoder, len(context.dataset.classes), context.config.finetune.hidden)
    return placed(model, context.device)


def _handed_over(context: Context, plan: CellPlan) -> Mapping[str, Tensor]:
    """The encoder's weights as the method's last stage left them; without a stage as its `__init__` did.

    Raises MethodError where there are some that are not finite: all scores would be.
    """
    if plan.stages:
        state: Mapping[str, Tensor] = context.store.load_weights(plan.stages[-1], "encoder")
    else:
        shape = context.dataset.shape
        state = build_method(context.config, plan.method, shape, plan.seed, plan.replicate).encoder.state_dict()
    lost = [name for name, weights in state.items() if not bool(torch.isfinite(weights).all())]
    if lost:
        left = "pretraining" if plan.stages else "__init__"
        raise MethodError(
            f"{plan.method}: its {left} left the encoder with weights that are not finite, in {len(lost)} of "
            f"{len(state)} tensors, first {lost[0]}: mend the method"
        )
    return state


def _scored(context: Context, members: Sequence[int], model: nn.Module, seen: set[int]) -> Scored:
    logits = torch.from_numpy(predict(context, members, model, seen))
    return by_unit([context.bank.items[i] for i in members], logits.softmax(dim=1).numpy())


class _Selection:
    """Called after each step: looks at validation now and then, keeps the best, stops in time."""

    def __init__(
        self,
        context: Context,
        plan: CellPlan,
        model: nn.Module,
        weight: Tensor,
        steps: int,
        progress: Progress,
    ) -> None:
        self.context = context
        self.val = plan.val
        self.model = model
        self.weight = weight.double().cpu()
        self.progress = progress
        self.recipe: FinetuneRecipe = context.config.finetune
        self.every = max(1, math.ceil(steps / self.recipe.evaluations))
        self.items = [context.bank.items[i] for i in plan.val]
        self.labels = torch.tensor([int(item.label or 0) for item in self.items])
        self.best: dict[str, Tensor] = {}
        self.best_loss = math.inf
        self.best_step = 0
        self.stale = 0
        self.curve: list[dict[str, float | None]] = []
        self.seen: set[int] = set()

    def __call__(self, training: Training) -> bool:
        self.progress(training.step, training.steps)
        if training.step % self.every and training.step < training.steps:
            return False
        logits = torch.from_numpy(predict(self.context, self.val, self.model, self.seen))
        self.model.train()
        loss = float(functional.cross_entropy(logits, self.labels, self.weight))
        if not math.isfinite(loss):
            raise BenchError(f"the validation loss is {loss} at step {training.step}: lower finetune.lr")
        point = {"step": training.step, "train_loss": training.curve[-1]["loss"], "val_loss": loss}
        self.curve.append({**point, "val_auprc": self._auprc(logits)})
        if loss < self.best_loss:
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            self.best_loss, self.best_step, self.stale = loss, training.step, 0
        else:
            self.stale += 1
        if self.stale >= self.recipe.patience:
            self.progress(training.steps, training.steps)
            return True
        return False

    def _auprc(self, logits: Tensor) -> float | None:
        """Of validation, for the curve alone: the loss selects. None where a class is missing from it."""
        try:
            return metrics(by_unit(self.items, logits.softmax(dim=1).numpy()), None)["auprc"]
        except UndefinedMetricError:
            return None
