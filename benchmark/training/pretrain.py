"""Carrying out one pretraining stage: targets, training, checks, weights and record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.records.costs import Meter, device_name
from voxbench.benchmark.settings.assemble import build_method, placed
from voxbench.benchmark.settings.errors import ContractError
from voxbench.benchmark.settings.keys import RESULT_VERSION, derive_seed
from voxbench.benchmark.training.batches import batch_of, looks
from voxbench.benchmark.training.checkpoints import Checkpoints
from voxbench.benchmark.training.context import Context, Progress
from voxbench.benchmark.training.diagnosis import diagnose
from voxbench.benchmark.training.division import Division
from voxbench.benchmark.training.holdout import divided
from voxbench.benchmark.training.moved import Moved, features_differ
from voxbench.benchmark.training.passes import Pace, Passes
from voxbench.benchmark.training.ranks import Ranks
from voxbench.benchmark.training.showcase import write_examples
from voxbench.benchmark.training.targets import Targets, evaluating
from voxbench.benchmark.training.train import Hooks, NonFiniteLossError, Training, optimise, start
from voxbench.datasets.views.loader import Draw, Loader, Plain
from voxbench.methods.base import Method, MethodError, Stage
from voxbench.methods.parts.recompute import recompute

COLLAPSED_ABOVE = 0.9  # of `collapse`: 0 = embeddings spread over the sphere, 1 = all the same
PROBE = 64  # volumes whose embeddings are watched
DIFFERING = 8  # volumes that an encoder must tell apart
LOOK_AT_STEP = 20  # a stage that trains no encoder need not run to its end


def run_stage(context: Context, plan: StagePlan, progress: Progress) -> dict[str, Any]:
    """Trains the stage, saves its weights and returns its record, which is also saved.

    Raises NonFiniteLossError if it diverges, MethodError if the method cannot work with the data or breaks a rule.
    """
    with _named(plan), context.company(plan, context.recompute) as ranks:
        return _run(context, plan, progress, ranks)


def follow_stage(context: Context, plan: StagePlan, ranks: Ranks) -> None:
    """What every process but the first does of a stage that several carry out: its steps. Writes nothing."""
    with _named(plan):
        work = _Work(context, plan, lambda *_: None, ranks)
        work.resume()
        work.steps(None)


@contextmanager
def _named(plan: StagePlan) -> Iterator[None]:
    """A method's errors say whose stage it was."""
    try:
        yield
    except MethodError as error:
        if str(error).startswith(plan.method):
            raise
        raise MethodError(f"{plan.method}, stage {plan.name}: {error}") from error


def _run(context: Context, plan: StagePlan, progress: Progress, ranks: Ranks) -> dict[str, Any]:
    with Meter(context.device) as meter:
        work = _Work(context, plan, progress, ranks)
        method, stage, loader, passes, training = work.method, work.stage, work.loader, work.passes, work.training
        moved = Moved(method, stage, passes)
        watch = _Watch(context, plan, stage, work.checkpoints, moved)
        work.resume()
        work.steps(watch)
        method.eval()
        _finish(context, plan, stage, method, loader.plain(work.held_out or None))
    moved.check()
    watch.final(training)
    context.store.save_weights(plan.key, "module", stage.module.state_dict())
    context.store.save_weights(plan.key, "encoder", method.encoder.state_dict())
    spent = passes.trained if work.pace.counts else training.step * loader.volumes_per_step
    return {
        "result_version": RESULT_VERSION,
        "key": plan.key,
        "status": "ok",
        "method": plan.method,
        "stage": plan.name,
        "budget": stage.budget,
        "seed": plan.seed,
        "fold": plan.fold,
        "steps": training.steps,
        "volumes_per_step": spent / max(1, training.steps),
        "volumes": spent,
        "volumes_forward": passes.forward,
        "encoder_moved": [moved.count(), len(moved.before)],
        "curve": training.curve,
        "collapse": watch.collapse,
        "collapsed": watch.collapse is not None and watch.collapse > COLLAPSED_ABOVE,
        "n_volumes": len(plan.members),
        "n_held_out": len(work.held_out),
        "n_normal_labels": len(plan.labels),
        "seconds": meter.seconds + work.checkpoints.seconds_before,
        "volumes_per_second": work.checkpoints.steps_here(training) * spent / max(1, training.steps) / meter.seconds,
        "peak_memory_mb": meter.peak_memory_mb,
        "recomputed": work.recomputed,
        "processes": ranks.count,
        "device": device_name(context.device, context.precision),
        "upstream": list(plan.upstream),
        "seen": sorted(context.bank.hashes[i] for i in loader.seen),
        **_diagnosed(context, plan, method),
        **_shown(context, plan, stage),
    }


