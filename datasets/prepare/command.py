"""`bench prepare` as a function: check everything, then do head after head, then write the tables.

Nothing but DICOM conversions is written before every input has been found good (or `skip_broken` says to go on
without the bad ones).
"""

from __future__ import annotations

import os
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypeVar

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import FULL, UNWRITABLE, explained, is_readable
from voxbench.datasets.prepare import output, store
from voxbench.datasets.prepare.find import find_scans
from voxbench.datasets.prepare.head import Recipe, Task, check_scan, do_head
from voxbench.datasets.prepare.labels import Labels, match, read_labels, two_spellings
from voxbench.datasets.prepare.limits import Limits
from voxbench.datasets.prepare.reference import find_reference
from voxbench.datasets.prepare.scans import Found, Scan, ScanModality, Search

Progress = Callable[[str, int, int], None]  # phase, done, of how many
WORKER_BYTES = 3 * 2**30  # of a CT of 700 x 700 x 500 voxels
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What `bench prepare` is told; lengths in mm. See docs/prepare.md."""

    scans: Path
    out: Path
    labels: Path | None = None
    sheet: str | None = None
    suffix: str | None = None
    id_pattern: str | None = None
    series: str | None = None
    modality: ScanModality = "auto"
    reference: Path | None = None
    centroids: str | None = None
    samples_per_sinus: int = 1
    spread_mm: float = 2.0
    crop_mm: float = 56.0
    size: int = 64
    mirror: Literal["left", "right", "none"] = "right"
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    pool_unlisted: bool = False
    skip_broken: bool = False
    workers: int = 0  # 0: as many as there are cores

    def problems(self) -> list[str]:
        """Settings that cannot be."""
        ranges = (
            ("--samples-per-sinus", self.samples_per_sinus, 1, 1000),
            ("--spread-mm", self.spread_mm, 0, 20),
            ("--crop-mm", self.crop_mm, 20, 200),
            ("--size", self.size, 8, 512),
            ("--workers", self.workers, 0, 1024),
            ("--seed", self.seed, 0, 2**32 - 1),
            ("--min-inside", self.limits.inside, 0, 1),
            ("--max-turn", self.limits.turn, 0, 180),
        )
        problems = [
            f"{name} {value}: must be from {low} to {high}"
            for name, value, low, high in ranges
            if not low <= value <= high
        ]
        if self.sheet is not None and self.labels is None:
            problems.append(f"--sheet {self.sheet}: names a sheet of the labels; add --labels, or leave it out")
        for name, pattern in (("--id-pattern", self.id_pattern), ("--series", self.series)):
            try:
                re.compile(pattern or "")
            except re.error as error:
                problems.append(f"{name} {pattern}: not a regular expression ({error}); mend it")
        return problems


@dataclass(frozen=True)
class PrepareResult:
    """What came of it."""

    out: Path
    heads: int  # in the manifest or excluded
    done_now: int  # heads worked on by this call
    crops: int
    labelled: int  # sinuses with a label among those cropped
    excluded: tuple[dict[str, str], ...]  # rows of excluded.csv
    notes: tuple[str, ...] = ()  # on the inputs, for the user


def prepare(options: PrepareOptions, progress: Progress | None = None) -> PrepareResult:
    """From head scans to sinus crops.

    Raises DatasetError with every problem of the inputs, before any head is worked on.
    """
    tell = progress or (lambda _phase, _done, _total: None)
    problems = options.problems()
    if problems:
        raise DatasetError("settings cannot be used:", problems)
    folder = store.Store(options.out)
    folder.check()
    scans, labels, problems, notes = gather(options, folder)
    recipe = make_recipe(options, problems)
    hashes, broken = check_all(scans, folder, workers_of(options), tell)
    problems += twins(scans, hashes)
    if recipe is None or problems or (broken and not options.skip_broken):
        found = [*problems, *(f"{scan.path}: {why}" for scan, why in broken)]
        raise DatasetError("inputs cannot be used, no head was worked on:", found)
    key = folder.open()
    store.write(folder.private / "seen.json", store.dump(output.seen_entries(scans, hashes)), private=True)
    tasks = [
        Task(
            scan.path.resolve(),
            hashes[scan.path],
            scan.modality,
            store.code_of(key, scan.patient),
            options.out,
            recipe,
        )
        for scan in scans
        if scan.path in hashes
    ]
    records, failures, done_now = do_all(tasks, folder, workers_of(options), tell)
    failures |= {store.code_of(key, scan.patient): why for scan, why in broken}
    people = {store.code_of(key, scan.patient): scan for scan in scans}
    tables = output.Tables.of(records, failures, people, labels)
    output.write_all(folder, tables, records, recipe, failures)
    return PrepareResult(
        out=options.out,
        heads=len(scans),
        done_now=done_now,
        crops=len(tables.manifest),
        labelled=len({row["unit"] for row in tables.manifest if row["label"]}),
        excluded=tuple(tables.excluded),
        notes=tuple(notes),
    )


def gather(options: PrepareOptions, folder: store.Store) -> tuple[list[Scan], Labels | None, list[str], list[str]]:
    """Scans and labels, whatever is wrong with either, and notes."""
    problems: list[str] = []
    found = Found()
    labels: Labels | None = None
    try:
        search = Search(
            folder=folder,
            suffix=options.suffix,
            id_pattern=options.id_pattern,
            series=options.series,
            modality=options.modality,
            reference=options.reference,
        )
        found = find_scans(options.scans, search)
        found.scans = [scan for scan in found.scans if not search.is_reference(scan.path)]  # it may lie among them
        if not found.scans and not found.problems:
            problems.append(f"{options.scans}: no head in here besides the reference")
        problems += [*found.problems, *two_spellings(found.scans)]
    except DatasetError as error:
        problems.append(error.message)
    if options.labels is not None:
        try:
            labels, wrong = read_labels(options.labels, options.sheet)
            problems += wrong
            found.notes += [labels.note] * bool(labels.note)
            if found.scans:
                patients = {s.patient for s in found.scans} | found.named
                problems += match(labels, patients, pool_unlisted=options.pool_unlisted)
        except DatasetError as error:
            problems.append(error.message)
    return found.scans, labels, problems, found.notes


def make_recipe(options: PrepareOptions, problems: list[str]) -> Recipe | None:
    """The recipe; if its reference cannot be used, the reason joins `problems`."""
    try:
        reference = find_reference(options.reference, options.centroids)
        reference.check()
    except DatasetError as error:
        problems.append(error.message)
        return None
    return Recipe(
        reference=reference,
        limits=options.limits,
        samples=options.samples_per_sinus,
        spread_mm=options.spread_mm,
        crop_mm=options.crop_mm,
        size=options.size,
        mirror=options.mirror,
        seed=options.seed,
    )


def workers_of(options: PrepareOptions) -> int:
    """How many processes: as told, or one a core that this process may use, if memory suffices."""
    if options.workers:
        return options.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system tells
        return cores
    return max(1, min(cores, int(memory / WORKER_BYTES)))


def check_all(
    scans: Sequence[Scan], folder: store.Store, workers: int, tell: Progress
) -> tuple[dict[Path, str], list[tuple[Scan, str]]]:
    """Read every scan that an earlier call has not read: content hashes, and what is broken."""
    seen = folder.seen()
    hashes: dict[Path, str] = {}
    todo = []
    for scan in scans:
        known = seen.get(str(scan.path.resolve()))
        if known is not None and is_readable(scan.path) and [output.stamp(scan.path), scan.modality] == known[::2]:
            hashes[scan.path] = known[1]
        else:
            todo.append(scan)
    broken = []
    for done, (scan, outcome) in enumerate(each(check_one, todo, workers), start=1):
        tell("check", done, len(todo))
        sha256, why = ("", unexpected(outcome)) if isinstance(outcome, BaseException) else outcome
        if why:
            broken.append((scan, why))
        else:
            hashes[scan.path] = sha256
    return hashes, sorted(broken, key=lambda found: str(found[0].path))


def check_one(scan: Scan) -> tuple[str, str]:
    """`check_scan` for a worker."""
    return check_scan(scan.path, scan.modality)


def twins(scans: Sequence[Scan], hashes: dict[Path, str]) -> list[str]:
    """A line for each file whose bytes another patient's file has too."""
    counts = Counter(hashes[scan.path] for scan in scans if scan.path in hashes)
    first: dict[str, Scan] = {}
    problems = []
    for scan in scans:
        sha256 = hashes.get(scan.path, "")
        if counts[sha256] < 2:
            continue
        other = first.setdefault(sha256, scan)
        if other.patient != scan.patient:
            problems.append(f"{scan.path}: the same file as {other.path} of another patient; keep one of them")
    return problems


