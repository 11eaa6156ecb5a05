"""Whose a folder is: a run's, which `bench run` may add to, or one with other things of the user's, which it may not.

A folder is known by records that only voxbench writes, so that run folders of before are known too, whatever state they
are in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from voxbench.benchmark.settings.errors import BenchError
from voxbench.datasets.files import SYSTEM_FILES, TEMPORARY, cause, remedy

FOLDERS = frozenset(
    {"cells", "stages", "checkpoints", "claims", "report", "wandb", "private", "damaged", "plugins", "tuning"}
)
FILES = frozenset(
    {"config.yaml", "dataset.json", "environment.json", "audit.json", "results.csv", "predictions.csv", "tables.json",
     "tuned.yaml"}
)  # fmt: skip
# What each record has, in every version that wrote one.
_JSON = {
    "dataset.json": {"name", "fingerprint", "classes"},
    "environment.json": {"result_version", "packages"},
    "audit.json": {"outcome", "n_volumes", "planned"},
    "cells/*/*.json": {"result_version", "key", "status"},
    "stages/*/stage.json": {"result_version", "key", "status"},
    "tuning/search.json": {"result_version", "data", "search_seed"},
}
_CONFIG = {"dataset", "encoder", "protocol", "finetune", "methods"}
PROFILE = "profile.json"  # of `bench profile`
_PROFILE = {"device", "matrix_gflop_per_second", "workloads"}
MADE_BY = b"Made by <code>bench "  # at the foot of a report's page
SHOWN = 3  # names in a message


def is_run(folder: Path) -> bool:
    """Whether the folder has a record of a run, or the first file that a run writes and nothing else."""
    if any(_has(path, keys) for pattern, keys in _JSON.items() for path in folder.glob(pattern)):
        return True
    return _is_config(folder / "config.yaml") and not _others(folder, FILES | FOLDERS)


def check_out(out: Path, *, but: Iterable[Path] = ()) -> None:
    """Raises BenchError where `out` is neither new, empty nor a run folder; `but` names what else may lie in it."""
    try:
        run = _run_around(out)
        others = [] if run is not None or not out.is_dir() or is_run(out) else _others(out, {"claims"}, but)
    except OSError as error:
        raise BenchError(f"--out {out}: {cause(error)}: {remedy(error)}") from error
    if run is not None:
        raise BenchError(f"--out {out}: lies inside the run folder {run}: name a folder beside it, or {run} itself")
    if others:
        raise BenchError(_refused(out, "a run's", others, "run"))


def check_pages(out: Path) -> None:
    """Raises BenchError where `out` is neither new, empty nor what an earlier report or comparison left."""
    _check_apart(out, _is_pages, "report")


def check_profile(out: Path) -> None:
    """Raises BenchError where `out` is neither new, empty nor what an earlier `bench profile` left."""
    _check_apart(out, lambda folder: _has(folder / PROFILE, _PROFILE), "profile")


def _check_apart(out: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    """For what stands in a folder of its own, outside any run's."""
    try:
        run = out if is_run(out) else _run_around(out)
        others = [] if run is not None or not out.is_dir() or is_ours(out) else _others(out, ())
        is_file = out.exists() and not out.is_dir()
    except OSError as error:
        raise BenchError(f"--out {out}: {cause(error)}: {remedy(error)}") from error
    if is_file:
        raise BenchError(f"--out {out}: is a file: name a folder")
    if run is not None:
        raise BenchError(f"--out {out}: belongs to the run folder {run}: name a folder of its own")
    if others:
        raise BenchError(_refused(out, f"a {what}'s", others, what))


def _is_pages(folder: Path) -> bool:
    page = folder / "index.html"
    return (folder / "plots" / ".written").is_file() or (page.is_file() and MADE_BY in page.read_bytes())


def _refused(out: Path, whose: str, others: list[str], instead: str) -> str:
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return (
        f"--out {out}: the folder holds things that are not {whose} ({', '.join(others[:SHOWN])}{more}): nothing was "
        f"written; name a new or an empty folder, e.g. --out {out / instead}"
    )


def _run_around(out: Path) -> Path | None:
    """The run folder among whose own files `out` would lie."""
    whole = out.resolve()
    for child, folder in zip((whole, *whole.parents), whole.parents, strict=False):
        if child.name in FOLDERS and is_run(folder):
            return folder
    return None


def _others(folder: Path, known: Iterable[str], but: Iterable[Path] = ()) -> list[str]:
    """What lies in a folder besides `known` names, what the system puts there, and what a killed write left."""
    apart = {path.resolve() for path in but}
    found = [
        path.name
        for path in folder.iterdir()
        if path.name not in {*known, *SYSTEM_FILES}
        and not _is_left_over(path)
        and not any(path.resolve() in (one, *one.parents) for one in apart)
    ]
    return sorted(found, key=lambda name: (name not in FILES, name))  # first what would have been overwritten


def _is_left_over(path: Path) -> bool:
    """A temporary file of ours: `.part-...`, or as earlier versions named them, after the file that it would become."""
    return path.name.startswith((TEMPORARY, *(f".{name}." for name in FILES)))


def _has(path: Path, keys: set[str]) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= keys


def _is_config(path: Path) -> bool:
    """Whether a file is the resolved configuration of a run: a preset that a user wrote names no methods."""
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(found, dict) and found.keys() >= _CONFIG
