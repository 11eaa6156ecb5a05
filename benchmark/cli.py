"""The command line."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from voxbench.benchmark.commands.choices import (
    ExecutorName,
    Kind,
    PrecisionName,
    ProtocolName,
    RecomputeName,
    SyncName,
    TrackingName,
)
from voxbench.benchmark.commands.prepare_options import prepare
from voxbench.benchmark.commands.terminal import Terminal, close_streams, open_streams, stopped
from voxbench.benchmark.commands.tune_options import tune
from voxbench.datasets.files import explained
from voxbench.datasets.machine import quiet_libraries
from voxbench.reports.tables.fitted import Fitted

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Which self-supervised method to trust on your own 3D volumes when labels are few.\n\n"
    "Start with [bold]bench run[/bold]: it needs no data and no settings.",
)
console = Terminal()
problems = Terminal(stderr=True)

FAILED_CELLS = 1  # the run ended, and some cells have no result
USER_ERROR = 2


@app.command()
def run(
    methods: Annotated[
        str, typer.Option(help="all, names with commas between, or your own as path/to/file.py:Class.")
    ] = "all",
    no_yardsticks: Annotated[
        bool, typer.Option("--no-yardsticks", help="Leave out the formulas that methods are measured against.")
    ] = False,
    fractions: Annotated[str | None, typer.Option(help="Label fractions, e.g. 0.1,0.5,1.0.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A name from `bench list datasets`, a manifest CSV, or a folder with one."),
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the dataset's files, where it needs files.")] = None,
    preset: Annotated[str, typer.Option(help="quick (minutes on two cores), paper, or a YAML file.")] = "quick",
    encoder: Annotated[
        str | None,
        typer.Option(help="A name from `bench list encoders`, or path/to/file.py:Class; several: methods under each."),
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Folds of the patient-level cross-validation.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="A number of seeds (3 = 0,1,2), or a list such as 7,8; each has a split of its own."),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(help="strict: a method spends only its fraction's labels. paper: as Bhattacharya et al. 2024."),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(help="finetune, linear (frozen features, logistic regression), knn; several with commas between."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the configuration: --set finetune.lr=0.001."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="A method once with each value, a row a value: --sweep methods.residual.median=0,3,5."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder; the same command again skips what is done.")] = Path(
        "runs/run"
    ),
    cache: Annotated[
        Path | None,
        typer.Option(help="Where prepared volumes are kept between runs; not given: the user's cache folder."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="Of training. auto: bfloat16 on a GPU, and on a CPU that is faster in it (AMX) and as right."
        ),
    ] = PrecisionName.auto,
    recompute: Annotated[
        RecomputeName,
        typer.Option(
            help="Maps computed twice, not kept: less memory, slower, same result. auto: where steps need it."
        ),
    ] = RecomputeName.auto,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that share the grid; not given: one a core, or one to four on a GPU by its memory."
        ),
    ] = None,
    gpus_per_stage: Annotated[
        int,
        typer.Option(min=1, help="GPUs that share the steps of one pretraining stage; on a CPU processes, for trial."),
    ] = 1,
    executor: Annotated[
        ExecutorName, typer.Option(help="local: processes of this machine. slurm: submit it all to a cluster, and end.")
    ] = ExecutorName.local,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="partition=...,time=...,gpus_per_node=1, or a YAML file: see docs/cluster.md."),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Further tries of a job whose cause of failure may pass, e.g. out of memory.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what it would cost; run nothing.")] = (
        False
    ),
    wandb: Annotated[
        TrackingName | None,
        typer.Option(
            help="Fill W&B while the grid runs, in a process of its own. Not given: online with a key, else off."
        ),
    ] = None,
    wandb_project: Annotated[
        str, typer.Option(envvar="WANDB_PROJECT", help="W&B project.", show_envvar=False)
    ] = "voxbench",
) -> None:
    """Pretrain, fine-tune and test every method on every label fraction, and print the AUPRC table.

    [bold]Examples[/bold]

    bench run --methods all --fractions 0.1,0.5,1.0

    bench run --dataset volumes/manifest.csv --methods supervised,simclr --folds 5 --seeds 3 --out runs/mine

    bench run --methods my_method.py:MyMethod,supervised --set pretrain.lr=0.0005
    """
    from voxbench.benchmark.commands import run as command_run

    given = command_run.Arguments(
        methods=methods,
        yardsticks=not no_yardsticks,
        fractions=fractions,
        dataset=dataset,
        data_root=data_root,
        preset=preset,
        encoder=encoder,
        folds=folds,
        seeds=seeds,
        protocol=protocol.value if protocol else None,
        settings=tuple(settings or ()),
        out=out,
        cache=cache,
        device=device,
        precision=precision.value,
        recompute=recompute.value,
        workers=workers,
        gpus_per_stage=gpus_per_stage,
        dry_run=dry_run,
        wandb=wandb.value if wandb else None,
        wandb_project=wandb_project,
        executor=executor.value,
        slurm=tuple(slurm or ()),
        retries=retries,
        evaluate=evaluate,
        sweeps=tuple(sweep or ()),
    )
    with suppress(KeyboardInterrupt):
        raise typer.Exit(command_run.execute(given, console))
    stopped()


@app.command()
def status(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    keys: Annotated[bool, typer.Option("--keys", help="List every job with its key.")] = False,
) -> None:
    """Show what of a run is done, at work, waiting and failed, the time left and the cost so far."""
    from voxbench.benchmark.commands import status as command_status

    command_status.status(run_folder, console, keys=keys)


@app.command()
def cancel(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """End a run, here or on the cluster; what is done is kept, and the same `bench run` goes on from there."""
    from voxbench.benchmark.commands import status as command_status

    command_status.cancel(run_folder, console)


@app.command()
def cell(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY ...", help="As `bench status RUN --keys` lists them.")],
    only: Annotated[bool, typer.Option("--only", help="Leave out the pretraining that they build on.")] = False,
    warning: Annotated[float, typer.Option(help="Seconds between SLURM's warning and its time limit.")] = 120,
) -> None:
    """Carry out single jobs of a run's grid, unless they are done: what a cluster's jobs consist of."""
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, lambda *_: None)  # a warning while modules load ends nothing
    from voxbench.benchmark.commands import cell as command_cell

    with suppress(KeyboardInterrupt):
        raise typer.Exit(command_cell.execute(run_folder, keys, console, only=only, warning=warning))
    stopped()


@app.command()
def collect(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    attempt: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Write tables and report from what is done so far; a run on a cluster ends with it."""
    from voxbench.benchmark.commands import collect as command_collect

    raise typer.Exit(command_collect.execute(run_folder, attempt, console))


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List what can be chosen, built-in and installed beside voxbench."""
    from voxbench.benchmark.commands.catalogue import catalogue

    rows = catalogue(kind.value)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    console.print(
        Fitted(
            title="",
            columns=tuple(rows[0]),
            rows=tuple(tuple(Text(_text(value)) for value in row.values()) for row in rows),
            prose=frozenset(range(1, len(rows[0]))),
        )
    )


@app.command()
def profile(
    methods: Annotated[str, typer.Option(help="all, or names with commas between.")] = "all",
    dataset: Annotated[str | None, typer.Option(help="As for bench run.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="As for bench run.")] = None,
    preset: Annotated[str, typer.Option(help="quick, small, paper, or a YAML file.")] = "quick",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting of the configuration.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[PrecisionName, typer.Option(help="As for bench run.")] = PrecisionName.auto,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each kind that are timed.")] = 10,
    batch: Annotated[int | None, typer.Option(min=2, help="Volumes a step; not given: the preset's.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    peers: Annotated[bool, typer.Option("--peers", help="Also torchio's and MONAI's views of the volumes.")] = False,
    cache: Annotated[Path | None, typer.Option(help="As for bench run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the figures.")] = Path("runs/profile"),
) -> None:
    """Measure how fast each method trains on this machine, and what its steps spend their time on."""
    from voxbench.benchmark.commands import profile as command_profile

    given = command_profile.arguments(
        methods, dataset, data_root, preset, settings or (), device, cache, out, precision.value
    )
    command_profile.execute(given, steps, batch, threads, console, with_peers=peers)


@app.command()
def check(
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="METHOD ...", help="Names, or path/to/file.py:Class; none: encoders.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoders to check, and methods on each; not given: the preset's.")
    ] = None,
    preset: Annotated[str, typer.Option(help="quick, small, paper, or a YAML file.")] = "quick",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting of the configuration.")] = None,
    size: Annotated[int, typer.Option(min=8, help="Voxels along an edge of the phantoms.")] = 32,
    cache: Annotated[Path | None, typer.Option(help="As for bench run.")] = None,
) -> None:
    """Hold a method or an encoder of your own to the contract, a line a rule, before any compute is spent.

    [bold]Examples[/bold]

    bench check my_method.py:MyMethod

    bench check my_method.py:MyMethod --encoder resnet,my_encoder.py:MyEncoder --size 16
    """
    from voxbench.benchmark.commands import check as command_check

    given = command_check.Checked(
        methods=command_check.asked(methods or ()),
        encoders=command_check.listed(encoder),
        preset=preset,
        settings=tuple(settings or ()),
        size=size,
        cache=cache,
    )
    raise typer.Exit(command_check.execute(given, console))


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Of the method, such as my-method.")],
    folder: Annotated[Path, typer.Option(help="Where the file is written.")] = Path(),
) -> None:
    """Write a file with a whole small method that passes `bench check`, to be changed into your own."""
    from voxbench.benchmark.commands import new_method as command_new

    command_new.execute(name, folder, console)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    reference: Annotated[
        bool, typer.Option("--reference", help="Add the seed paper's published numbers, marked as from another cohort.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report, e.g. of a colleague's run; not given: RUN/report.")
    ] = None,
) -> None:
    """Make tables, statistics and plots anew from a run folder."""
    from voxbench.benchmark.commands.report import show_report

    show_report(run_folder, console, reference=reference, out=out)


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, which `bench report` and `compare` take.")],
) -> None:
    """Copy a run's tables, scores and curves, without weights, pictures and ids: to lie beside a paper."""
    from voxbench.benchmark.commands.report import export

    export(run_folder, out, console)


