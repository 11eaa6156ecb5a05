"""How fast the one training loop runs on this machine, and what keeps it from running faster."""

from __future__ import annotations

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
from voxbench.benchmark.settings.recipes import Recipe
from voxbench.benchmark.training.batches import batch_of, looks
from voxbench.benchmark.training.classifier import Classifier
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.targets import Targets, evaluating
from voxbench.benchmark.training.train import NO_HOOKS, Hooks, Training, backward, forward, optimise, start
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.methods.base import Group, Method, Stage

PARTS = ("data", "augmentation", "forward", "backward", "optimiser")
FINISHED_ON = 8  # volumes that a prior stage is finished on before maps are timed


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
    """Measured on one workload; the limit is the same step on one batch that stays where it is."""

    method: str
    stage: str
    batch: int
    views: int
    volumes_per_second: float
    limit_volumes_per_second: float
    share_of_limit: float
    seconds: dict[str, float] = field(default_factory=dict)  # a step, by part, each waited for
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
    return _timed(work, work.loader, steps)


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
    fixed = _Constant(work.loader)
    with Meter(work.loader.device) as meter:
        real = _timed(work, work.loader, steps)
    limit = _timed(work, fixed, steps)
    flop = _flop(work, fixed.draw(0))
    return Speed(
        method=work.method,
        stage=work.stage,
        batch=work.loader.batch,
        views=len(work.loader.looks),
        volumes_per_second=real,
        limit_volumes_per_second=limit,
        share_of_limit=real / limit,
        seconds=_parts(work, steps),
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


def _timed(work: Workload, loader: Loader, steps: int) -> float:
    """Volumes a second of `optimise`, the first step left out."""
    training = start(work.module, work.recipe, steps + 1, work.groups, work.precision)
    clock: list[float] = []

    def tick(state: Training) -> bool:
        if state.step in (1, steps + 1):
            wait(loader.device)
            clock.append(time.perf_counter())
        return False

    optimise(training, work.loss, loader, work.recipe, hooks=work.hooks, on_step=tick)
    return steps * loader.volumes_per_step / (clock[-1] - clock[0])


def _parts(work: Workload, steps: int) -> dict[str, float]:
    """Seconds a step of each part, the device waited for after each: their sum is more than a step of the loop."""
    training = start(work.module, work.recipe, steps + 1, work.groups, work.precision)
    loader, spent = work.loader, dict.fromkeys(PARTS, 0.0)

    def timed(part: str, do: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = do()
        wait(loader.device)
        spent[part] += time.perf_counter() - began
        return done

    with torch.random.fork_rng(devices=[loader.device] if loader.device.type == "cuda" else []):
        for step in range(steps + 1):
            if step == 1:
                spent = dict.fromkeys(PARTS, 0.0)  # the first is slower
            rows = [loader.members[row] for row in loader.rows(step)]
            timed("data", partial(loader.bank.batch, rows, loader.device))
            draw = timed("augmentation", partial(loader.draw, step))
            value = timed("forward", partial(forward, work.loss, draw, loader.device, work.precision))
            timed("backward", partial(backward, training, value, work.recipe))
            timed("optimiser", training.optimizer.step)
    spent["augmentation"] = max(0.0, spent["augmentation"] - spent["data"])  # `draw` reads its volumes too
    return {part: seconds / steps for part, seconds in spent.items()}


def _flop(work: Workload, draw: Draw) -> float:
    """Of one forward and backward pass, as PyTorch counts convolutions and matrix products; 0 where it cannot."""
    with FlopCounterMode(display=False) as counter:
        forward(work.loss, draw, work.loader.device, work.precision).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())
