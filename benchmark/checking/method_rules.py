"""The rules that a method is held to, in the order in which they are tried."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from voxbench.benchmark.checking.trial import BATCH, CPU, STEPS, Bench, Trained, Trial
from voxbench.benchmark.checking.verdict import BrokenRuleError, NoteError, Verdict, verdict
from voxbench.benchmark.training.targets import evaluating
from voxbench.benchmark.training.train import forward
from voxbench.methods.base import Batch, Stage
from voxbench.methods.parts.autocast import autocast

DRAWS = 4  # batches that a rule about chance looks at
PRESSED = 30  # steps on one batch
ROUGHLY = 0.1  # of a pass, in which a class token is no voxel; of a distance
RUNAWAY_BELOW = -1.05  # a cosine ends at -1, and all other common losses at 0


def check_method(bench: Bench) -> Iterator[Verdict]:
    """A verdict a rule and stage; none after a rule without which the others mean nothing."""
    made: list[Trial] = []

    def build() -> None:
        made[:] = bench.trials()

    first = verdict("it can be made, and stages() are as the contract says", build)
    yield first
    if not made and first.outcome != "ok":
        return
    yield verdict("the seed decides how it begins", lambda: _seeded(bench))
    again = bench.trials(seed=1)
    begin: Mapping[str, Tensor] | None = None
    for trial, other in zip(made, again, strict=True):
        for one in (trial, other):
            one.reset(begin)
        case = _Case(trial, other)
        for rule in _STAGE:
            if rule.of_loss and trial.stage.loss is None:
                continue
            found = verdict(f"stage {trial.stage.name}: {rule.said}", partial(rule.holds, case))
            yield found
            if found.outcome == "broken" and rule.needed:
                return
        begin = case.trained.ended


@dataclass
class _Case:
    """A stage of a method, and the same of one made under another seed."""

    trial: Trial
    other: Trial

    @cached_property
    def trained(self) -> Trained:
        """Trained once, for all rules that look at what training makes of it."""
        return self.trial.trained()


def _seeded(bench: Bench) -> None:
    first, again = (bench.made()[0].state_dict() for _ in range(2))
    drawn = next((name for name in first if not torch.equal(first[name], again[name])), None)
    if drawn is not None:
        raise BrokenRuleError(f"{drawn} differs from one making to the next: draw from PyTorch's generator in __init__")


def _loss(case: _Case) -> None:
    trial = case.trial
    trial.reset()
    value = forward(trial.loss_of, trial.loader.draw(0), CPU)
    if not bool(value.isfinite()):
        raise BrokenRuleError(f"it is {value.item()} at the first step")
    if value.dtype != torch.float32:
        raise BrokenRuleError(f"it is {value.dtype}: compare in float32, with .float()")


def _trains(case: _Case) -> None:
    assert case.trained  # which raises where it does not


def _passes(case: _Case) -> None:
    passes, drawn = case.trained.passes, STEPS * case.trial.loader.volumes_per_step
    if case.trial.stage.budget == "prior" or not passes.countable:
        return
    each, without = passes.trained / drawn, passes.forward / drawn
    if each > 1 + ROUGHLY or without > 1 + ROUGHLY:
        raise NoteError(
            f"for each volume of its views {each:.2g} pass forward and backward and {without:.2g} forward: a budget "
            "counts what passes, so it gets fewer steps"
        )


def _views(case: _Case) -> None:
    trial = case.trial
    for number in range(len(trial.stage.looks)):
        if all(trial.loss(_with_view(trial, step, number)) == trial.loss(trial.batch(step)) for step in range(DRAWS)):
            raise BrokenRuleError(f"views[{number}] can be any other volumes, and the loss is the same: it is not used")


def _with_view(trial: Trial, step: int, number: int) -> Batch:
    batch = trial.batch(step)
    views = list(batch.views)
    views[number] = 1 - views[number].flip(0)
    return replace(batch, views=tuple(views))


def _own_generator(case: _Case) -> None:
    trial = case.trial
    batch, kept = trial.batch(), [view.clone() for view in trial.batch().views]
    before = _generators()
    one = trial.loss(batch, training=False).item()  # in training, layers such as dropout draw from the global one
    for name, state in _generators().items():
        if state != before[name]:
            raise BrokenRuleError(f"it draws from {name}: all randomness comes from batch.rng")
    if not all(torch.equal(view, as_given) for view, as_given in zip(batch.views, kept, strict=True)):
        raise BrokenRuleError("it changes its views in place: others use them too")
    two = trial.loss(trial.batch(), training=False).item()
    if one != two:
        raise BrokenRuleError(
            f"the same batch and generator give {one:g}, then {two:g}: it goes by something that is not in the "
            "method's parameters and buffers"
        )


def _generators() -> Mapping[str, Any]:
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002 - others' draws from it are what is looked for
    return {
        "PyTorch's global generator": torch.get_rng_state().tolist(),
        "Python's `random`": random.getstate(),
        "NumPy's global generator": str(numpy_state),
    }


def _state(case: _Case) -> None:
    trial, other = case.trial, case.other
    trial.reset(case.trained.state if trial.stage.loss is not None else case.trained.ended)
    for ours, theirs in zip([*other.before, other.stage], [*trial.before, trial.stage], strict=True):
        whole = {name: value.clone() for name, value in theirs.module.state_dict().items()}
        ours.module.load_state_dict(load(save(whole)))
    trial.method.eval(), other.method.eval()
    # A batch each, for each has a generator of its own.
    (what, one), (_, two) = (_told(each, trial.batch(STEPS)) for each in (trial.stage, other.stage))
    if one != two:
        raise BrokenRuleError(
            f"saved and loaded, its {what} is {two:g} in place of {one:g}: something that it goes by is not in its "
            "module's parameters and buffers"
        )


def _told(stage: Stage, batch: Batch) -> tuple[str, float]:
    """A number that what a stage holds decides, and what it is: of a stage without a loss, what it shows."""
    if stage.loss is not None:
        return "loss", stage.loss(batch).item()
    if stage.reconstruct is None:
        return "figure", 0.0
    with torch.no_grad():
        return "figure", stage.reconstruct(batch.views[0], torch.Generator().manual_seed(0)).double().mean().item()


def _shapes(case: _Case) -> None:
    stage, volumes = case.trial.stage, case.trial.some
    case.trial.reset(case.trained.ended)
    with torch.no_grad(), evaluating(case.trial.method):
        if stage.embed is not None:
            given = stage.embed(volumes).shape
            if len(given) != 2 or given[0] != BATCH:
                raise BrokenRuleError(f"embed gives {list(given)} for {BATCH} volumes: give [B, E]")
        if stage.targets is not None:
            _like(volumes, stage.targets(volumes), "targets")
        if stage.reconstruct is not None:
            _like(volumes, stage.reconstruct(volumes, torch.Generator().manual_seed(0)), "reconstruct")


def _like(volumes: Tensor, maps: Tensor, what: str) -> None:
    if maps.shape != volumes.shape:
        raise BrokenRuleError(f"{what} gives {list(maps.shape)} for volumes {list(volumes.shape)}: give the same shape")
    if not bool(torch.isfinite(maps).all()) or maps.min() < 0 or maps.max() > 1:
        raise BrokenRuleError(f"{what} gives values from {maps.min():g} to {maps.max():g}: they belong in [0, 1]")


def _finish(case: _Case) -> None:
    if case.trained.lost:
        raise BrokenRuleError("finish leaves the encoder with the same features for every volume")


def _sign(case: _Case) -> None:
    """Learning a batch by heart must not push views of one volume apart, nor find a loss without an end."""
    trial = case.trial
    trial.reset()
    before = _nearness(trial)
    losses = trial.pressed(PRESSED)
    after = _nearness(trial)
    if len(trial.stage.looks) > 1 and after > (1 + ROUGHLY) * max(1.0, before):
        raise BrokenRuleError(
            f"learnt by heart, it puts views of one volume {after:.3g} times as far apart as views of different ones "
            f"({before:.3g} before): has it the wrong sign?"
        )
    first, middle, last = losses[0], losses[PRESSED // 2], losses[-1]
    if last < 0 and middle - last > first - middle > 0 and (last < RUNAWAY_BELOW or last < 2 * first < 0):
        raise BrokenRuleError(
            f"it falls ever faster, from {first:.2g} to {last:.2g}, as if it had no end: has it the wrong sign?"
        )


def _nearness(trial: Trial) -> float:
    """Mean distance of what is made of two views of one volume, over that of views of two volumes."""
    if len(trial.stage.looks) < 2:
        return 0.0
    made = trial.stage.embed or trial.method.encoder
    with torch.no_grad():
        one, two = (functional.normalize(made(view).float(), dim=1) for view in trial.batch().views[:2])  # [B, E]
    distances = torch.cdist(one, two)
    others = ~torch.eye(len(one), dtype=torch.bool)
    return float(distances.diagonal().mean() / distances[others].mean().clamp(min=1e-12))


def _mixed_precision(case: _Case) -> None:
    with autocast(torch.device("cpu"), torch.bfloat16):
        value = case.trial.loss(case.trial.batch())
    if not bool(value.isfinite()) or value.dtype != torch.float32:
        raise BrokenRuleError(f"it is {value.item()} in {value.dtype}: compare in float32, with .float()")


@dataclass(frozen=True)
class _Rule:
    said: str
    holds: Callable[[_Case], None]
    needed: bool = False  # the rules after it mean nothing without it
    of_loss: bool = True  # it asks nothing of a stage without one


_STAGE = (
    _Rule("the loss is one finite number in float32", _loss, needed=True),
    _Rule(f"{STEPS} steps train the encoder (a prior stage: leave it alone)", _trains, needed=True, of_loss=False),
    _Rule("a volume of a view passes through the encoder once", _passes),
    _Rule("every view is used", _views),
    _Rule("it draws from batch.rng alone, and changes no argument", _own_generator),
    _Rule("what its module holds is all there is of it", _state, of_loss=False),
    _Rule("embed, targets and reconstruct give the promised shapes", _shapes, of_loss=False),
    _Rule("the loss is lower for what belongs together", _sign),
    _Rule("mixed precision gives a finite loss in float32", _mixed_precision),
    _Rule("finish leaves an encoder that tells volumes apart", _finish, of_loss=False),
)
