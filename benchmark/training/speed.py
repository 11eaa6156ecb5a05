"""How fast the one training loop runs on this machine, and what keeps it from running faster."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from voxbench.benchmark.records.costs import Meter
from voxbench.benchmark.settings.assemble import build_encoder, build_method, placed, seeded
from voxbench.benchmark.settings.recipes import Recipe, StageRecipe
from voxbench.benchmark.training.batches import batch_of, looks
from voxbench.benchmark.training.classifier import Classifier
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.targets import Targets, evaluating
from voxbench.benchmark.training.train import NO_HOOKS, Hooks, Training, forward, optimise, start
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.methods.base import Group, Method, Stage

PARTS = ("data", "maps", "augmentation", "forward", "backward", "optimiser", "rest")
FINISHED_ON = 8  # volumes that a prior stage is finished on before maps are timed
ROUNDS = 5  # in which loop and limit take turns on a CPU: other processes then slow down both alike


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of training step, as the harness carries it out."""

    method: str
    stage: str  # "fine-tuning" for the step that all methods share
    module: nn.Module
    loss: Callable[[Draw], Tensor]
    loader: Loader
    recipe: Recipe
    hooks: Hooks = NO_HOOKS
    groups: Sequence[Group] = ()
    precision: torch.dtype = torch.float32
    index: int | None = None  # which of the method's stages; None = fine-tuning

    @property
    def volumes_per_step(self) -> float:
        """Two views count as two."""
        return self.loader.volumes_per_step


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured on one workload; the limit is the same step on one batch that stays where it is.

    Target maps are kept once they are made: their making is spread over all volumes of the stage's budget.
    """

    method: str
    stage: str
    batch: int
    views: int
    volumes_per_second: float
    limit_volumes_per_second: float
    share_of_limit: float
    seconds: dict[str, float] = field(default_factory=dict)  # a step, by part, each waited for
    seconds_a_map: float | None
    gflop_per_step: float | None
    gflop_per_second: float | None  # at the limit
    peak_memory_mb: float


def workloads(context: Context, name: str, batch: int | None = None, *, maps: bool = True) -> Iterator[Workload]:
    """The steps of each stage of a method that is trained, one after another, each cleared up after.

    `batch` stands in for that of the configuration. Target maps are made as in a run; without `maps` the volumes
    themselves stand in for them.
    """
    method = placed(build_method(context.config, name, context.dataset.shape, 0, None), context.device)
    stages = method.stages()
    for index, stage in enumerate(stages):
        if stage.loss is None:
            continue
        with ExitStack() as stack:
            _finish(context, method, stages[:index])
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield replace(_of_stage(context, name, method, stage, folder if maps else None, batch), index=index)


def finetuning(context: Context, batch: int | None = None) -> Workload:
    """The step of fine-tuning, which is the same for all methods."""
    recipe = context.config.finetune
    encoder = build_encoder(context.config, context.dataset.shape, 0, None)
    with seeded(0, "head"):
        model = placed(Classifier(encoder, len(context.dataset.classes), recipe.hidden), context.device)
    loader = Loader(
        context.bank,
        [i for i, item in enumerate(context.bank.items) if item.label is not None],
        batch=batch or recipe.batch,
        policy=context.policies["finetune"],
        seed=0,
        device=context.device,
        labelled=True,
    )

    def loss(draw: Draw) -> Tensor:
        assert draw.labels is not None  # the loader is made with labels
        return functional.cross_entropy(model(draw.views[0]).float(), draw.labels)

    return Workload(
        method="",
        stage="fine-tuning",
        module=model,
        loss=loss,
        loader=loader,
        recipe=recipe,
        precision=context.precision,
    )


def volumes_per_second(work: Workload, steps: int) -> float:
    """Of the real loop; the first step (allocation, choice of kernels) is left out."""
    return rates(work, [work.loader], steps)[0]


def seconds_a_map(context: Context, name: str, index: int) -> float:
    """What one target map of a method's stage costs; 0 where it has none."""
    method = placed(build_method(context.config, name, context.dataset.shape, 0, None), context.device).eval()
    stages = method.stages()
    make = stages[index].targets
    if make is None:
        return 0.0
    _finish(context, method, stages[:index])
    volume = context.bank.batch([0], context.device)
    with torch.no_grad():
        make(volume)  # the first is slower
        wait(context.device)
        began = time.perf_counter()
        make(volume).cpu()
    return time.perf_counter() - began


