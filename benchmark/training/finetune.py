"""Carrying out one cell: fine-tune the encoder on a label fraction, and score the test part once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.records.costs import Meter, device_name
from voxbench.benchmark.settings.assemble import placed, seeded
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION, derive_seed
from voxbench.benchmark.training.checkpoints import Checkpoints
from voxbench.benchmark.training.classifier import Classifier, HeadFirst
from voxbench.benchmark.training.context import Context, Progress
from voxbench.benchmark.training.evaluate import Scored, by_unit, choose_threshold, metrics
from voxbench.benchmark.training.pretrained import pretrained
from voxbench.benchmark.training.selection import selection_for
from voxbench.benchmark.training.train import Hooks, Training, optimise, start
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.methods.parts.prior import at_own_shares
from voxbench.methods.parts.recompute import recompute

PREDICT_BATCH = 64


def run_cell(context: Context, plan: CellPlan, progress: Progress) -> dict[str, Any]:
    """Fine-tunes and tests one cell; its record, without who was tested (the runner salts and saves it).

    Raises BenchError where a class has no label to learn from, UndefinedMetricError, NonFiniteLossError.
    """
    if plan.hopeless is not None:
        raise BenchError(plan.hopeless)
    recipe = context.config.finetune_recipe(plan.method)
    counts = class_counts(context, plan)
    weight = class_weights(counts).to(context.device)
    with Meter(context.device) as meter:
        model = _model(context, plan)
        recomputed = recompute(model, context.recompute == "always")
        loader = Loader(
            context.bank,
            plan.train,
            batch=recipe.batch,
            policy=context.policies["finetune"],
            seed=derive_seed(plan.seed, plan.fold, plan.fraction, "finetune"),
            device=context.device,
            labelled=True,
        )
        groups = model.groups(recipe.layer_decay, apart=recipe.linear_first > 0)
        training = start(model, recipe, recipe.steps_for(len(plan.train)), groups, context.precision)
        head_first = HeadFirst(model, recipe, training)

        def logits(members: tuple[int, ...], seen: set[int]) -> Tensor:
            return torch.from_numpy(predict(context, members, model, seen))

        selection = selection_for(context, plan, weight, logits, training.steps)
        checkpoints = Checkpoints(context.store, plan.key, loader, progress, selection)
        checkpoints.resume(training)

        def loss(draw: Draw) -> Tensor:
            assert draw.labels is not None  # the loader is made with labels
            head_first.before_loss()
            return functional.cross_entropy(model(draw.views[0]).float(), draw.labels, weight)

        hooks = Hooks(before_step=head_first.before_step)

        def on_step(training: Training) -> bool:
            if selection(training):
                progress(training.steps, training.steps)
                return True
            checkpoints(training)
            return False

        optimise(training, loss, loader, recipe, hooks=hooks, on_step=on_step)
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
        "recomputed": recomputed,
        "volumes_per_second": checkpoints.steps_here(training) * loader.batch / meter.seconds,
        "device": device_name(context.device, context.precision),
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
    encoder = pretrained(context, plan)
    with seeded(plan.seed, plan.fold, plan.fraction, "head"):
        recipe = context.config.finetune_recipe(plan.method)
        model = Classifier(encoder, len(context.dataset.classes), recipe.hidden, freeze_norm=recipe.freeze_norm)
    return placed(model, context.device)


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
