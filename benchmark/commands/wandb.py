"""What ``bench run --wandb``, ``bench wandb-sync`` and ``bench dashboard`` do."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from voxbench.benchmark.records.recognise import is_run
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.tracking.background import Live
from voxbench.datasets.files import UNWRITABLE, cause

END_WAIT_S = 30.0  # at the end of a run; a slower upload goes on by itself
NO_KEY = "no W&B key: run `wandb login`, or set WANDB_API_KEY"
SERVER = "https://api.wandb.ai"

Choice = Literal["online", "offline", "off"]


def choose(given: str | None) -> Choice:
    """The mode that --wandb asks for, else WANDB_MODE, else online where there is a key.

    Raises BenchError for online without a key: said before the work begins, not after it.
    """
    named = given or os.environ.get("WANDB_MODE")
    if named in ("off", "disabled"):
        return "off"
    if named in ("offline", "dryrun"):
        return "offline"
    if given == "online" and not has_key():
        raise BenchError(f"--wandb online: {NO_KEY}, or use --wandb offline")
    return "online" if has_key() else "off"


def has_key() -> bool:
    """Whether wandb would find a key: in the environment, or where ``wandb login`` leaves it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER).hostname or ""
    try:
        path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):  # RuntimeError: there is no home folder
        return False


def start(run: Path, mode: Choice, project: str, console: Console) -> Live | None:
    """Says in one line what W&B gets, and starts the process that sends it."""
    if mode == "off":
        reason = "" if has_key() else " (no key; --wandb offline needs none)"
        console.print(f"W&B: off{reason}", soft_wrap=True)
        return None
    where = f"project {project}" if mode == "online" else f"files in {run / 'wandb'}"
    console.print(f"W&B: {mode}, {escape(where)}", soft_wrap=True)
    live = Live.start(run, mode, project)
    if live is None:
        console.print(f"[yellow]W&B:[/yellow] its process did not start: {_later(run)}", soft_wrap=True)
    return live


def finish(live: Live | None, run: Path, console: Console) -> None:
    """Waits a little for W&B to be complete, and says so if it is not."""
    problem = live.finish(END_WAIT_S) if live is not None else None
    if problem is not None:
        what = problem if problem.startswith("W&B") else f"W&B: {problem}"
        console.print(f"[yellow]note:[/yellow] {escape(what)}: {_later(run)}", soft_wrap=True)


def sync(run: Path, mode: Literal["online", "offline"], project: str, console: Console) -> int:
    """Sends what W&B lacks; 0, or 1 where a record could not be sent. Raises BenchError."""
    _check(run, mode, ", or use --mode offline")
    from voxbench.benchmark.tracking.sync import Syncer

    try:
        done = Syncer(run, mode, project).sync(final=True)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        what = "what was sent is noted in it: ask its owner for the right to write, or copy it and sync the copy"
        raise BenchError(f"{run}: cannot be written to ({cause(error)}): {what}") from error
    for problem in done.problems:
        console.print(f"[yellow]W&B:[/yellow] {escape(problem)}", soft_wrap=True)
    console.print(f"W&B: {done.sent} runs sent ({mode}), {done.kept} were there before", soft_wrap=True)
    return 1 if done.problems else 0


def dashboard(run: Path, project: str, entity: str | None, console: Console) -> None:
    """Makes or updates the workspace and prints its address. Raises BenchError."""
    _check(run, "online", "")
    from voxbench.benchmark.tracking.dashboard import save

    console.print(f"dashboard: {save(run, project, entity)}", soft_wrap=True)


def _check(run: Path, mode: str, instead: str) -> None:
    if not is_run(run):
        raise BenchError(f"{run}: not a run folder: give the one that `bench run --out` wrote")
    if mode == "online" and not has_key():
        raise BenchError(f"{NO_KEY}{instead}")


def _later(run: Path) -> str:
    return f"the results are safe, and `bench wandb-sync {run}` fills it in"
