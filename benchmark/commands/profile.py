"""What ``bench profile`` does: how fast each method trains here, and what holds it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from voxbench.benchmark.commands.progress import StepProgress
from voxbench.benchmark.commands.run import Arguments, configuration
from voxbench.benchmark.records.costs import device_name
from voxbench.benchmark.records.provenance import provenance
from voxbench.benchmark.records.recognise import PROFILE, check_profile
from voxbench.benchmark.records.store import write_json, write_text
from voxbench.benchmark.running.setup import Setup, prepare_bank
from voxbench.benchmark.settings.config import Precision
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training import peers, speed
from voxbench.datasets.files import cause
from voxbench.reports.tables.fitted import Fitted


def execute(
    given: Arguments, steps: int, batch: int | None, threads: int, console: Console, *, with_peers: bool = False
) -> None:
    """Measures, prints a table, and writes `profile.json` and a plot into `given.out`.

    Raises BenchError, before anything is measured, where that folder holds other things, or a peer is not installed.
    """
    if with_peers:
        peers.check_peers()
    config, runtime = configuration(given)
    check_profile(given.out)
    runtime = runtime.model_copy(update={"threads": threads})
    with StepProgress(console, "reading volumes") as progress:
        bank = prepare_bank(config, runtime, progress)
    device = torch.device(runtime.device)
    torch.set_num_threads(threads)
    setup = Setup(config=config, runtime=runtime, bank=bank.folder, provenance={})
    rates = speed.matrix_rate(device)
    found: list[speed.Speed] = []
    with setup.opened() as context, StepProgress(console, "measuring") as progress:
        for done, name in enumerate(config.methods):
            progress(done, len(config.methods) + 1)
            found += [speed.measure(work, steps) for work in speed.workloads(context, name, batch)]
        found.append(speed.measure(speed.finetuning(context, batch), steps))
        beside = peers.compare(context, batch) if with_peers else []
        progress(len(config.methods) + 1, len(config.methods) + 1)
    console.print(_table(found, rates[str(context.precision).removeprefix("torch.")]))
    _tell_maps(found, console)
    if beside:
        _tell_peers(beside, threads, console)
    record = {
        "device": device_name(device, context.precision),
        "threads": threads,
        "shape": list(context.dataset.shape),
        "encoder": config.encoder.model_dump(mode="json"),
        "steps": steps,
        "matrix_gflop_per_second": rates,
        "workloads": [asdict(one) for one in found],
        "peers": [asdict(one) for one in beside],
        "provenance": provenance(device),
    }
    _write(given.out, record, console)


def arguments(
    methods: str, dataset: str | None, data_root: Path | None, preset: str, settings: Sequence[str], device: str,
    cache: Path | None, out: Path, precision: Precision = "auto",
) -> Arguments:  # fmt: skip
    """Those of a run of which nothing is run."""
    return Arguments(
        methods=methods, fractions=None, dataset=dataset, data_root=data_root, preset=preset, encoder=None, folds=None,
        seeds=None, protocol=None, settings=tuple(settings), out=out, cache=cache, device=device, precision=precision,
        workers=1, dry_run=True,
    )  # fmt: skip


def _table(found: Sequence[speed.Speed], rate: float) -> Fitted:
    rows = []
    for one in found:
        achieved = one.gflop_per_second
        cells = (
            " ".join(dict.fromkeys(filter(None, (one.method, one.stage)))),
            f"{one.batch} x {one.views}" if one.views > 1 else f"{one.batch}",
            f"{one.volumes_per_second:,.0f}",
            f"{one.share_of_limit:.2f}",
            "" if achieved is None else f"{achieved:,.0f}",
            "" if achieved is None else f"{achieved / rate:.3f}",
            f"{one.peak_memory_mb:,.0f}",
        )
        rows.append(tuple(Text(cell) for cell in cells))
    return Fitted(
        title=f"matrix product: {rate:,.0f} GFLOP/s",
        columns=("step", "batch", "volumes/s", "of the limit", "GFLOP/s", "of the product", "peak MB"),
        rows=tuple(rows),
    )


def _tell_maps(found: Sequence[speed.Speed], console: Console) -> None:
    for one in found:
        if one.seconds_a_map is not None:
            console.print(
                f"{one.method}: a target map takes {1000 * one.seconds_a_map:.1f} ms, made once a volume: spread over "
                "the stage's budget in the figures above",
                soft_wrap=True,
                highlight=False,
            )


def _tell_peers(beside: Sequence[peers.Peer], threads: int, console: Console) -> None:
    ours = beside[0].volumes_per_second
    rows = [
        (f"{one.name} {one.version}", f"{one.volumes_per_second:,.0f}", f"{ours / one.volumes_per_second:.1f}")
        for one in beside
    ]
    console.print(
        Fitted(
            title=f"two views, data and augmentation alone, CPU threads: {threads}",
            columns=("library", "volumes/s", "ours to it"),
            rows=tuple(tuple(map(Text, row)) for row in rows),
        )
    )
    for one in beside:
        console.print(f"{one.name}: {'; '.join(one.transforms)}", soft_wrap=True, highlight=False)


def _write(out: Path, record: Mapping[str, Any], console: Console) -> None:
    from voxbench.reports.plots.speed import parts_of_a_step  # brings all that plots need: after the work

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / PROFILE, record)
        write_text(out / "profile.svg", parts_of_a_step(record).svg)
    except OSError as error:
        raise BenchError(f"--out {out}: cannot be written ({cause(error)}): name another folder") from error
    console.print(f"{out / PROFILE} and profile.svg", soft_wrap=True)