@app.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Two run folders or more.")],
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")] = Path("runs/comparison"),
) -> None:
    """Merge runs (other seeds, datasets, machines) into one report; runs of different protocols are refused."""
    from voxbench.benchmark.commands.report import show_comparison

    show_comparison(run_folders, out, console)


@app.command("wandb-sync")
def wandb_sync(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    mode: Annotated[SyncName, typer.Option(help="online, or offline: into RUN/wandb.")] = SyncName.online,
    project: Annotated[
        str, typer.Option("--wandb-project", envvar="WANDB_PROJECT", help="W&B project.", show_envvar=False)
    ] = "voxbench",
) -> None:
    """Fill W&B from a run folder; what it has already is not sent again."""
    from voxbench.benchmark.commands import wandb as command_wandb

    raise typer.Exit(command_wandb.sync(run_folder, mode.value, project, console))


@app.command()
def dashboard(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    project: Annotated[
        str, typer.Option("--wandb-project", envvar="WANDB_PROJECT", help="W&B project.", show_envvar=False)
    ] = "voxbench",
    entity: Annotated[
        str | None, typer.Option("--wandb-entity", envvar="WANDB_ENTITY", help="W&B team or user.", show_envvar=False)
    ] = None,
) -> None:
    """Make or update the W&B workspace of a run: the label-fraction plot, the table, curves and costs."""
    from voxbench.benchmark.commands import wandb as command_wandb

    command_wandb.dashboard(run_folder, project, entity, console)


app.command()(prepare)
app.command()(tune)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return str(value)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of ``bench``: user errors are one line each on stderr, with exit code 2."""
    # A scheduler's SIGTERM ends a run as Ctrl-C does: what is done stays, and the same command goes on. Not by way of
    # SIGINT, which a shell has its background jobs ignore.
    signal.signal(signal.SIGTERM, _interrupt)
    open_streams()
    quiet_libraries()
    try:
        app()
    except Exception as error:
        from voxbench.benchmark.running.work import EXPECTED  # brings PyTorch, which `--help` can do without

        if not isinstance(error, (*EXPECTED, OSError)):
            raise
        said = explained(error) if isinstance(error, OSError) else str(error)
        problems.print(f"[red]error:[/red] {escape(said)}", soft_wrap=True)
        sys.exit(USER_ERROR)
    finally:
        close_streams()


if __name__ == "__main__":
    main()
