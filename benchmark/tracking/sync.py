"""From a run folder to W&B: everything that is not there yet, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from voxbench.benchmark.records.store import Store
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.tracking.ledger import Ledger
from voxbench.benchmark.tracking.publish import Mode, Publisher, TrackingError
from voxbench.benchmark.tracking.record import Entry, Records

CLAIM = "wandb"


class BusyError(BenchError):
    """Another process is filling W&B from the same run folder."""


@dataclass(kw_only=True)
class Synced:
    """What one pass did."""

    sent: int = 0
    kept: int = 0  # there before
    problems: list[str] = field(default_factory=list)  # records that could not be sent; the others were


class Syncer:
    """Sends what W&B lacks of one run folder to one place."""

    def __init__(self, run: Path, mode: Mode, project: str) -> None:
        self.run = run
        self.publisher = Publisher(run, mode, project)
        self.ledger = Ledger(run, mode, project)
        # Record -> times of its version and of the tables by which it was judged.
        self._seen: dict[Path, tuple[int, int]] = {}

    def sync(self, *, final: bool) -> Synced:
        """One pass over the folder; with the summary when `final`.

        Raises BusyError, and TrackingError as soon as W&B fails: what was sent until then stays noted.
        """
        claim = Store(self.run).claim(CLAIM)
        if claim is None:
            raise BusyError(f"{self.run}: another process is filling W&B from it: wait until it has ended")
        done = Synced()
        with claim:
            records = Records(self.run)
            for path in records.paths():
                self._record(records, path, done)
            summary = records.summary() if final else None
            if summary is not None:
                self._entry(summary, done)
        return done

    def _record(self, records: Records, path: Path, done: Synced) -> None:
        changed = (path.stat().st_mtime_ns, records.collected)
        if self._seen.get(path) == changed:
            done.kept += 1
            return
        try:
            entry = records.entry(path)
            if entry is not None:
                self._entry(entry, done)
        except TrackingError:
            raise
        except (BenchError, KeyError, TypeError, ValueError) as error:  # this record is damaged; the others are not
            done.problems.append(f"{path.relative_to(self.run)}: cannot be sent ({type(error).__name__}: {error})")
            return
        self._seen[path] = changed

    def _entry(self, entry: Entry, done: Synced) -> None:
        digest = entry.digest
        if self.ledger.has(entry.id, digest):
            done.kept += 1
            return
        self.publisher.publish(entry)
        self.ledger.note(entry.id, digest)
        done.sent += 1
