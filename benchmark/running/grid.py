"""A grid as it was asked for, kept in the run folder: what other commands need to carry it out, watch it or end it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from voxbench.benchmark.planning.plan import CellPlan, Plan
from voxbench.benchmark.records.recognise import is_run
from voxbench.benchmark.records.store import own_folder, write_text
from voxbench.benchmark.settings.config import Config, Runtime
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import digest

FOLDER = Path("private") / "grids"  # paths of this machine are in them


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Model):
    """One job: what of the grid it belongs to, so that it can be planned again without all the others."""

    kind: Literal["stage", "cell"]
    name: str  # for a person
    method: str
    fraction: float  # of a stage: of the first cell that builds on it
    seed: int
    after: tuple[str, ...]
    effort: float  # expected, in volumes that pass through a network


class Grid(_Model):
    """All jobs of one `bench run`, and what carries them out. Paths are absolute."""

    config: Config
    runtime: Runtime
    bank: Path
    device: str  # as asked for: auto is resolved where the work is done
    executor: Literal["local", "slurm"]
    site: dict[str, Any]  # settings of the executor
    retries: int
    jobs: dict[str, Entry]

    @classmethod
    def of(
        cls,
        plan: Plan,
        efforts: Mapping[str, float],
        config: Config,
        runtime: Runtime,
        bank: Path,
        device: str,
        executor: Literal["local", "slurm"] = "local",
        site: Mapping[str, Any] | None = None,
        retries: int = 1,
    ) -> Self:
        """The grid of a plan."""
        config = config.model_copy(
            update={
                "sources": {name: _absolute(spec) for name, spec in config.sources.items()},
                "dataset": _placed(config.dataset),
                "encoder": _placed(config.encoder),
            }
        )
        places = {"out": runtime.out.absolute(), "cache": runtime.cache.absolute()}
        root = None if runtime.data_root is None else runtime.data_root.absolute()
        return cls(
            config=config,
            runtime=runtime.model_copy(update={**places, "data_root": root}),
            bank=bank.absolute(),
            device=device,
            executor=executor,
            site=dict(site or {}),
            retries=retries,
            jobs=_entries(plan, efforts),
        )

    @property
    def path(self) -> Path:
        """Where it is kept: the same grid in the same file."""
        return self.runtime.out / FOLDER / f"{digest(self.model_dump(mode='json'))}.json"

    def write(self) -> None:
        """Keeps it, as the run folder's current grid."""
        folder = own_folder(self.runtime.out, FOLDER.name)
        newest = max((path.stat().st_mtime_ns for path in folder.glob("*.json")), default=0)
        write_text(self.path, self.model_dump_json() + "\n", private=True)
        if self.path.stat().st_mtime_ns <= newest:  # the clock has gone back
            os.utime(self.path, ns=(newest + 1, newest + 1))

    def narrowed(self, keys: Iterable[str]) -> Config:
        """A configuration whose plan has these jobs and few others: planning a whole grid for one cell takes long."""
        entries = [self.jobs[key] for key in keys]
        methods = {entry.method.partition("@")[0] for entry in entries}
        protocol = self.config.protocol.model_copy(
            update={
                "fractions": tuple(sorted({entry.fraction for entry in entries})),
                "seeds": tuple(sorted({entry.seed for entry in entries})),
            }
        )
        return self.config.model_copy(
            update={
                "methods": {name: options for name, options in self.config.methods.items() if name in methods},
                "protocol": protocol,
            }
        )


def current_grid(run: Path, holding: Sequence[str] = ()) -> Grid:
    """The run folder's latest grid, or the latest that has these jobs.

    Raises BenchError where there is none. The folder may have been moved since: it is where it is found.
    """
    if not is_run(run):
        raise BenchError(f"{run}: not a run folder: give the one that `bench run --out` wrote")
    try:
        paths = sorted((run / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in paths:
            grid = _read(path)
            if set(holding) <= grid.jobs.keys():
                return grid.model_copy(update={"runtime": grid.runtime.model_copy(update={"out": run})})
    except PermissionError:
        raise BenchError(f"{run / FOLDER}: its owner alone may read it: ask the one who started the run") from None
    if holding and paths:
        unknown = sorted(key for key in holding if key not in _read(paths[0]).jobs)
        raise BenchError(f"{run}: no job has the key {', '.join(unknown[:3])}: `bench status {run} --keys` lists them")
    raise BenchError(f"{run}: no grid was kept here: run `bench run` with --out {run} once more")


def _read(path: Path) -> Grid:
    try:
        return Grid.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        what = "not a grid of this version of voxbench"
        raise BenchError(f"{path}: {what}: delete it, and run the same `bench run` again") from error


def _entries(plan: Plan, efforts: Mapping[str, float]) -> dict[str, Entry]:
    first: dict[str, CellPlan] = {}  # a stage's first cell
    for cell in plan.cells.values():
        for key in cell.stages:
            first.setdefault(key, cell)
    stages = {
        key: Entry(
            kind="stage",
            name=stage.title,
            method=stage.method,
            fraction=first[key].fraction,
            seed=stage.seed,
            after=stage.upstream,
            effort=efforts[key],
        )
        for key, stage in plan.stages.items()
    }
    cells = {
        key: Entry(
            kind="cell",
            name=cell.name,
            method=cell.method,
            fraction=cell.fraction,
            seed=cell.seed,
            after=cell.stages,
            effort=efforts[key],
        )
        for key, cell in plan.cells.items()
    }
    return {**stages, **cells}


def _placed(plugin: Any) -> Any:
    return plugin if plugin.source is None else plugin.model_copy(update={"source": _absolute(plugin.source)})


def _absolute(spec: str) -> str:
    file, _, name = spec.rpartition(":")
    return f"{Path(file).absolute()}:{name}"
