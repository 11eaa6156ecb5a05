"""What ``bench run`` does, from its arguments to its exit code."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape

from voxbench.benchmark.commands import estimate
from voxbench.benchmark.commands import wandb as command_wandb
from voxbench.benchmark.commands.dry_run import show_plan
from voxbench.benchmark.commands.progress import GridProgress, StepProgress
from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.records.recognise import check_out
from voxbench.benchmark.running import processes
from voxbench.benchmark.running.grid import Grid
from voxbench.benchmark.running.local import Local
from voxbench.benchmark.running.places import default_workers, groups, in_words
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.runner import Run, effort
from voxbench.benchmark.running.setup import prepare_bank, resolve_device
from voxbench.benchmark.running.site import site_settings
from voxbench.benchmark.running.slurm import Slurm, check_here
from voxbench.benchmark.running.stop import Stop
from voxbench.benchmark.running.work import Job
from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.assemble import build_dataset
from voxbench.benchmark.settings.config import Config, Precision, Recompute, Runtime
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.presets import parse_setting, presets, read_preset
from voxbench.benchmark.settings.resolve import resolve, split_variant
from voxbench.benchmark.settings.sweep import swept, with_variants
from voxbench.benchmark.training.precision import dtype_for
from voxbench.datasets.base import Dataset
from voxbench.datasets.files import cause
from voxbench.datasets.machine import cache_folder
from voxbench.datasets.volumes.bank import VolumeBank
from voxbench.datasets.volumes.mistaken import mistaken


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The command line as given; None = not given."""

    methods: str
    fractions: str | None
    dataset: str | None
    data_root: Path | None
    preset: str
    encoder: str | None
    folds: int | None
    seeds: str | None
    protocol: str | None
    settings: tuple[str, ...]
    out: Path
    cache: Path | None
    device: str
    precision: Precision = "auto"
    recompute: Recompute = "auto"
    workers: int | None
    gpus_per_stage: int = 1
    dry_run: bool
    wandb: str | None = None
    wandb_project: str = "voxbench"
    yardsticks: bool = True
    executor: Literal["local", "slurm"] = "local"
    slurm: tuple[str, ...] = ()
    retries: int = 1
    evaluate: str | None = None
    sweeps: tuple[str, ...] = ()


def execute(given: Arguments, console: Console) -> int:
    """Runs the grid; 0, or 1 if some cells failed. Raises the errors of `errors.USER_ERRORS`."""
    config, runtime = configuration(given)
    site = _site(given)
    if given.executor == "local" and not given.dry_run:
        _prepare_workers(runtime)
    for note in _notes(given, runtime):
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    mode = command_wandb.choose(given.wandb)
    with StepProgress(console, "reading volumes") as progress:
        bank = prepare_bank(config, runtime, progress)
    dataset = build_dataset(config, runtime.data_root)
    console.print(_cohort(config, dataset, bank), soft_wrap=True, highlight=False)
    run = Run.planned(config, runtime, dataset, bank)
    asked = [word.strip() for word in given.methods.split(",")]
    for name, reason in run.plan.skipped.items():
        if config.method_spec(name) in asked:
            raise BenchError(reason)
        console.print(f"[yellow]note:[/yellow] {escape(reason)}", soft_wrap=True)
    for note in run.plan.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    if given.dry_run:
        run.check_folder()
        run.plan_audit.refuse(run.name_of)
        _tell_warnings(run, console)
        show_plan(run, console)
        return 0
    try:
        run.open_folder()
    except OSError as error:
        raise BenchError(f"--out {given.out}: cannot be written ({cause(error)}): name another folder") from error
    run.audit_before()
    _tell_warnings(run, console)
    tasks = run.tasks()
    _set_aside(run, console)
    grid = Grid.of(
        run.plan, effort(run), config, runtime, bank.folder, given.device, given.executor, site, given.retries
    )
    grid.write()
    if tasks and given.executor == "slurm":
        return _submit(grid, tasks, mode != "off", console)
    live = command_wandb.start(runtime.out, mode, given.wandb_project, console)
    began = time.monotonic()
    if tasks:
        _work(run, tasks, grid, console)
    off = estimate.how_far_off(runtime, tasks, time.monotonic() - began)
    cells = run.collect()
    from voxbench.benchmark.commands.report import show_report  # brings all that plots need: after the work

    show_report(runtime.out, console)
    if off is not None:
        console.print(off, soft_wrap=True, highlight=False)
    command_wandb.finish(live, runtime.out, console)
    return verdict([cell for cell in cells if cell["key"] in run.plan.cells], console)


def _site(given: Arguments) -> dict[str, Any]:
    """Settings of the executor. Raises BenchError where it cannot be used, before anything is read."""
    if given.executor == "local":
        if given.slurm:
            raise BenchError("--slurm: settings of a cluster, and the work is done here: add --executor slurm")
        return {}
    site = site_settings(given.slurm)
    check_here(site)
    return site