def measure(work: Workload, steps: int) -> Speed:
    """All figures of one workload, from `steps` steps of each kind."""
    a_map = _make_maps(work, steps)
    fixed = _Constant(work.loader)
    with Meter(work.loader.device) as meter:
        real, limit = rates(work, [work.loader, fixed], steps)
    maps_a_volume = 0.0 if a_map is None else a_map * _maps_made(work)
    real = 1 / (1 / real + maps_a_volume)
    flop = _flop(work, fixed.draw(0))
    return Speed(
        method=work.method,
        stage=work.stage,
        batch=work.loader.batch,
        views=len(work.loader.looks),
        volumes_per_second=real,
        limit_volumes_per_second=limit,
        share_of_limit=real / limit,
        seconds={**_parts(work, steps), "maps": maps_a_volume * work.volumes_per_step},
        seconds_a_map=a_map,
        gflop_per_step=flop / 1e9 if flop else None,
        gflop_per_second=flop / 1e9 * limit / work.volumes_per_step if flop else None,
        peak_memory_mb=meter.peak_memory_mb,
    )


def matrix_rate(device: torch.device) -> dict[str, float]:
    """GFLOP/s of one large matrix product, by type: the most that this machine's arithmetic gives."""
    side = 8192 if device.type == "cuda" else 2048
    rates = {}
    for kind in (torch.float32, torch.bfloat16):
        a = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).to(device, kind)
        a @ a  # allocation, choice of the kernel
        wait(device)
        began, times = time.perf_counter(), 0
        while times < 3 or time.perf_counter() - began < 0.5:
            a @ a
            wait(device)
            times += 1
        rates[str(kind).removeprefix("torch.")] = 2 * side**3 * times / (time.perf_counter() - began) / 1e9
    return rates


def wait(device: torch.device) -> None:
    """For the device to have done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _finish(context: Context, method: Method, stages: Any) -> None:
    """The stages before one, untrained but finished, so that its maps can be made."""
    some = context.bank.batch(range(min(FINISHED_ON, len(context.bank))), context.device)
    with torch.no_grad(), evaluating(method):
        for stage in stages:
            if stage.finish is not None:
                stage.finish([some])


def _of_stage(
    context: Context, name: str, method: Method, stage: Stage, folder: Path | None, batch: int | None
) -> Workload:
    recipe = context.config.stage_recipe(name, stage.budget)
    members = range(len(context.bank))
    maps: Callable[[Sequence[int]], Tensor] | None = None
    if stage.targets is not None:
        maps = partial(context.bank.batch, device=context.device)
        if folder is not None:
            maps = Targets(folder, stage.targets, method, context.bank, members, context.device)
    loader = Loader(
        context.bank,
        members,
        batch=batch or recipe.batch,
        policy=context.policies["none"],
        looks=looks(context.config.augmentation, stage),
        seed=0,
        device=context.device,
        targets=maps,
        clean=stage.clean,
    )

    def loss(draw: Draw) -> Tensor:
        assert stage.loss is not None  # else it has no steps
        return stage.loss(batch_of(draw, loader))

    return Workload(
        method=name,
        stage=stage.name,
        module=stage.module,
        loss=loss,
        loader=loader,
        recipe=recipe,
        groups=stage.groups,
        precision=context.precision,
        hooks=Hooks(before_step=stage.before_step, after_step=stage.after_step),
    )


class _Constant(Loader):
    """A loader that gives the first batch of another again and again."""

    def __init__(self, loader: Loader) -> None:
        self.device, self.batch, self.looks, self.members = loader.device, loader.batch, loader.looks, loader.members
        self.first = loader.draw(0)

    def draw(self, step: int) -> Draw:
        """The one batch; its randomness is the step's."""
        return replace(self.first, rng=torch.Generator().manual_seed(step))