class _Work:
    """What the processes of a stage do alike: the method as it was left, the loader, and the steps."""

    def __init__(self, context: Context, plan: StagePlan, progress: Progress, ranks: Ranks) -> None:
        self.ranks = ranks
        self.method, self.stage = _rebuilt(context, plan)
        self.recomputed = recompute(self.method, context.recompute == "always")
        self.recipe = context.config.stage_recipe(plan.method, self.stage.budget)
        share = self.stage.held_out
        members, self.held_out = divided(context.bank.items, plan.members, share, _seed(context, plan))
        self.loader = _loader(context, plan, self.stage, self.method, members, writes=ranks.leads)
        self.passes = Passes(self.method, context.bank.batch(plan.members[:2], context.device), ranks)
        self.pace = Pace(self.stage, self.recipe.volumes, self.loader.volumes_per_step, self.passes)
        module, groups = self.stage.module, self.stage.groups
        self.training = start(module, self.recipe, self.pace.declared, groups, context.precision)
        self.checkpoints = Checkpoints(context.store, plan.key, self.loader, progress, self.passes)
        self.division = Division(ranks, self.method, module)

    def resume(self) -> None:
        """From the last checkpoint; all processes are to have read the same."""
        self.checkpoints.resume(self.training)
        self.division.check_start(self.training.step)
        if self.pace.counts and self.training.step:
            self.training.steps = self.pace.steps(self.training.step)

    def steps(self, on_step: Callable[[Training], bool] | None) -> None:
        """All that are left."""
        stage, passes, pace = self.stage, self.passes, self.pace
        hooks = Hooks(
            before_step=stage.before_step,
            after_step=None if stage.after_step is None else passes.counted(stage.after_step),
            steps=pace.steps if pace.counts else None,
        )
        loss = passes.counted(self._loss)
        optimise(self.training, loss, self.loader, self.recipe, hooks=hooks, on_step=on_step, division=self.division)
        self.division.check_state(stage.module)
        passes.close()

    def _loss(self, draw: Draw) -> Tensor:
        assert self.stage.loss is not None  # else there are no steps
        return self.stage.loss(batch_of(draw, self.loader, self.training.step / self.training.steps))


def _finish(context: Context, plan: StagePlan, stage: Stage, method: Method, volumes: Plain) -> None:
    """The stage's own end. Raises MethodError where it left the encoder without a difference between volumes."""
    if stage.finish is None:
        return
    some = context.bank.batch(plan.members[:DIFFERING], context.device)
    told_apart = features_differ(method.encoder, some)
    with torch.no_grad():
        stage.finish(volumes)
    if told_apart and not features_differ(method.encoder, some):
        raise ContractError("its finish left the encoder with the same features for every volume: mend it")


def _diagnosed(context: Context, plan: StagePlan, method: Method) -> dict[str, Any]:
    """Whether the stage learnt; what cannot be told of it does not undo the training behind it."""
    try:
        return diagnose(context, plan, method.encoder)
    except Exception as error:  # a third party's encoder may fail in any way
        return {"diagnosis_error": f"{type(error).__name__}: {error}"}


