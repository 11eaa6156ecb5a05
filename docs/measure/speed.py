"""What voxbench's speed is held to, measured again on this machine, beside what was recorded: `make bench`.

    python docs/measure/speed.py
    python docs/measure/speed.py --parts steps,views --steps 20
    python docs/measure/speed.py --parts streaming          (minutes more, and 6 GB of disk)
    python docs/measure/speed.py --short --record           (the table of docs/performance.md, and speed.json)

Each part runs in a process of its own, with one thread, or on the GPU. Figures are ratios within one run wherever they
can be; seconds, and GFLOP/s, are of this machine as busy as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RECORD = HERE / "speed.json"
PAGE = HERE.parent / "performance.md"
BENCH = (sys.executable, "-m", "voxbench.benchmark.cli")
DEMO = ("--methods", "all", "--fractions", "0.1", "--folds", "2", "--evaluate", "finetune,linear,knn")
# Its grid, and next to no training: what is timed comes after it.
UNTRAINED = ("finetune.steps=2", "finetune.epochs=0", "pretrain.volumes=32", "prior.volumes=32")


class Figure(NamedTuple):
    """One thing measured; `target` is what it must reach, from below where `most`."""

    name: str
    value: float
    unit: str = ""
    target: float | None = None
    most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is as good as its target; None where there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.most else self.value >= self.target


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What parts are told; `folder` is of this measurement alone, `cache` has prepared volumes."""

    device: str
    steps: int
    folder: Path
    cache: Path
    settings: tuple[str, ...] = field(default=())

    @property
    def on_gpu(self) -> bool:
        """Whether training runs on a GPU."""
        return self.device != "cpu"


# --- the parts --------------------------------------------------------------


def steps(asked: Asked) -> Iterator[Figure]:
    """Every kind of training step against the same step on a batch that stays."""
    preset = "paper" if asked.on_gpu else "quick"
    found = profile(asked, preset, "all")
    kind = "bfloat16" if found["device"].endswith("bfloat16") else "float32"
    rate = found["matrix_gflop_per_second"][kind]
    yield Figure(f"matrix product, {kind}", rate, "GFLOP/s")
    for row in found["workloads"]:
        step = " ".join(dict.fromkeys(filter(None, (row["method"], row["stage"]))))
        yield Figure(f"share of the limit: {step}", row["share_of_limit"], target=0.95)
    last = found["workloads"][-1]  # fine-tuning: the encoder and hardly anything else
    if last["gflop_per_second"] is not None:
        yield Figure("encoder at the limit", last["gflop_per_second"], "GFLOP/s", None if asked.on_gpu else 60)
        yield Figure("encoder at the limit, share of the matrix product", last["gflop_per_second"] / rate)


def views(asked: Asked) -> Iterator[Figure]:
    """Two views at 64^3 by torchio and by MONAI."""
    found = profile(asked, "quick", "supervised", "--peers", "--set", "dataset.size=64", "--set", "dataset.patients=60")
    ours, torchio, monai = (row["volumes_per_second"] for row in found["peers"])
    yield Figure("two views at 64^3", ours, "volumes/s")
    yield Figure("two views at 64^3, ours to torchio's", ours / torchio, target=200 if asked.on_gpu else 4)
    yield Figure("two views at 64^3, ours to MONAI's", ours / monai)


def grid(asked: Asked) -> Iterator[Figure]:
    """The demo's grid once it is finished: its table again, and its report."""
    words = ["run", *DEMO, "--out", asked.folder / "run", "--cache", asked.cache, "--wandb", "off"]
    words += [word for setting in UNTRAINED for word in ("--set", setting)] + ["--device", asked.device]
    seconds(*words)
    yield Figure("bench run on a finished grid", seconds(*words), "s", 10, most=True)
    yield Figure("bench report of it", seconds("report", asked.folder / "run"), "s", 10, most=True)


def commands(asked: Asked) -> Iterator[Figure]:
    """Commands that compute nothing, and how long a worker takes to begin."""
    for words in ("--help", "list methods"):
        yield Figure(f"bench {words}, warm", min(seconds(*words.split()) for _ in range(4)), "s", 0.5, most=True)
    yield Figure("till a worker is at work", _till_at_work(asked), "s", 2, most=True)