def _prepare_workers(runtime: Runtime) -> None:
    """While volumes are read and the grid is planned; a grid that is done needs no workers."""
    if runtime.workers > 1 and not (runtime.out / "results.csv").exists():
        processes.prepare()


def _submit(grid: Grid, tasks: Sequence[Task], tracked: bool, console: Console) -> int:
    """Gives `tasks` to the scheduler, and says how to watch them; `tracked`: W&B is to have them."""
    out = escape(str(grid.runtime.out))
    if tracked:
        console.print(f"W&B: filled afterwards, by bench wandb-sync {out}", soft_wrap=True)
    console.print(f"{Slurm(grid).submit(tasks)}; this command may end, and its machine as well", soft_wrap=True)
    console.print(f"watch: bench status {out}\nend:   bench cancel {out}", soft_wrap=True)
    return 0


def _work(run: Run, tasks: Sequence[Task], grid: Grid, console: Console) -> None:
    """Carries out `tasks` here. Raises KeyboardInterrupt where it was stopped; what is done stands in the tables."""
    done = len(run.plan.cells) + len(run.plan.stages) - len(tasks)
    kept = f" ({done} of earlier runs are kept)" if done else ""
    kind = dtype_for(run.runtime.precision, torch.device(run.runtime.device))
    where = f"{in_words(run.runtime.device)} in {str(kind).removeprefix('torch.')}"
    console.print(f"{len(tasks)} jobs on {where}, {run.runtime.workers} at a time{kept}")
    try:
        carry_out(run, tasks, console, title="grid", retries=grid.retries)
    except (KeyboardInterrupt, OSError):
        run.collect()
        raise


def carry_out(run: Run, tasks: Sequence[Task], console: Console, *, title: str, retries: int = 1) -> None:
    """Carries out `tasks` under a progress bar. Raises KeyboardInterrupt where it was stopped."""
    stop = Stop()

    def told() -> None:
        console.print("stopping: what is being written is finished first; once more stops at once", soft_wrap=True)

    names = {task.job.key: _said(task.job) for task in tasks}
    with GridProgress(console, names, {task.job.key: task.effort for task in tasks}, title) as listen:
        local = Local(run.setup(), retries=retries, listen=listen, stop=stop)
        with stop.listening((signal.SIGINT, signal.SIGTERM), told):
            run.work(tasks, local)
    if stop.asked:
        raise KeyboardInterrupt


def _said(job: Job) -> str:
    return job.title if isinstance(job, StagePlan) else job.name


def _notes(given: Arguments, runtime: Runtime) -> list[str]:
    """What is to be known before anything is read. Raises BenchError where the run folder is not a run's."""
    notes = []
    if "all" in [word.strip() for word in given.methods.split(",")]:
        notes += [f"{why}: left out" for why in registry.broken("methods").values()]
    if given.cache is None:
        note = cache_folder()[1]
        notes += [note] if note is not None else []
    try:
        check_out(given.out, but=[runtime.cache])
    except BenchError as error:
        if not given.dry_run:
            raise
        notes.append(f"{error} (this dry run writes nothing)")
    return notes


def _cohort(config: Config, dataset: Dataset, bank: VolumeBank) -> str:
    """What the volumes are, said before they are split: a label that is a slip of the pen shows as its own class."""
    labelled = [item for item in bank.items if item.label is not None]
    counts = Counter(item.label for item in labelled)
    classes = ", ".join(f"{counts[label]} {name}" for label, name in enumerate(dataset.classes))
    patients = len({item.patient for item in labelled})
    return (
        f"{config.dataset.name}: {len(labelled)} labelled volumes of {patients} patients ({escape(classes)}), "
        f"{len(bank.items) - len(labelled)} without a label"
    )


def _set_aside(run: Run, console: Console) -> None:
    for name in run.store.set_aside():
        console.print(
            f"[yellow]damaged:[/yellow] {escape(name)} is not as it was written: put into damaged/, and computed again",
            soft_wrap=True,
        )


def _tell_warnings(run: Run, console: Console) -> None:
    for warning in run.plan_audit.warned(run.name_of):
        console.print(f"[yellow]audit:[/yellow] {escape(warning)}", soft_wrap=True)


