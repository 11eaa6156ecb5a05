"""What ``bench tune`` does: search settings of each method by the same budget, and write a preset that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from voxbench.benchmark.commands.progress import StepProgress
from voxbench.benchmark.commands.run import Arguments, carry_out, configuration
from voxbench.benchmark.planning.searched import searched_splits
from voxbench.benchmark.records.recognise import check_out
from voxbench.benchmark.records.store import write_text
from voxbench.benchmark.running.places import in_words
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import prepare_bank
from voxbench.benchmark.settings.assemble import build_dataset
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.presets import read_preset
from voxbench.benchmark.settings.resolve import resolve
from voxbench.benchmark.tuning.outcome import FILE, outcome, preset_text
from voxbench.benchmark.tuning.search import Search
from voxbench.datasets.files import cause
from voxbench.reports.judging.words import counted, listed
from voxbench.reports.reading.results import percent
from voxbench.reports.tables.tuning import chosen_table, search_table


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The part of the command line that is this command's own."""

    trials: int
    fraction: float
    on_folds: str
    seeds: tuple[int, ...]
    seed: int


def execute(given: Arguments, asked: Searched, console: Console) -> int:
    """Searches; 0, or 1 where a method has no trial with a score. Raises the errors of `errors.USER_ERRORS`."""
    search = searched(given, asked, console)
    for note in _notes(search):
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    try:
        search.open_folder()
    except OSError as error:
        raise BenchError(f"--out {given.out}: cannot be written ({cause(error)}): name another folder") from error
    console.print(_plan(search, asked.trials), soft_wrap=True, highlight=False)
    work = partial(_work, console=console)
    for number in range(asked.trials):
        search.carry_out(number, work, f"trial {number + 1} of {asked.trials}")
    search.prove(asked.trials)
    tuned = outcome(search, asked.trials)
    path = given.out / FILE
    specs = [search.config.method_spec(name) for name in search.config.methods]
    base = resolve([read_preset(given.preset)], specs)
    write_text(path, preset_text(tuned, given.preset, base, search.config))
    told = tuned.model_dump(mode="json")
    for table in (search_table(told), chosen_table(told)):
        if table is not None:
            console.print(table.rich())
    return _verdict(search, asked.trials, path, console)


def searched(given: Arguments, asked: Searched, console: Console) -> Search:
    """The search that was asked for; the volumes are prepared, and nothing is written but their cache.

    Raises the errors of `errors.USER_ERRORS`.
    """
    config, runtime = configuration(given)
    check_out(given.out, but=[runtime.cache])
    if config.encoders:
        raise BenchError("--encoder: settings are searched under one encoder at a time: name one")
    if not 0 < asked.fraction <= 1:
        raise BenchError(f"--fraction {asked.fraction:g}: a share of the labels is above 0 and at most 1, e.g. 0.1")
    grid = {"fractions": (asked.fraction,), "seeds": asked.seeds, "evaluate": ("finetune",)}
    protocol = config.protocol.model_copy(update=grid)
    config = config.model_copy(update={"protocol": protocol, "tuned": None})
    with StepProgress(console, "reading volumes") as progress:
        bank = prepare_bank(config, runtime, progress)
    dataset = build_dataset(config, runtime.data_root)
    splits = searched_splits(config, dataset, bank.items, _numbers(asked.on_folds))
    return Search.of(
        config, runtime.model_copy(update={"out": runtime.out / "tuning"}), dataset, bank, splits, asked.seed
    )


def _numbers(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        found = []
    if not found:
        raise BenchError(f"--on-folds {text}: expected numbers of folds, counted from 0, e.g. 0,1")
    return found


def _notes(search: Search) -> list[str]:
    """Why methods are not searched; formulas in one line."""
    idle = [name for name, reason in search.skipped.items() if not reason]
    nothing = [f"nothing is searched for {listed(idle)}: left as they are"] if idle else []
    return [*nothing, *filter(None, search.skipped.values())]


def _plan(search: Search, trials: int) -> str:
    replicates = len(search.folds) * len(search.config.protocol.seeds)
    patients = len({search.bank.items[i].patient for i in search.splits.closed})
    return (
        f"{counted(trials, 'trial')} of each of {counted(len(search.spaces), 'method')} at "
        f"{percent(search.config.protocol.fractions[0])} of the labels, {counted(replicates, 'training')} a trial, "
        f"on {in_words(search.runtime.device)}, {search.runtime.workers} at a time; "
        f"{len(search.splits.closed)} volumes of {counted(patients, 'test patient')} are closed"
    )


def _work(run: Run, tasks: Sequence[Task], title: str, *, console: Console) -> None:
    carry_out(run, tasks, console, title=title)


def _verdict(search: Search, trials: int, path: Path, console: Console) -> int:
    """Says what failed, and how to go on."""
    lost = []
    for method in search.spaces:
        history = search.history(method, trials)
        failed = [trial for trial in history if trial.auprc is None]
        lost += [method] * (len(failed) == len(history))
        for trial in failed[:3]:
            console.print(
                f"[red]failed:[/red] {method} trial {trial.number}: {escape(str(trial.error))}", soft_wrap=True
            )
        if len(failed) > 3:
            console.print(f"... and {len(failed) - 3} more of {method}: see {escape(str(search.runtime.out))}/trials")
    console.print(f"{escape(str(path))}\nuse it: bench run --preset {escape(str(path))}", soft_wrap=True)
    return 1 if lost else 0