def memory(asked: Asked) -> Iterator[Figure]:
    """The peak of a step against what it cannot do without."""
    import footprint

    for what in ("simclr", "fine-tuning"):
        with open_context(asked, "simclr", "dataset.size=64", "dataset.patients=60") as context:
            figure = footprint.peak_to_needed(context, what)
        yield Figure(f"peak of memory to what is needed: {what}", figure, target=1.2, most=True)


def streaming(asked: Asked) -> Iterator[Figure]:
    """A cohort that is larger than the memory, against one that is not: 64^3, as uint8."""
    import streamed

    few, many = 1000, 20_000
    with open_context(asked, "simclr", "dataset.size=64", "dataset.patients=60") as context:
        cost, resident, limited = streamed.cost_of_many(context, asked.folder, few, many, asked.steps)
    yield Figure(f"cost a volume at {many:,}, to that at {few:,}", cost, target=1.1, most=True)
    yield Figure(f"memory at {many:,}{'' if limited else ' (not limited: no right to)'}", resident, "GB", 4, most=True)


PARTS: Mapping[str, Callable[[Asked], Iterator[Figure]]] = {
    part.__name__: part for part in (steps, views, grid, commands, memory, streaming)
}
LONG = ("streaming",)


# --- what they are made of --------------------------------------------------


def seconds(*words: object) -> float:
    """Of one command of ours. Raises RuntimeError, with what it said, where it fails."""
    began = time.perf_counter()
    done = subprocess.run([*BENCH, *map(str, words)], capture_output=True, text=True)
    spent = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"bench {' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
    return spent


