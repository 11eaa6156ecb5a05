"""``bench tune``: its options, and its answer to Ctrl-C."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from voxbench.benchmark.commands.choices import PrecisionName, ProtocolName
from voxbench.benchmark.commands.terminal import Terminal, stopped


def tune(
    methods: Annotated[str, typer.Option(help="As for bench run.")] = "all",
    trials: Annotated[int, typer.Option(min=1, help="Of each method; the first has the settings as they are.")] = 20,
    fraction: Annotated[float, typer.Option(help="Label fraction that is searched at.")] = 0.1,
    on_folds: Annotated[
        str, typer.Option(help="Folds whose validation parts judge, e.g. 0,1; their test patients are not read.")
    ] = "0",
    seeds: Annotated[
        str, typer.Option(help="As for bench run: each has a split and a training of its own, averaged.")
    ] = "1",
    search_seed: Annotated[int, typer.Option(help="The same gives the same trials, and the same choice.")] = 0,
    dataset: Annotated[str | None, typer.Option(help="As for bench run.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="As for bench run.")] = None,
    preset: Annotated[str, typer.Option(help="Where the search starts: quick, paper, or a YAML file.")] = "quick",
    encoder: Annotated[str | None, typer.Option(help="As for bench run; one.")] = None,
    folds: Annotated[int | None, typer.Option(help="As for bench run: of the cross-validation.")] = None,
    protocol: Annotated[ProtocolName | None, typer.Option(help="As for bench run.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting of the configuration.")] = None,
    out: Annotated[Path, typer.Option(help="Run folder; the same command again goes on.")] = Path("runs/tuned"),
    cache: Annotated[Path | None, typer.Option(help="As for bench run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[PrecisionName, typer.Option(help="As for bench run.")] = PrecisionName.auto,
    workers: Annotated[int | None, typer.Option(min=1, help="As for bench run.")] = None,
) -> None:
    """Search the settings of every method by the same budget, on validation patients, and write OUT/tuned.yaml.

    [bold]Examples[/bold]

    bench tune --methods simclr,supervised --trials 20 --set dataset.seed=7 --out runs/tuned

    bench run --preset runs/tuned/tuned.yaml --out runs/mine
    """
    from voxbench.benchmark.commands import tune as command_tune
    from voxbench.benchmark.commands.run import Arguments, seed_list

    given = Arguments(
        methods=methods,
        fractions=None,
        dataset=dataset,
        data_root=data_root,
        preset=preset,
        encoder=encoder,
        folds=folds,
        seeds="0,",
        protocol=protocol.value if protocol else None,
        settings=tuple(settings or ()),
        out=out,
        cache=cache,
        device=device,
        precision=precision.value,
        workers=workers,
        dry_run=False,
    )
    asked = command_tune.Searched(
        trials=trials, fraction=fraction, on_folds=on_folds, seeds=tuple(seed_list(seeds) or ()), seed=search_seed
    )
    with suppress(KeyboardInterrupt):
        raise typer.Exit(command_tune.execute(given, asked, Terminal()))
    stopped()
