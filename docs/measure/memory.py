"""What computing maps twice saves and costs: a table for docs/performance.md.

    python docs/measure/memory.py
    python docs/measure/memory.py --device cuda --batch 128 --steps 10 --set encoder.depth=50

Steps of each kind, as `bench run` takes them, of the paper preset's encoder on volumes of 64^3, with maps kept and
computed twice, each in a process of its own: peak of memory beyond what the process held before the first step, and
volumes a second.
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from voxbench.benchmark.commands.profile import arguments
from voxbench.benchmark.commands.run import configuration
from voxbench.benchmark.records.costs import Meter
from voxbench.benchmark.running.setup import Setup, prepare_bank
from voxbench.benchmark.training import speed
from voxbench.methods.parts.recompute import recompute

KINDS = ("simclr", "byol", "spark", "residual", "supervised")


def measured(
    method: str, batch: int, steps: int, device: str, settings: list[str], twice: bool
) -> list[tuple[str, float, float]]:
    """(what, GB, volumes/s) of each stage of `method`; of the supervised one, of fine-tuning."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as out:
        patients = f"dataset.patients={batch}"  # of two sinuses each
        given = arguments(method, None, None, "paper", [patients, *settings], device, None, Path(out))
        config, runtime = configuration(given)
        bank = prepare_bank(config, runtime, lambda *_: None)
        with Setup(config=config, runtime=runtime, bank=bank.folder, provenance={}).opened() as context:
            works = [speed.finetuning(context, batch)] if method == "supervised" else None
            found = []
            for work in works or speed.workloads(context, method, batch, maps=False):
                recompute(work.module, twice)
                with Meter(context.device) as before:
                    pass
                with Meter(context.device) as meter:
                    rate = speed.volumes_per_second(work, steps)
                found.append((work.stage, (meter.peak_memory_mb - before.peak_memory_mb) / 1024, rate))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default=",".join(KINDS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    asked = parser.parse_args()
    console = Console(width=120)
    console.print("| step | memory kept, GB | twice | volumes/s kept | twice |\n| --- | --- | --- | --- | --- |")
    for method in asked.methods.split(","):
        given = (method, asked.batch, asked.steps, asked.device, asked.settings)
        pair = []
        for twice in (False, True):
            with multiprocessing.get_context("spawn").Pool(1) as alone:  # what was freed before is not its own
                pair.append(alone.apply(measured, (*given, twice)))
        for (stage, kept, fast), (_, again, slow) in zip(*pair, strict=True):
            name = stage if stage in (method, "fine-tuning") else f"{method} {stage}"
            console.print(f"| {name} | {kept:.2f} | {again:.2f} | {fast:.1f} | {slow:.1f} |", soft_wrap=True)


if __name__ == "__main__":
    main()