def do_all(
    tasks: Sequence[Task], folder: store.Store, workers: int, tell: Progress
) -> tuple[dict[str, store.Record], dict[str, str], int]:
    """Records by code (kept ones and new ones), failures by code, and the number of heads worked on."""
    records: dict[str, store.Record] = {}
    failures: dict[str, str] = {}
    todo = []
    for task in tasks:
        earlier = folder.record(task.code)
        if earlier is not None and earlier["key"] == task.key() and folder.is_whole(earlier):
            records[task.code] = earlier
        else:
            todo.append(task)
    tell("heads", 0, len(todo))
    for done, (task, outcome) in enumerate(each(do_head, todo, workers), start=1):
        tell("heads", done, len(todo))
        if isinstance(outcome, DatasetError):
            failures[task.code] = outcome.message
        elif isinstance(outcome, OSError) and outcome.errno in FULL | UNWRITABLE:  # the folder's fault, not the scan's
            raise DatasetError(f"{explained(outcome)}; finished heads are kept, run the same again") from outcome
        elif isinstance(outcome, BaseException):
            failures[task.code] = unexpected(outcome)
        else:
            records[task.code] = outcome
    return records, failures, len(todo)


def unexpected(error: BaseException) -> str:
    """A line for what no check foresaw: one odd file must not stop the others. Raises what is no fault of a file."""
    if not isinstance(error, Exception):
        raise error
    place = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    where = f" in {Path(place.filename).name}:{place.lineno}" if place else ""
    return f"could not be worked on ({type(error).__name__}{where}); export the scan again, or report it"


def each(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result | BaseException]]:
    """(item, what `work` returned or raised) for all items, as they finish; in processes if that pays."""
    if workers == 1 or len(items) < 2:
        for item in items:
            try:
                yield item, work(item)
            except Exception as error:  # handed to the caller, who knows which are expected
                yield item, error
        return
    parent = os.getpid()
    pool = ProcessPoolExecutor(
        min(workers, len(items)), mp_context=get_context("spawn"), initializer=end_with, initargs=(parent,)
    )
    try:
        waiting: dict[Future[Result], Item] = {pool.submit(work, item): item for item in items}
        for future in as_completed(waiting):
            fault = future.exception()
            if isinstance(fault, BrokenProcessPool):
                raise DatasetError(
                    "a worker process died (out of memory?); run again with fewer --workers: finished heads are kept"
                ) from fault
            yield waiting[future], fault if fault is not None else future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with(parent: int) -> None:
    """In a worker: ends when its parent is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
