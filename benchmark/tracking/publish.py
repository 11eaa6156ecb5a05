"""The one piece of code that calls wandb to make a W&B run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import wandb

from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.tracking.record import Entry, TableData

Mode = Literal["online", "offline"]
NOBODY = "voxbench"  # in place of the names of host, user and program, which wandb would otherwise look up
DATA_DIR = "WANDB_DATA_DIR"
PLAIN_PLACES = ("/tmp", "/var/tmp")  # rather than TMPDIR, which may have a user's or a study's name in it
INIT_TIMEOUT_S = 20.0
FINISH_TIMEOUT_S = 300.0


class TrackingError(BenchError):
    """W&B cannot be reached, or does not take what it is sent."""


class Publisher:
    """Makes W&B runs of entries.

    Offline, wandb's files lie in ``RUN/wandb/offline-run-<time>-<id>``, one folder an id. Online, they lie in a
    temporary folder: the run folder has everything that is in them. wandb tells the server from which places it takes
    an artifact's files, so online those are copies in that folder, whose name says nothing.
    """

    def __init__(self, run: Path, mode: Mode, project: str) -> None:
        self.run = run
        self.mode = mode
        self.project = project

    def publish(self, entry: Entry) -> None:
        """Makes, replaces or completes the W&B run of `entry`, and waits until it is written or sent.

        Raises TrackingError, with one line that names the cause.
        """
        try:
            with self._folder(entry.id) as folder:
                self._send(entry, folder)
        except Exception as error:  # wandb has errors of many kinds, and none of them is the user's results
            wandb.teardown(exit_code=1)  # else its service holds the id as "in use", and a second try fails
            raise TrackingError(f"W&B ({self.mode}): {one_line(error)}") from error

    def _send(self, entry: Entry, folder: Path) -> None:
        online = self.mode == "online"
        run = wandb.init(
            project=self.project,
            id=entry.id,
            name=entry.name,
            group=entry.group,
            job_type=entry.job_type,
            tags=list(entry.tags),
            config=entry.config,
            allow_val_change=True,
            # One id is one run, however often it is sent. Offline there is nothing to go on from.
            resume="allow" if online else None,
            reinit="create_new",
            settings=private_settings(self.mode, folder),
        )
        try:
            self._fill(run, entry)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish(exit_code=1 if entry.failed else 0)

    def _fill(self, run: Any, entry: Entry) -> None:
        charts = _charts(entry)
        points = [dict(point) for point in entry.history]
        if entry.kind != "summary":
            # A step that the server has is not taken twice; so the last point and the chart go together.
            last = points.pop() if points else {"step": 0}
            for point in points:
                run.log({k: v for k, v in point.items() if k != "step"}, step=point["step"])
            row = {**{k: v for k, v in last.items() if k != "step"}, **charts}
            if row:
                run.log(row, step=last["step"])
        else:
            run.log(charts)  # at a step of its own, since the tables of a growing run change: the last ones count
        run.summary.update(entry.summary)
        if entry.files:
            self._log_report(run, entry)

    def _log_report(self, run: Any, entry: Entry) -> None:
        artifact = wandb.Artifact(f"{entry.config['experiment']}-report", type="report")
        folder = self.run / "wandb" / "report"
        for name in entry.files:
            policy = "mutable" if self.mode == "online" else "immutable"  # the former copies it first
            artifact.add_file(str(folder / name), name=name, skip_cache=True, policy=policy)
        run.log_artifact(artifact)

    @contextmanager
    def _folder(self, identity: str) -> Iterator[Path]:
        if self.mode == "online":
            place = next((place for place in PLAIN_PLACES if os.access(place, os.W_OK)), None)
            with (
                tempfile.TemporaryDirectory(prefix="voxbench-", dir=place, ignore_cleanup_errors=True) as temporary,
                _copies_in(temporary),
            ):
                yield Path(temporary)
            return
        # What an earlier, perhaps killed, process wrote of this run gives way.
        for earlier in (self.run / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(earlier)
        yield self.run.resolve()


@contextmanager
def _copies_in(folder: str) -> Iterator[None]:
    """Lets wandb put its copies of an artifact's files there for a block, and not into the user's home."""
    before = os.environ.get(DATA_DIR)
    os.environ[DATA_DIR] = folder
    try:
        yield
    finally:
        del os.environ[DATA_DIR]
        os.environ.update({} if before is None else {DATA_DIR: before})


def private_settings(mode: Mode, folder: Path) -> Any:
    """Settings under which wandb collects nothing by itself: no host, user, program, path, git or system data."""
    return wandb.Settings(
        mode=mode,
        root_dir=str(folder),
        host=NOBODY,
        username=NOBODY,
        email="",
        program=NOBODY,
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        silent=True,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
    )


def one_line(error: BaseException) -> str:
    """What wandb says is wrong, without its advice to programmers."""
    said = str(error).partition("Consider ")[0]
    return " ".join(said.split()) or type(error).__name__


def _charts(entry: Entry) -> dict[str, Any]:
    """W&B tables, and line charts of those that are curves."""
    charts: dict[str, Any] = {}
    for name, data in entry.tables.items():
        table = _table(data)
        if name == "pr_curve":
            charts[name] = wandb.plot.line(table, "recall", "precision", stroke="class", title="Precision and recall")
        elif name == "label_fraction":
            charts[name] = wandb.plot.line(table, "fraction", "auprc", stroke="method", title="AUPRC by label fraction")
        else:
            charts[name] = table
    return charts


def _table(data: TableData) -> Any:
    return wandb.Table(columns=data.columns, data=data.rows, allow_mixed_types=True)