def configuration(given: Arguments) -> tuple[Config, Runtime]:
    """The configuration and runtime that the arguments ask for; raises BenchError for each wrong one."""
    flags: dict[str, Any] = {}
    root = given.data_root
    if root is not None and not root.exists():  # said even where prepared volumes are kept and no file is needed
        raise BenchError(f"--data-root {root}: no such folder: name the one with the dataset's files")
    if given.dataset is not None:
        name, root = _dataset(given.dataset, root)
        flags["dataset"] = {"name": name}
    if given.encoder is not None:
        first, *others = dict.fromkeys(word.strip() for word in given.encoder.split(",") if word.strip()) or [""]
        flags["encoder"] = {"name": first}
        flags["encoders"] = {str(registry.load("encoders", spec).name): {"name": spec} for spec in others}
    protocol = {
        "fractions": _numbers("--fractions", given.fractions, float),
        "seeds": seed_list(given.seeds),
        "folds": given.folds,
        "name": given.protocol,
        "evaluate": None if given.evaluate is None else [word.strip() for word in given.evaluate.split(",")],
    }
    flags["protocol"] = {key: value for key, value in protocol.items() if value is not None}
    preset = read_preset(given.preset)
    if not isinstance(preset.get("dataset"), dict):
        raise BenchError(f"preset {given.preset}: dataset: expected a mapping with a name")
    layers = [preset, flags, *(parse_setting(text) for text in given.settings)]
    methods = _methods(given.methods, yardsticks=given.yardsticks)
    methods, variants = with_variants(methods, layers, swept(given.sweeps))
    layers.append({"methods": variants})
    config = resolve(layers, methods)
    asked = layers[1:] if given.preset in presets() else layers  # a built-in preset's one seed is meant for folds
    if not any("seeds" in layer.get("protocol", {}) for layer in asked) and _one_split(config, root):
        # One split has no folds to replicate over: as many seeds take their place.
        seeds = {"protocol": {"seeds": list(range(config.protocol.folds))}}
        config = resolve([*layers, seeds], methods)
    device = "cpu" if given.executor == "slurm" else resolve_device(given.device)  # there each job looks for its own
    runtime = Runtime(
        out=given.out,
        data_root=root,
        cache=given.cache or cache_folder()[0],
        device=device,
        precision=given.precision,
        workers=given.workers or default_workers(device, given.gpus_per_stage),
        gpus_per_stage=given.gpus_per_stage,
        recompute=given.recompute,
    )
    if given.executor == "local":
        dtype_for(runtime.precision, torch.device(device))  # raises where this processor does not have it
        if given.gpus_per_stage > 1:
            groups(device, runtime.workers, given.gpus_per_stage)  # raises where there are too few
    if given.out.exists() and not given.out.is_dir():
        raise BenchError(f"--out {given.out}: is a file: name a folder")
    above = next(folder for folder in (given.out.absolute(), *given.out.absolute().parents) if folder.exists())
    if not os.access(above, os.W_OK):
        raise BenchError(f"--out {given.out}: {above} cannot be written to: name another folder")
    return config, runtime


def _one_split(config: Config, root: Path | None) -> bool:
    """Whether nothing is replicated: one official split, one seed."""
    return len(config.protocol.seeds) == 1 and build_dataset(config, root).has_official_split


def _dataset(text: str, root: Path | None) -> tuple[str, Path | None]:
    """A registered name, or a path to a manifest."""
    if text in registry.names("datasets") or ".py:" in text:
        return text, root
    path = Path(text)
    if path.exists():
        wrong = mistaken(path)
        if wrong is not None:
            raise BenchError(f"--dataset {text}: {wrong}")
        if root is not None:
            raise BenchError("--data-root: a manifest's paths are relative to the manifest: leave --data-root out")
        return "manifest", path
    if path.suffix or "/" in text:
        raise BenchError(f"--dataset {text}: no such file or folder")
    registry.load("datasets", text)  # raises, with the nearest names
    return text, root


def _methods(text: str, *, yardsticks: bool) -> Sequence[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise BenchError("--methods: name at least one, or all")
    known = [name for name in registry.names("methods") if "all" in names and name not in registry.broken("methods")]
    known = [name for name in known if not registry.load("methods", name).variant]
    chosen = list(dict.fromkeys(each for name in names for each in (known if name == "all" else [name])))
    if not yardsticks:
        chosen = [spec for spec in chosen if registry.load("methods", split_variant(spec)[0]).role != "yardstick"]
    if not chosen:
        raise BenchError(f"--methods {text}: --no-yardsticks leaves none of them: name a method, or leave it out")
    return chosen


def seed_list(text: str | None) -> list[int] | None:
    """What --seeds asks for. Raises BenchError where it is no number and no list."""
    numbers = _numbers("--seeds", text, int)
    if text is None or numbers is None or "," in text:
        return numbers
    if not numbers:
        raise BenchError("--seeds: give a number of seeds, or a list")
    if numbers[0] < 1:
        raise BenchError(f"--seeds {text}: a number of seeds is at least 1; for the seed 0 alone write 0,")
    return list(range(numbers[0]))


def _numbers(flag: str, text: str | None, kind: type) -> list[Any] | None:
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise BenchError(f"{flag} {text}: expected numbers with commas between") from None


def verdict(cells: Sequence[dict[str, Any]], console: Console) -> int:
    """Says what failed; the exit code."""
    failed = [cell for cell in cells if cell["status"] == "failed"]
    for cell in failed[:5]:
        names = cell["cell"]
        console.print(
            f"[red]failed:[/red] {names['method']} {names['fraction']:.0%} fold {names['fold']} seed {names['seed']}: "
            f"{escape(str(cell['error']))}",
            soft_wrap=True,
        )
    if len(failed) > 5:
        console.print(f"... and {len(failed) - 5} more: see results.csv")
    return 1 if failed else 0
