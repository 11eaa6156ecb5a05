"""What a cluster's site asks of its jobs: partition, time, memory and limits, from the command line or a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.model import validated
from voxbench.benchmark.settings.presets import merge, parse_setting, plain_yaml

OURS = frozenset(  # what voxbench sets, or could not keep: the command takes the place of the batch shell
    {"dependency", "job_name", "array_parallelism", "signal_delay_s", "use_srun", "stderr_to_stdout", "teardown"}
)
NO_GPU: dict[str, Any] = {"gpus_per_node": None, "gpus_per_task": None, "gres": None}


class Site(BaseModel):
    """Settings of `--slurm`. What is not named here goes to sbatch, by the names that submitit has for it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    time: int | str = Field(default="4:00:00", description="limit of an array element, as sbatch takes it")
    warning: int = Field(default=120, ge=1, description="seconds before that limit in which an element stops by itself")
    pack: int | None = Field(default=None, ge=1, description="cells an array element; not given: as long as a stage")
    max_array: int | None = Field(default=None, ge=1, description="elements an array; not given: as SLURM says")
    max_jobs: int | None = Field(default=None, ge=2, description="elements that the site lets one user submit")
    parallel: int | None = Field(default=None, ge=1, description="elements of an array that run at the same time")
    stages: dict[str, Any] = Field(default={}, description="what differs for pretraining stages")
    cells: dict[str, Any] = Field(default={}, description="what differs for fine-tuning cells")
    collect: dict[str, Any] = Field(default={}, description="what differs for the job that makes the tables")

    def parameters(self, kind: str) -> dict[str, Any]:
        """submitit's parameters of one kind of job: "stages", "cells" or "collect". Raises BenchError."""
        own = {**(NO_GPU if kind == "collect" else {}), **getattr(self, kind)}
        given = {"time": self.time, **(self.model_extra or {}), **own}
        wrong = sorted(OURS & given.keys())
        if wrong:
            raise BenchError(f"--slurm {wrong[0]}: voxbench sets it: leave it out")
        return {name: value for name, value in given.items() if value is not None}


def site_settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings from ``key=value,key=value`` and YAML files, later ones over earlier ones. Raises BenchError."""
    data: dict[str, Any] = {}
    for word in words:
        data = merge(data, _read(word) if "=" not in word else _listed(word))
    return validated(Site, data, "--slurm").model_dump()


def _listed(word: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for part in filter(None, word.split(",")):
        if "=" not in part:
            raise BenchError(f"--slurm {word}: expected key=value with commas between, or a YAML file")
        data = merge(data, parse_setting(part))
    return data


def _read(word: str) -> Mapping[str, Any]:
    try:
        data = plain_yaml(Path(word).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BenchError(
            f"--slurm {word}: not a readable YAML file ({str(error).splitlines()[0]}): give key=value, or the file of "
            "your site's settings"
        ) from error
    if not isinstance(data, Mapping):
        raise BenchError(f"--slurm {word}: expected a mapping of settings, such as partition: gpu")
    return data
