"""``bench run --dry-run``: the plan, what of it is done, and what the rest would cost."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

import torch
from rich.console import Console
from rich.text import Text

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.running.runner import Run, effort
from voxbench.benchmark.settings.assemble import build_encoder, build_method, placed
from voxbench.benchmark.training.finetune import Classifier
from voxbench.benchmark.training.train import optimise, start
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.datasets.views.policies import policies
from voxbench.methods.base import Batch, Stage
from voxbench.reports.tables.fitted import Fitted

TIMED_STEPS = 2
TIMED_BATCH = 8  # volumes a second hardly depend on the batch, and a plan should show at once


def show_plan(run: Run, console: Console) -> None:
    """Prints stages and cells a method, how many are done, and hours measured on a few steps of each."""
    done = run.done()
    efforts, tasks = effort(run), run.tasks()
    speeds = _Speeds(run)
    rows: list[tuple[Text, ...]] = []
    whole = 0.0
    for method in run.config.methods:
        stages = {key: stage for key, stage in run.plan.stages.items() if stage.method == method}
        cells = [key for key, cell in run.plan.cells.items() if cell.method == method]
        if not cells:
            continue
        todo = [task.job for task in tasks if task.job.method == method]
        seconds = sum(efforts[job.key] / speeds.of(method, getattr(job, "index", None)) for job in todo)
        seconds += sum(speeds.seconds_for_maps(job) for job in todo if isinstance(job, StagePlan))
        whole += seconds
        counts = Counter(stage.name for stage in stages.values())
        entries = (
            method,
            ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none",
            str(len(cells)),
            f"{len(done & {*stages, *cells})}/{len(stages) + len(cells)}",
            f"{sum(efforts[job.key] for job in todo):,.0f}",
            _duration(seconds),
        )
        rows.append(tuple(map(Text, entries)))
    console.print(
        Fitted(
            title=f"plan: {run.config.dataset.name}, {len(run.bank.items)} volumes",
            columns=("method", "stages", "cells", "done", "volumes to process", "estimate (one worker)"),
            rows=tuple(rows),
        )
    )
    workers = run.runtime.workers
    console.print(f"about {_duration(whole / workers)} with {workers} workers on {run.runtime.device}; nothing was run")


class _Speeds:
    """Volumes a second of each stage and of fine-tuning, measured on a few real steps when first asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.device = torch.device(run.runtime.device)
        self.policies = policies(run.config.augmentation)
        self.known: dict[tuple[str, int | None], float] = {}
        self.maps: dict[tuple[str, int], float] = {}  # seconds a target map
        torch.set_num_threads(run.runtime.threads)

    def of(self, method: str, stage: int | None) -> float:
        """For stage number `stage` of `method`; None = fine-tuning, the same for all methods."""
        key = (method if stage is not None else "", stage)
        if key not in self.known:
            self.known[key] = self._finetuning() if stage is None else self._stage(method, stage)
        return self.known[key]

    def seconds_for_maps(self, plan: StagePlan) -> float:
        """For the target maps of a stage: each volume's is made once."""
        key = (plan.method, plan.index)
        if key not in self.maps:
            self.maps[key] = self._map(*key)
        return self.maps[key] * min(len(plan.members), plan.volumes)

    def _map(self, name: str, index: int) -> float:
        method = placed(build_method(self.run.config, name, self.run.dataset.shape, 0, None), self.device).eval()
        stages = method.stages()
        make = stages[index].targets
        if make is None:
            return 0.0
        volume = self.run.bank.batch([0], self.device)
        with torch.no_grad():
            for before in stages[:index]:
                if before.finish is not None:
                    before.finish([volume])
            make(volume)  # the first is slower
            began = time.perf_counter()
            make(volume).cpu()
        return time.perf_counter() - began

    def _stage(self, name: str, index: int) -> float:
        method = placed(build_method(self.run.config, name, self.run.dataset.shape, 0, None), self.device)
        stage: Stage = method.stages()[index]
        recipe = self.run.config.prior if stage.budget == "prior" else self.run.config.pretrain
        members = range(min(TIMED_BATCH, len(self.run.bank.items)))
        # The real maps are timed apart; here others of the right size serve as well.
        targets = None if stage.targets is None else partial(self.run.bank.batch, device=self.device)
        loader = Loader(
            self.run.bank,
            members,
            batch=TIMED_BATCH,
            policy=self.policies[stage.augmentation],
            seed=0,
            device=self.device,
            views=stage.views,
            targets=targets,
        )
        training = start(stage.module, recipe, TIMED_STEPS + 1)

        def loss(draw: Draw) -> torch.Tensor:
            return stage.loss(Batch(views=draw.views, target=draw.target, rng=draw.rng))

        return self._timed(lambda on: optimise(training, loss, loader, recipe, on_step=on), loader.batch * stage.views)

    def _finetuning(self) -> float:
        run, recipe = self.run, self.run.config.finetune
        encoder = build_encoder(run.config, run.dataset.shape, 0, None)
        model = placed(Classifier(encoder, len(run.dataset.classes), recipe.hidden), self.device)
        labelled = [i for i, item in enumerate(run.bank.items) if item.label is not None][: recipe.batch]
        policy = self.policies["finetune"]
        loader = Loader(run.bank, labelled, batch=TIMED_BATCH, policy=policy, seed=0, device=self.device, labelled=True)
        training = start(model, recipe, TIMED_STEPS + 1)

        def loss(draw: Draw) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(model(draw.views[0]), draw.labels)  # type: ignore[arg-type]

        return self._timed(lambda on: optimise(training, loss, loader, recipe, on_step=on), loader.batch)

    def _timed(self, work, volumes: int) -> float:  # type: ignore[no-untyped-def]
        """Volumes a second, the first step (allocation, kernel choice) left out."""
        clock: list[float] = []

        def tick(_: object) -> bool:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            clock.append(time.perf_counter())
            return False

        work(tick)
        return TIMED_STEPS * volumes / (clock[-1] - clock[0])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
