"""Carrying out jobs on a cluster: arrays of SLURM, submitted all at once through submitit, each after those it needs.

An array element runs a plain command, ``bench cell RUN KEY ...``, and leaves records in the run folder. Of submitit
this takes the names and the checking of sbatch's parameters, the batch file and its submission. It does not take the
pickled callables that submitit's jobs are made of: whoever can write to the folder could have code run by them, and
what became of a job is told by its record here, not by a pickle or a state that SLURM without accounting forgets.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxbench.benchmark.records.store import own_folder, write_text
from voxbench.benchmark.running.executor import Executor, State
from voxbench.benchmark.running.grid import Grid
from voxbench.benchmark.running.packs import Array, packed
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.site import Site
from voxbench.benchmark.settings.errors import BenchError, nearest
from voxbench.benchmark.settings.keys import digest

FOLDER = Path("private") / "slurm"  # batch files, packs and logs: host names and paths are in them
# States of squeue that end an element for good. NODE_FAIL is none: SLURM has requeued it already.
ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "PREEMPTED", "REVOKED"}
)
ASKS = 5  # times that a controller is asked which does not answer


@dataclass(frozen=True)
class Element:
    """One element of an array, or a job without one, that the scheduler has and that has not ended."""

    name: str  # of its array
    job: str  # SLURM's number of the array
    index: str
    running: bool

    @property
    def id(self) -> str:
        """As SLURM's commands take it."""
        return f"{self.job}_{self.index}" if self.index.isdecimal() else self.job


class Slurm(Executor):
    """The scheduler of a cluster whose machines share the run folder and the cache."""

    def __init__(self, grid: Grid, attempt: int = 0) -> None:
        """`attempt` counts how often jobs were submitted again that had ended without a record."""
        self.grid = grid
        self.site = Site(**grid.site)
        self.attempt = attempt
        self.run = grid.runtime.out.absolute()
        self.folder = self.run / FOLDER
        self.prefix = f"vox-{digest(str(self.run), 8)}-"  # by which the run's jobs are known, whoever submitted them

    def submit(self, tasks: Sequence[Task]) -> str:
        """Submits what is not in the scheduler's hands yet, and the job that makes the tables after all of it."""
        own_folder(self.run, FOLDER.name)
        elements = self._elements()
        held = {key: element.job for element in elements for key in self._keys(element)}
        tasks = [task for task in tasks if task.job.key not in held]
        arrays = packed(tasks, self.site, self.site.max_array or _array_limit())
        for array in arrays:
            after = {held[key] for task in array.tasks for key in task.after if key in held}
            job = self._submit_array(array, sorted(after))
            held |= {task.job.key: job for task in array.tasks}
        before = {element.job for element in elements if element.index.isdecimal()}
        if arrays or not any(not element.index.isdecimal() for element in elements):
            self._collect_after(sorted({*held.values(), *before}))
        waiting = len(held) - len(tasks)
        kept = f"; {waiting} were there already" if waiting else ""
        return f"{len(tasks)} jobs given to SLURM in {len(arrays)} arrays{kept}"

    def poll(self) -> dict[str, State]:
        """Jobs in elements that have not ended; those of a running element may be done already."""
        return {
            key: "running" if element.running else "waiting"
            for element in self._elements()
            for key in self._keys(element)
        }

    def cancel(self) -> str:
        """Cancels all elements of this run."""
        elements = self._elements()
        jobs = sorted({element.job for element in elements})
        if jobs:
            _ask("scancel", *jobs)
        return f"{len(elements)} elements of SLURM were cancelled"

    def _elements(self) -> list[Element]:
        found = []
        for line in _ask("squeue", "-h", "-r", "-t", "all", "--me", "-o", "%j|%F|%K|%T").splitlines():
            name, job, index, state = line.rsplit("|", 3)
            if name.startswith(self.prefix) and state not in ENDED:
                found.append(Element(name=name, job=job, index=index, running=state == "RUNNING"))
        return found

    def _keys(self, element: Element) -> list[str]:
        """Of the jobs of an element; none of the one that makes the tables, nor where their list was damaged."""
        path = self._packs(element.name)
        if not element.index.isdecimal() or not path.exists():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[int(element.index)].split() if int(element.index) < len(lines) else []

    def _packs(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def _submit_array(self, array: Array, after: Sequence[str]) -> str:
        """SLURM's number of the array."""
        what = re.sub(r"[^\w.-]", "_", array.what)  # a third party may call its method anything
        name = f"{self.prefix}{what}-{secrets.token_hex(3)}"
        path = self._packs(name)
        lines = (" ".join(task.job.key for task in pack) for pack in array.packs)
        write_text(path, "".join(f"{line}\n" for line in lines), private=True)
        keys = f'$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(path))})'
        command = f"exec {_bench('cell', self.run)} --only --warning {self.site.warning} {keys}"
        parameters = {**self.site.parameters(array.kind), "map_count": len(array.packs)}
        parameters["array_parallelism"] = self.site.parallel or len(array.packs)
        return self._sbatch(name, command, parameters, after)

    def _collect_after(self, jobs: Sequence[str]) -> None:
        name = f"{self.prefix}collect-{secrets.token_hex(3)}"
        command = f"exec {_bench('collect', self.run)} --attempt {self.attempt}"
        self._sbatch(name, command, self.site.parameters("collect"), jobs)

    def _sbatch(self, name: str, command: str, given: Mapping[str, Any], after: Sequence[str]) -> str:
        executor = _submitit().SlurmExecutor(self.folder)
        extra = {
            # Else a job whose dependency can no longer be met waits for ever.
            "kill-on-invalid-dep": "yes",
            "requeue": True,
            # To the command itself, which has taken the place of the batch shell.
            "signal": f"B:USR2@{self.site.warning}",
            **given.get("additional_parameters", {}),
        }
        own = {name: value for name, value in given.items() if name not in ("additional_parameters", "map_count")}
        executor.update_parameters(
            **own, job_name=name, wckey=None, use_srun=False, stderr_to_stdout=True, additional_parameters=extra
        )
        if after:
            executor.parameters["dependency"] = f"afterany:{':'.join(after)}"
        if "map_count" in given:
            executor.parameters["map_count"] = given["map_count"]
        for left in reversed(range(ASKS)):
            try:
                return str(executor._submit_command(command).job_id)
            except _submitit().core.utils.FailedJobError as error:
                said = " ".join(str(error).split())
                if not left or not _may_answer_later(said):
                    raise BenchError(
                        f"sbatch refuses: {said or 'no reason given'}: mend --slurm and run the same command again; "
                        "what it took before stays"
                    ) from error
                time.sleep(2.0)
        raise AssertionError("not reached")


def check_here(site: Mapping[str, Any]) -> None:
    """Raises BenchError where jobs cannot be given to SLURM from this machine, or with these settings."""
    known = _submitit().SlurmExecutor._valid_parameters()
    for kind in ("stages", "cells", "collect"):
        for name in Site(**site).parameters(kind):
            if name not in known:
                options = {*known, *Site.model_fields}
                raise BenchError(f"--slurm {name}: neither voxbench nor submitit knows it: {nearest(name, options)}")
    for program in ("sbatch", "squeue", "scancel", "srun"):
        if shutil.which(program) is None:
            raise BenchError(f"--executor slurm: there is no {program} here: run it where you submit jobs of SLURM")


def requeue() -> None:
    """Puts the element that this process is in back into the queue. Raises BenchError where SLURM refuses."""
    _ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])