def _shown(context: Context, plan: StagePlan, stage: Stage) -> dict[str, Any]:
    """What the report shows of the stage; a figure that cannot be drawn does not undo the training behind it."""
    try:
        return write_examples(context, plan, stage)
    except Exception as error:  # a third party's `reconstruct` may fail in any way
        return {"showcase_error": f"{type(error).__name__}: {error}"}


def _rebuilt(context: Context, plan: StagePlan) -> tuple[Method, Stage]:
    """The method as the stages before this one left it."""
    method = build_method(context.config, plan.method, context.dataset.shape, plan.seed, plan.fold)
    placed(method, context.device)  # before its stages name parameters: a device may need new ones
    stages = method.stages()
    for done, key in zip(stages, plan.upstream, strict=False):
        done.module.load_state_dict(context.store.load_weights(key, "module"), strict=True)
    return method, stages[plan.index]


def _seed(context: Context, plan: StagePlan) -> int:
    """Of what a stage draws."""
    return derive_seed(plan.seed, plan.fold, context.config.method_of(plan.method), plan.name)


def _loader(
    context: Context, plan: StagePlan, stage: Stage, method: Method, members: Sequence[int], *, writes: bool
) -> Loader:
    """Draws of the stage's `members`, with their targets where it has any (computing those is part of its cost)."""
    targets = None
    if stage.targets is not None:
        folder = context.store.stage_folder(plan.key)
        targets = Targets(folder, stage.targets, method, context.bank, members, context.device, writes=writes)
    return Loader(
        context.bank,
        members,
        batch=context.config.stage_recipe(plan.method, stage.budget).batch,
        policy=context.policies["none"],
        looks=looks(context.config.augmentation, stage),
        seed=_seed(context, plan),
        device=context.device,
        targets=targets,
        clean=stage.clean,
    )


class _Watch:
    """Called after each step: whether the encoder moves, collapse, checkpoints."""

    def __init__(self, context: Context, plan: StagePlan, stage: Stage, checkpoints: Checkpoints, moved: Moved) -> None:
        self.context = context
        self.moved = moved
        self.early = stage.finish is None  # or that may be what gives the encoder its weights
        self.embed = stage.embed
        self.module = stage.module
        self.checkpoints = checkpoints
        self.collapse: float | None = None
        self.probe = tuple(plan.members[:PROBE])

    def __call__(self, training: Training) -> bool:
        if self.early and training.step == LOOK_AT_STEP < training.steps:
            self.moved.check()
        if training.curve and training.curve[-1]["step"] == training.step and self._due(training):
            self._measure(training)
        self.checkpoints(training)
        return False

    def final(self, training: Training) -> None:
        """The last measurement."""
        self._measure(training)

    def _due(self, training: Training) -> bool:
        # A tenth of the curve's points: watching costs a forward pass.
        return len(training.curve) % 10 == 1

    def _measure(self, training: Training) -> None:
        if self.embed is None or len(self.probe) < 2:
            return
        with torch.no_grad(), evaluating(self.module):
            embedded = self.embed(self.context.bank.batch(self.probe, self.context.device)).float()  # [P, E]
        if embedded.ndim != 2 or len(embedded) != len(self.probe):
            raise ContractError(
                f"its embed gives {list(embedded.shape)} for {len(self.probe)} volumes: give an embedding each, [B, E]"
            )
        if not bool(torch.isfinite(embedded).all()):
            raise NonFiniteLossError(f"embeddings are not finite at step {training.step}: lower the learning rate")
        self.collapse = collapse_of(embedded)
        training.curve[-1]["collapse"] = self.collapse


def collapse_of(embedded: Tensor) -> float:
    """1 - sqrt(E) x mean standard deviation of L2-normalised embeddings [P, E], cut to [0, 1].

    0 for embeddings spread over the sphere, 1 for one and the same (Chen and He, SimSiam, CVPR 2021, section 4.1).
    """
    from lightly.utils.debug import std_of_l2_normalized  # brings torchvision: seconds that few processes need

    spread = float(std_of_l2_normalized(embedded)) * math.sqrt(embedded.shape[1])
    return min(1.0, max(0.0, 1.0 - spread))
