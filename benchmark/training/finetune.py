"""Carrying out one cell: fine-tune the encoder on a label fraction, and score the test part once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.records.costs import Meter, device_name
from voxbench.benchmark.settings.assemble import build_encoder, build_method, load_encoder, placed, seeded
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION, derive_seed
from voxbench.benchmark.training.checkpoints import Checkpoints
from voxbench.benchmark.training.context import Context, Progress
from voxbench.benchmark.training.evaluate import Scored, by_unit, choose_threshold, metrics
from voxbench.benchmark.training.selection import selection_for
from voxbench.benchmark.training.train import Training, optimise, start
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.methods.base import Encoder, MethodError
from voxbench.methods.parts.prior import at_own_shares

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
    counts = class_counts(context, plan)
    weight = class_weights(counts).to(context.device)
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
        training = start(model, recipe, recipe.steps_for(len(plan.train)))

        def logits(members: tuple[int, ...], seen: set[int]) -> Tensor:
            return torch.from_numpy(predict(context, members, model, seen))

        selection = selection_for(context, plan, weight, logits, training.steps)
        checkpoints = Checkpoints(context.store, plan.key, loader, progress, selection)
        checkpoints.resume(training)

        def loss(draw: Draw) -> Tensor:
            assert draw.labels is not None  # the loader is made with labels
            return functional.cross_entropy(model(draw.views[0]), draw.labels, weight)

        def on_step(training: Training) -> bool:
            if selection(training):
                progress(training.steps, training.steps)
                return True
            checkpoints(training)
            return False

        optimise(training, loss, loader, recipe, on_step=on_step)
        selection.take(model)
        threshold = _threshold(context, plan, model, counts, selection.seen)
        tested: set[int] = set()
        test = _scored(context, plan.test, model, counts, tested)
        shares = [float(share) for share in counts / counts.sum()]
        values = metrics(test, shares, threshold)
    return {
        "result_version": RESULT_VERSION,
        "key": plan.key,
        "status": "ok",
        "metrics": values,
        "threshold": threshold,
        "shares": shares,
        "test": test,
        "curve": selection.curve,
        "best_step": selection.best_step,
        "falling": selection.falling,
        "finetune_seconds": meter.seconds + checkpoints.seconds_before,
        "peak_memory_mb": meter.peak_memory_mb,
        "volumes_per_second": checkpoints.steps_here(training) * loader.batch / meter.seconds,
        "device": device_name(context.device),
        "seen": {
            "train": sorted(context.bank.hashes[i] for i in loader.seen),
            "val": sorted(context.bank.hashes[i] for i in selection.seen),
            "test": sorted(context.bank.hashes[i] for i in tested),
        },
    }


def _threshold(
    context: Context, plan: CellPlan, model: nn.Module, counts: npt.NDArray[np.int64], seen: set[int]
) -> float | None:
    """Chosen on validation where there is one; else none, and the classes' shares decide."""
    if not plan.val or len(context.dataset.classes) != 2:
        return None
    return choose_threshold(_scored(context, plan.val, model, counts, seen))


def class_counts(context: Context, plan: CellPlan) -> npt.NDArray[np.int64]:
    """Labels of each class in the training part, [K]."""
    labels = [int(context.bank.items[i].label or 0) for i in plan.train]
    return np.bincount(labels, minlength=len(context.dataset.classes))


def class_weights(counts: npt.NDArray[np.int64]) -> Tensor:
    """N / (K N_c), [K] (Bhattacharya et al. 2024)."""
    return torch.from_numpy(counts.sum() / (len(counts) * counts)).float()


def predict(
    context: Context, members: Sequence[int], model: nn.Module, seen: set[int], flipped: tuple[int, ...] = ()
) -> npt.NDArray[np.float64]:
    """Logits [M, K] of unaugmented volumes, in eval mode and float32; `seen` gets what was served, for the audit.

    `flipped` names axes of [B, C, D, H, W] along which the volumes are mirrored.

    On a GPU convolutions may use TF32, as PyTorch's default has it.
    """
    model.eval()
    parts = []
    with torch.no_grad():
        for first in range(0, len(members), PREDICT_BATCH):
            batch = members[first : first + PREDICT_BATCH]
            parts.append(model(context.bank.batch(batch, context.device).flip(flipped)).float().cpu())
            seen.update(batch)
    return torch.cat(parts).double().numpy()


def _model(context: Context, plan: CellPlan) -> Classifier:
    encoder = build_encoder(context.config, context.dataset.shape, plan.seed, plan.replicate, plan.method)
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


def _scored(
    context: Context, members: Sequence[int], model: nn.Module, counts: npt.NDArray[np.int64], seen: set[int]
) -> Scored:
    """Of each unit the mean over its volumes and their mirror images, without the class weights of the loss.

    They are taken out last, so that of two classes no rank depends on it.
    """
    mirrors = context.policies["finetune"].mirrors if context.config.finetune.mirrored else ((),)
    logits = [torch.from_numpy(predict(context, members, model, seen, axes)) for axes in mirrors]
    scores = torch.stack(logits).softmax(dim=2).mean(dim=0)  # [mirrors, M, K] -> [M, K]
    scored = by_unit([context.bank.items[i] for i in members], scores.numpy())
    return replace(scored, scores=at_own_shares(scored.scores, counts))