def _make_maps(work: Workload, steps: int) -> float | None:
    """Makes the target maps that `steps` steps after a first will need; seconds of one, None where there are none."""
    loader = work.loader
    if loader.targets is None:
        return None
    known = set(loader.rows(0)[:1])
    loader.targets(sorted(known))  # the first is slower
    spent, made = 0.0, 0
    for step in range(steps + 1):
        new = sorted({*loader.rows(step)} - known)
        if new:
            wait(loader.device)
            began = time.perf_counter()
            loader.targets(new)
            wait(loader.device)
            spent += time.perf_counter() - began
        made += len(new)
        known.update(new)
    return spent / max(1, made)


def _maps_made(work: Workload) -> float:
    """Target maps for each volume that passes in a whole stage, as long as the recipe has it."""
    assert isinstance(work.recipe, StageRecipe)  # fine-tuning has none
    return min(len(work.loader.members) / work.recipe.volumes, 1 / len(work.loader.looks))


def rates(work: Workload, loaders: Sequence[Loader], steps: int) -> list[float]:
    """Volumes a second of `optimise` on each loader, in turns; a median of the turns, the first step left out."""
    trainings = [start(work.module, work.recipe, steps + 1, work.groups, work.precision) for _ in loaders]
    rounds = 1 if work.loader.device.type == "cuda" else min(ROUNDS, steps)  # a GPU works ahead, if it may
    ends = [1, *(1 + steps * number // rounds for number in range(1, rounds + 1))]
    seconds: list[list[float]] = [[] for _ in loaders]
    for before, end in zip([0, *ends], ends, strict=False):
        for training, loader, spent in zip(trainings, loaders, seconds, strict=True):
            began = time.perf_counter()
            optimise(training, work.loss, loader, work.recipe, hooks=work.hooks, on_step=partial(_reached, end))
            wait(loader.device)
            spent.append((time.perf_counter() - began) / (end - before))
    return [work.volumes_per_step / statistics.median(spent[1:]) for spent in seconds]


def _reached(step: int, training: Training) -> bool:
    return training.step >= step


def _parts(work: Workload, steps: int) -> dict[str, float]:
    """Seconds a step of each part of `optimise`, the device waited for after each: their sum is more than a step's."""
    training = start(work.module, work.recipe, steps + 1, work.groups, work.precision)
    watch = _Stopwatch(work.loader.device)

    def loss(draw: Draw) -> Tensor:
        watch.lap("rest")
        value = work.loss(draw)
        watch.lap("forward")
        return value

    def before_step(progress: float) -> None:
        watch.lap("backward")
        if work.hooks.before_step is not None:
            work.hooks.before_step(progress)
        watch.lap("rest")

    def on_step(state: Training) -> bool:
        watch.lap("rest")
        if state.step == 1:
            watch.reset()  # the first is slower
        return False

    training.optimizer.register_step_post_hook(lambda *_: watch.lap("optimiser"))
    hooks = replace(work.hooks, before_step=before_step)
    optimise(training, loss, _Watched(work.loader, watch), work.recipe, hooks=hooks, on_step=on_step)
    return {part: seconds / steps for part, seconds in watch.spent.items()}


class _Stopwatch:
    """Seconds by part; each lap ends when the device has done what it was told."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """All parts at nought."""
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """What has passed since the last lap was spent on `part`."""
        wait(self.device)
        now = time.perf_counter()
        self.spent[part] += now - self.last
        self.last = now


class _Watched(Loader):
    """A loader that times its draws; volumes are read twice for it, so that reading can be told apart."""

    def __init__(self, loader: Loader, watch: _Stopwatch) -> None:
        self.loader, self.watch = loader, watch
        self.device, self.batch, self.looks, self.members = loader.device, loader.batch, loader.looks, loader.members

    def draw(self, step: int) -> Draw:
        """That of the loader."""
        self.watch.lap("rest")
        before = self.watch.spent["data"]
        self.loader.bank.batch([self.members[row] for row in self.loader.rows(step)], self.device)
        self.watch.lap("data")
        draw = self.loader.draw(step)
        self.watch.lap("augmentation")
        self.watch.spent["augmentation"] -= self.watch.spent["data"] - before
        return draw


def _flop(work: Workload, draw: Draw) -> float:
    """Of one forward and backward pass, as PyTorch counts convolutions and matrix products; 0 where it cannot."""
    with FlopCounterMode(display=False) as counter:
        forward(work.loss, draw, work.loader.device, work.precision).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())
