"""What a volume costs of a cohort that does not fit into memory; a part of speed.py."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from voxbench.benchmark.training import speed
from voxbench.benchmark.training.context import Context
from voxbench.datasets.base import Item
from voxbench.datasets.volumes.bank import FORMAT, VolumeBank
from voxbench.datasets.volumes.copies import BLOCKS

SIDE = 64
DIFFERENT = 64  # volumes; the others are those again
LIMIT = 4 * 2**30
GROUPS = Path("/sys/fs/cgroup/memory")  # version 1
GROUPS_2 = Path("/sys/fs/cgroup")


def cost_of_many(context: Context, folder: Path, few: int, many: int, steps: int) -> tuple[float, float, bool]:
    """Seconds a volume of SimCLR's loop at `many` to those at `few`, GB held at most, and whether 4 GB was the limit.

    Both take turns. Neither is in the page cache at first; of `many` each batch is read from the disk.
    """
    banks = [_bank(folder / str(count), count) for count in (few, many)]
    with _at_most(LIMIT) as limited:
        works = [next(speed.workloads(replace(context, bank=bank), "simclr", 8)) for bank in banks]
        for work in works:
            work.loader.seed = 1
        at_few, at_many = speed.rates(works[0], [work.loader for work in works], 3 * steps)
    status = Path("/proc/self/status").read_text().splitlines()
    held = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("RssAnon", "VmHWM"))}
    for count in (few, many):
        shutil.rmtree(folder / str(count))
    return at_few / at_many, held["VmHWM" if limited else "RssAnon"] / 2**20, limited


def _bank(folder: Path, count: int) -> VolumeBank:
    """A bank of noise, whose files are not in the page cache."""
    folder.mkdir(parents=True)
    shape = (1, SIDE, SIDE, SIDE)
    rng = np.random.default_rng(0)
    volumes = rng.integers(0, 256, (DIFFERENT, *shape), dtype=np.uint8)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    with (folder / "volumes.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for index in range(count):
            file.write(volumes[index % DIFFERENT].tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    np.save(folder / "blocks.npy", np.zeros((count, BLOCKS, BLOCKS, BLOCKS), np.float16))
    items = [asdict(Item(volume=f"v{i}", patient=f"p{i}", label=i % 2)) for i in range(count)]
    meta = {
        "format": FORMAT,
        "complete": True,
        "dataset": "noise",
        "fingerprint": f"noise {count}",
        "shape": shape,
        "storage": "uint8",
        "checksums": {},
        "hashes": [f"{i:032x}" for i in range(count)],
        "items": items,
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return VolumeBank(folder)


@contextmanager
def _at_most(limit: int) -> Iterator[bool]:
    """This process, and its page cache, under a limit of memory, where there is a right to set one."""
    root, knob = (GROUPS, "memory.limit_in_bytes") if GROUPS.is_dir() else (GROUPS_2, "memory.max")
    group = root / f"voxbench-speed-{os.getpid()}"
    try:
        group.mkdir()
        (group / knob).write_text(str(limit))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        if group.is_dir():
            group.rmdir()
        yield False
        return
    try:
        yield True
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