def profile(asked: Asked, preset: str, methods: str, *words: object) -> dict[str, Any]:
    """What `bench profile` found."""
    out = asked.folder / "profile"
    seconds(
        "profile", "--preset", preset, "--methods", methods, "--device", asked.device, "--steps", asked.steps,
        "--cache", asked.cache, "--out", out, *words,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((out / "profile.json").read_text(encoding="utf-8"))
    return found


def open_context(asked: Asked, methods: str, *settings: str) -> Any:
    """The context of a run with the preset quick, as a context manager."""
    import torch

    from voxbench.benchmark.commands import profile as command
    from voxbench.benchmark.commands.run import configuration
    from voxbench.benchmark.running.setup import Setup, prepare_bank

    torch.set_num_threads(1)
    given = command.arguments(methods, None, None, "quick", settings, asked.device, asked.cache, asked.folder / "none")
    config, runtime = configuration(given)
    bank = prepare_bank(config, runtime, lambda *_: None)
    return Setup(config=config, runtime=runtime, bank=bank.folder, provenance={}).opened()


def _till_at_work(asked: Asked) -> float:
    """From handing a job to two worker processes until one has begun it, in a run that has just been planned."""
    from voxbench.benchmark.commands import profile as command
    from voxbench.benchmark.commands.run import configuration
    from voxbench.benchmark.running import processes
    from voxbench.benchmark.running.local import Event, Local
    from voxbench.benchmark.running.runner import Run
    from voxbench.benchmark.running.setup import prepare_bank
    from voxbench.benchmark.settings.assemble import build_dataset

    processes.prepare()
    out = asked.folder / "worker"
    given = command.arguments("supervised", None, None, "quick", UNTRAINED, asked.device, asked.cache, out)
    config, runtime = configuration(given)
    bank = prepare_bank(config, runtime, lambda *_: None)
    run = Run.planned(config, runtime, build_dataset(config, None), bank)
    run.open_folder()
    begun: list[float] = []

    def listen(event: Event) -> None:
        if event[0] == "start":
            begun.append(time.perf_counter())

    asked_for = time.perf_counter()
    run.work(run.tasks()[:2], Local(run.setup(workers=2), listen=listen))
    return min(begun) - asked_for


# --- the command ------------------------------------------------------------


def measured(part: str, args: argparse.Namespace, work: Path) -> list[Figure]:
    """What one part finds, in a process of its own."""
    words = [sys.executable, __file__, "--part", part, "--device", args.device, "--steps", str(args.steps)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([*words, "--work", str(work)], stdout=subprocess.PIPE, text=True, env=one_thread)
    if done.returncode != 0:
        raise SystemExit(f"part {part}: failed, as said above")
    return [Figure(*row) for row in json.loads(done.stdout.splitlines()[-1])]


def alone(part: str, args: argparse.Namespace) -> None:
    """One part, here; the last line is what it found."""
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        asked = Asked(device=args.device, steps=args.steps, folder=Path(folder), cache=args.work / "volumes")
        sys.stdout.write("\n" + json.dumps(list(PARTS[part](asked))) + "\n")


def machine(device: str) -> str:
    """The processor or the GPU, in words."""
    import torch

    if device != "cpu":
        return torch.cuda.get_device_name()
    about = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in about.read_text().splitlines() if line.startswith("model name")]
    flags = next((line for line in about.read_text().splitlines() if line.startswith("flags")), "").split()
    units = [name for flag, name in (("avx512f", "AVX-512"), ("amx_tile", "AMX")) if flag in flags]
    return f"{len(names)} cores of {names[0]}{' with ' + ' and '.join(units) if units else ''}"


def recorded(device: str) -> dict[str, Any]:
    """What stands in speed.json of such a device; {} where nothing does."""
    known: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return dict(known.get(device, {}))


def record(device: str, figures: Sequence[Figure]) -> None:
    """Keeps them in speed.json, those of parts left out as they were, and makes the page's table anew."""
    import torch

    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    now = datetime.now(UTC).date().isoformat()
    kept = known.get(device, {}).get("figures", {})
    new = {f.name: {**f._asdict(), "date": now, "machine": machine(device)} for f in figures}
    known[device] = {"date": now, "machine": machine(device), "torch": torch.__version__, "figures": {**kept, **new}}
    RECORD.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    start, end = f"<!-- speed.json: {device} -->\n", f"<!-- end of {device} -->\n"
    page = PAGE.read_text(encoding="utf-8")
    if start in page:
        before, rest = page.split(start)
        PAGE.write_text(before + start + page_table(known[device]) + end + rest.split(end)[1], encoding="utf-8")


def page_table(known: Mapping[str, Any]) -> str:
    """Of docs/performance.md."""
    lines = [
        f"{known['machine']}, PyTorch {known['torch']}:",
        "",
        "| what | measured | target | date |",
        "| --- " * 4 + "|",
    ]
    for row in known["figures"].values():
        figure = Figure(*(row[key] for key in Figure._fields))
        lines.append(f"| {figure.name} | {said(figure)} | {wanted(figure)} | {row['date']} |")
    return "\n".join(lines) + "\n"


def said(figure: Figure) -> str:
    """Its value."""
    digits = ",.0f" if figure.value >= 100 else ".1f" if figure.value >= 10 else ".2f"
    return f"{figure.value:{digits}} {figure.unit}".strip()


def wanted(figure: Figure) -> str:
    """Its target."""
    return "" if figure.target is None else f"{'at most' if figure.most else 'at least'} {figure.target:g}"


def show(figures: Sequence[Figure], before: Mapping[str, Any]) -> None:
    """The table, on standard output."""
    table = Table("what", "now", "target", "", "recorded", title=f"recorded: {before.get('machine', 'nothing yet')}")
    for figure in figures:
        old = before.get("figures", {}).get(figure.name)
        last = "" if old is None else f"{said(figure._replace(value=old['value']))}, {old['date']}"
        reached = {None: "", True: "[green]met[/green]", False: "[red]missed[/red]"}[figure.met]
        table.add_row(figure.name, said(figure), wanted(figure), reached, last)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description="Measures again what voxbench's speed is held to.")
    parser.add_argument("--parts", help=f"of {', '.join(PARTS)}; not given: all")
    parser.add_argument("--short", action="store_true", help=f"without {', '.join(LONG)}")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=10, help="training steps of each kind that are timed")
    parser.add_argument("--record", action="store_true", help="keep the figures in speed.json and the page's table")
    parser.add_argument("--work", type=Path, help="folder of temporary files, below which all is deleted in the end")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        alone(args.part, args)
        return
    parts = args.parts.split(",") if args.parts else [name for name in PARTS if not (args.short and name in LONG)]
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        parser.error(f"--parts {unknown[0]}: choose from {', '.join(PARTS)}")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="voxbench-speed-", dir=args.work) as folder:
        for part in parts:
            began = time.perf_counter()
            figures += measured(part, args, Path(folder))
            sys.stderr.write(f"{part}: {time.perf_counter() - began:.0f} s\n")
    show(figures, recorded(args.device))
    if args.record:
        record(args.device, figures)


if __name__ == "__main__":
    main()