def seconds_left() -> float | None:
    """Of the time limit of the element that this process is in; None outside one, or without a limit."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    text = _ask("squeue", "-h", "-j", os.environ["SLURM_JOB_ID"], "-o", "%L").strip()
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts):  # UNLIMITED, INVALID
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return seconds + 86400 * int(days or 0)


def _bench(command: str, run: Path) -> str:
    return shlex.join([sys.executable, "-u", "-m", "voxbench.benchmark.cli", command, str(run)])


def _array_limit() -> int:
    for line in _ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return int(value)  # elements are 0 ... n - 1
    return 1000


def _ask(*words: str) -> str:
    """What a command of SLURM answers. Raises BenchError where it does not, also when asked again."""
    for left in reversed(range(ASKS)):
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        except FileNotFoundError:
            raise BenchError(f"there is no {words[0]} here: run it where you submit jobs of SLURM") from None
        except subprocess.TimeoutExpired:
            problem = "no answer in 120 s"
        else:
            if done.returncode == 0:
                return done.stdout
            problem = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            if not _may_answer_later(problem):
                break
        time.sleep(2.0 if left else 0.0)
    raise BenchError(f"{words[0]}: {problem}: is SLURM up? Nothing is lost: run the same command again later")


def _may_answer_later(problem: str) -> bool:
    return any(word in problem for word in ("Unable to contact", "timed out", "temporarily", "Connection refused"))


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise BenchError("--executor slurm needs submitit: pip install 'voxbench[slurm]'") from None
    return submitit
