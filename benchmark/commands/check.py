"""What ``bench check`` does: methods and encoders held to the contract, a line a rule, on a few phantoms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from voxbench.benchmark.checking.encoder_rules import check_encoder
from voxbench.benchmark.checking.method_rules import check_method
from voxbench.benchmark.checking.trial import Bench
from voxbench.benchmark.checking.verdict import Verdict
from voxbench.benchmark.commands.progress import StepProgress
from voxbench.benchmark.commands.run import Arguments, configuration
from voxbench.benchmark.running.setup import prepare_bank

PATIENTS = 8
_MARKS = {"ok": "[green]ok[/green]  ", "note": "[yellow]note[/yellow]", "broken": "[red]FAIL[/red]"}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What is to be checked, and on what; None = as the preset has it."""

    methods: tuple[str, ...]
    encoders: tuple[str, ...]
    preset: str
    settings: tuple[str, ...]
    size: int  # voxels along an edge
    cache: Path | None


def execute(given: Checked, console: Console) -> int:
    """Prints a line a rule; 0, or 1 where one is broken. Raises the errors of `errors.USER_ERRORS`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        broken = [_on_encoder(given, encoder, console) for encoder in given.encoders or (None,)]
    finally:
        torch.set_num_threads(threads)
    console.print("all rules hold" if not sum(broken) else f"{sum(broken)} rules are broken: see FAIL above")
    return int(sum(broken) > 0)


def _on_encoder(given: Checked, encoder: str | None, console: Console) -> int:
    phantom = (f"dataset.size={given.size}", f"dataset.patients={PATIENTS}", f"dataset.pool_patients={PATIENTS}")
    arguments = Arguments(
        methods=",".join(given.methods) or "supervised", fractions=None, dataset="sinus-phantom", data_root=None,
        preset=given.preset, encoder=encoder, folds=None, seeds=None, protocol=None,
        settings=(*phantom, *given.settings), out=Path("bench-check"), cache=given.cache, device="cpu", workers=1,
        dry_run=True,
    )  # fmt: skip
    config, runtime = configuration(arguments)
    with StepProgress(console, "making phantoms") as progress:
        bank = prepare_bank(config, runtime, progress)
    channels, depth, height, width = bank.shape
    title = f"encoder {config.encoder.name}, volumes of {depth} x {height} x {width}"
    broken = _print(title, check_encoder(config, (channels, depth, height, width)), console)
    for name in config.methods if given.methods else ():
        rules = check_method(Bench(config=config, name=name, bank=bank))
        broken += _print(f"method {name} on encoder {config.encoder.name}", rules, console)
    return broken


def _print(title: str, verdicts: Iterable[Verdict], console: Console) -> int:
    """Prints them one by one; how many are broken."""
    console.print(f"[bold]{escape(title)}[/bold]", highlight=False)
    broken = 0
    for one in verdicts:
        said = f": {escape(one.said)}" if one.said else ""
        console.print(f"{_MARKS[one.outcome]} {escape(one.rule)}{said}", soft_wrap=True, highlight=False)
        broken += one.outcome == "broken"
    return broken


def listed(text: str | None) -> tuple[str, ...]:
    """Words with commas between."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def asked(words: Sequence[str]) -> tuple[str, ...]:
    """Methods of all words, each of which may be several with commas between."""
    return tuple(dict.fromkeys(name for word in words for name in listed(word)))
