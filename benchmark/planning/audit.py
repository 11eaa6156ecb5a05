"""The leak audit: no test patient, and no copy of a test volume, in anything that shaped the model it is scored with.

It looks at patients, also at ids that may be one person's in two spellings, at volume hashes (blind to left-right
mirroring), and at copies that were shifted, turned, rescaled, flipped or changed in contrast; first at what is planned,
and after the run at what the loaders really served. The proof is ``audit.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from voxbench.benchmark.planning.plan import Plan
from voxbench.benchmark.settings.config import AuditConfig
from voxbench.benchmark.settings.errors import AuditError
from voxbench.datasets.tables.ids import alike, difference, same
from voxbench.datasets.volumes.bank import VolumeBank
from voxbench.datasets.volumes.copies import PROMISE

SPELLINGS = "patient ids that may be one person's in two spellings"
SAME = "one patient id in two spellings"
EQUAL = "the same volume (by content, mirrored or not)"
NEAR = "nearly the same volume (moved, resampled, flipped or in another contrast)"
TWO_IDS = "one volume under two patient ids"
REMEDIES = {
    SAME: "write each person's id in one way",
    SPELLINGS: "write each person's id in one way; if they are two people, let the ids differ by more, or --set "
    "audit.patient_ids=warn",
}


@dataclass(kw_only=True)
class Finding:
    """One overlap; positions are in the bank's items."""

    where: str
    what: str
    pairs: list[tuple[int, int]]  # (position outside the test part, position in it)
    tested: bool = True  # False: no split of this plan has one of them in its test part and not the other
    spellings: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Where patient ids are written in two ways: each pair of ids, and whose. For the user's eyes, never recorded."""


@dataclass(kw_only=True)
class Audit:
    """Checks made and what they found."""

    checks: dict[str, int] = field(default_factory=dict)  # what was checked -> how many comparisons of two sets
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def record(self, code: Callable[[int], str]) -> dict[str, Any]:
        """For ``audit.json``; `code` gives the salted name of a volume."""

        def told(finding: Finding) -> dict[str, Any]:
            pairs = [[code(a), code(b)] for a, b in finding.pairs[:20]]
            return {"where": finding.where, "what": finding.what, "n": len(finding.pairs), "pairs": pairs}

        return {
            "outcome": "leak" if self.findings else "clean",
            "checks": [{"what": what, "comparisons": n} for what, n in self.checks.items()],
            "findings": [told(f) for f in self.findings],
            "warnings": [told(f) for f in self.warnings],
        }

    def count(self, what: str) -> None:
        """Notes one more comparison of a kind."""
        self.checks[what] = self.checks.get(what, 0) + 1

    def refuse(self, name: Callable[[int], str]) -> None:
        """Raises AuditError if anything was found; `name` gives a volume's name for the user's eyes."""
        if not self.findings:
            return
        lines = []
        if others := [finding for finding in self.findings if not finding.spellings]:
            first = others[0]
            pairs = sum(len(finding.pairs) for finding in others)
            a, b = first.pairs[0]
            lines.append(
                f"leak: {first.where}: {first.what}: {name(a)} and {'test volume ' if first.tested else ''}{name(b)}"
                f" ({pairs} such pairs in all, listed in audit.json): remove the copies, give "
                "volumes of one person one patient id, or look at near-duplicates and --set audit.near_duplicates=warn"
            )
        for what, remedy in REMEDIES.items():
            if spelt := [finding for finding in self.findings if finding.what == what]:
                lines.append(f"leak: {spelt[0].where}: {what}: {remedy}:")
                lines += _lines({ids: pair for finding in spelt for ids, pair in finding.spellings.items()}, name)
        raise AuditError("\n".join(lines))

    def warned(self, name: Callable[[int], str]) -> Iterator[str]:
        """The warnings for the user's own eyes, each two spellings of an id once; `name` gives a volume's name."""
        shown: set[frozenset[str]] = set()
        for warning in self.warnings:
            new = {ids: pair for ids, pair in warning.spellings.items() if frozenset(ids) not in shown}
            shown |= {frozenset(ids) for ids in new}
            told = f"{warning.where}: {warning.what}"
            if warning.pairs and not warning.spellings:
                a, b = warning.pairs[0]
                told += f": {name(a)} and {name(b)} ({len(warning.pairs)} such pairs, listed in audit.json)"
            yield "\n".join([told, *_lines(new, name)])


def _lines(spellings: Mapping[tuple[str, str], tuple[int, int]], name: Callable[[int], str]) -> list[str]:
    each = {frozenset(ids): (ids, pair) for ids, pair in spellings.items()}  # not both ways round
    return [
        f"  - {one!r} ({name(a)}) and {other!r} ({name(b)}) differ by {difference(one, other)}"
        for (one, other), (a, b) in sorted(each.values())
    ]


def near_duplicates(config: AuditConfig) -> dict[str, Any]:
    """For ``audit.json``: which copies are looked for, how surely they are found, and what was done with them."""
    if config.near_duplicates == "off":
        return {"looked_for": [], "action": "off"}
    return {"looked_for": list(PROMISE), "action": config.near_duplicates, "likeness": config.likeness}


def audit_plan(plan: Plan, bank: VolumeBank, config: AuditConfig) -> Audit:
    """Checks every set that a stage or cell is going to see against the tests that it must not know."""
    audit = Audit()
    judge = _Judge(audit, bank, config)
    for cell in plan.cells.values():
        for part, members in (("training part", cell.train), ("validation part", cell.val)):
            judge.compare(f"{part} of fold {cell.fold}", members, cell.test)
        if cell.pool:
            judge.compare(f"unlabelled volumes for {cell.method} in fold {cell.fold}", cell.pool, cell.test)
        judge.compare(f"training part of fold {cell.fold} against validation", cell.train, cell.val)
        for key in cell.stages:
            stage = plan.stages[key]
            judge.compare(f"pretraining stage {stage.name!r} for fold {cell.fold}", stage.members, cell.test)
            if stage.labels:
                judge.compare(f"labels of stage {stage.name!r} against validation", stage.labels, cell.val)
    judge.note_others()
    judge.note_two_ids()
    return audit


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a cell that stands in the tables was really given, by volume hash."""

    key: str
    name: str
    parts: Mapping[str, Sequence[str]]  # train, val, test, and of a predictor the pool -> hashes
    stages: Mapping[str, Sequence[str]]  # key -> hashes


def audit_seen(plan: Plan, bank: VolumeBank, cells: Sequence[Served], *, copies: bool = True) -> Audit:
    """Checks what was really served, also to cells of earlier plans that still stand in the tables.

    Near-duplicates of the latter are warnings: whether they are refused was asked when they were made. Without
    `copies` they are not looked for.
    """
    audit = Audit()
    positions: dict[str, list[int]] = {}
    for i, value in enumerate(bank.hashes):
        positions.setdefault(value, []).append(i)

    def served(hashes: Iterable[str]) -> set[int]:
        return {i for value in hashes for i in positions.get(value, [])}

    now = _Judge(audit, bank, AuditConfig(near_duplicates="off", patient_ids="warn"))  # looked for in the plan
    before = _Judge(audit, bank, AuditConfig(near_duplicates="warn" if copies else "off", patient_ids="warn"))
    for cell in cells:
        tested = served(cell.parts["test"])
        if cell.key in plan.cells:
            audit.count("all of the test part was scored, and nothing else")
            scored, planned = set(cell.parts["test"]), {bank.hashes[i]: i for i in plan.cells[cell.key].test}
            if odd := sorted({*served(scored - planned.keys()), *(planned[h] for h in planned.keys() - scored)}):
                what = "scored volumes are not the planned test part: delete the cell's file"
                audit.findings.append(Finding(where=cell.name, what=what, pairs=[(i, i) for i in odd]))
        all_served = {value for given in (*cell.parts.values(), *cell.stages.values()) for value in given}
        if strange := all_served - positions.keys():
            what = f"{len(strange)} served volumes are not in the data, and were compared with nothing: delete its file"
            audit.warnings.append(Finding(where=cell.name, what=what, pairs=[]))
        judge = now if cell.key in plan.cells else before
        for part in ("train", "val", *({"pool"} & cell.parts.keys())):
            judge.compare(f"{part} volumes served for {cell.name}", served(cell.parts[part]), tested)
        for stage, hashes in cell.stages.items():
            judge.compare(f"volumes served to stage {stage}", served(hashes), tested)
    return audit


def audit_search(
    plan: Plan, bank: VolumeBank, config: AuditConfig, closed: Set[int], served: Sequence[Served]
) -> Audit:
    """Checks that nothing that a search plans, or was served so far, is of the patients whose volumes are `closed`."""
    audit = Audit()
    judge = _Judge(audit, bank, config)
    for cell in plan.cells.values():
        for what, members in (("training", cell.train), ("inner validation", cell.val), ("validation", cell.test)):
            judge.compare(f"{what} part of the search in fold {cell.fold} against its test part", members, closed)
        judge.compare(f"unlabelled volumes for {cell.method} in a search", cell.pool, closed)
        for stage in (plan.stages[key] for key in cell.stages):
            judge.compare(f"pretraining stage {stage.name!r} of a search", stage.members, closed)
    positions: dict[str, set[int]] = {}
    for i, value in enumerate(bank.hashes):
        positions.setdefault(value, set()).add(i)
    for one in served:
        for part, hashes in {**one.parts, **one.stages}.items():
            given = {i for value in hashes for i in positions.get(value, ())}
            judge.compare(f"volumes served in the search ({part}) for {one.name}", given, closed)
    return audit


class _Judge:
    """Compares sets once each: many cells share them."""

    def __init__(self, audit: Audit, bank: VolumeBank, config: AuditConfig) -> None:
        self.audit = audit
        self.bank = bank
        self.config = config
        self.done: set[tuple[frozenset[int], frozenset[int]]] = set()
        self.ids = [str(item.patient) for item in bank.items]
        self.people = [same(name) for name in self.ids]
        key_of = {name: alike(name) for name in set(self.people)}
        self.keys = [key_of[name] for name in self.people]

    @cached_property
    def copies(self) -> list[tuple[int, int]]:
        """Pairs of different patients that are copies, and not equal: looked for when they are first asked for."""
        if self.config.near_duplicates == "off":
            return []
        hashes = self.bank.hashes
        alike = [copy for copy in self.bank.copies if copy.likeness >= self.config.likeness]
        return [(copy.a, copy.b) for copy in alike if hashes[copy.a] != hashes[copy.b]]

    def compare(self, where: str, members: Iterable[int], tested: Iterable[int]) -> None:
        """Finds shared patients, equal volumes and near-duplicates of two sets of positions."""
        a, b = frozenset(members), frozenset(tested)
        if (a, b) in self.done:
            return
        self.done.add((a, b))
        self._match(where, "the same patient", a, b, self.ids)
        self._match_spellings(where, a, b)
        self._match(where, EQUAL, a, b, self.bank.hashes)
        if self.config.near_duplicates == "off":
            return
        self.audit.count(NEAR)
        pairs = [(i, j) for pair in self.copies for i, j in (pair, pair[::-1]) if i in a and j in b]
        self._note_near(Finding(where=where, what=NEAR, pairs=pairs), refused=True)

    def note_two_ids(self) -> None:
        """Finds copies under two patient ids that no comparison has brought together.

        One person counts as two then, and another draw of the folds would have divided them: refused. Where an official
        split keeps them in one part for good, or one has no label and so is never tested, they are a warning.
        """
        found = (*self.audit.findings, *self.audit.warnings)
        known = {frozenset(pair) for finding in found if finding.what in (EQUAL, NEAR) for pair in finding.pairs}
        for exact, twins in ((True, self._equal()), (False, self.copies)):
            alone = [pair for pair in twins if frozenset(pair) not in known]
            drawn = [(a, b) for a, b in alone if self._drawn(a) and self._drawn(b)]
            for pairs, refused in ((drawn, True), ([pair for pair in alone if pair not in drawn], False)):
                finding = Finding(where="on one side", what=TWO_IDS, pairs=pairs, tested=False)
                if exact and refused and pairs:
                    self.audit.findings.append(finding)
                else:
                    self._note_near(finding, refused)

    def note_others(self) -> None:
        """Warns of two spellings that no comparison has brought together: one person would count as two."""
        found = {ids for finding in (*self.audit.findings, *self.audit.warnings) for ids in finding.spellings}
        everyone = frozenset(range(len(self.ids)))
        spellings = {
            (one, other): pair
            for (one, other), pair in self._spellings(everyone, everyone).items()
            if one < other and not {(one, other), (other, one)} & found
        }
        if spellings:
            what = f"{SPELLINGS}: one person would count as two"
            finding = Finding(where="on one side", what=what, pairs=list(spellings.values()), spellings=spellings)
            self.audit.warnings.append(finding)

    def _note_near(self, finding: Finding, refused: bool) -> None:
        if finding.pairs:
            refused = refused and self.config.near_duplicates == "refuse"
            (self.audit.findings if refused else self.audit.warnings).append(finding)

    def _drawn(self, i: int) -> bool:
        """Whether a draw decides in which fold a volume is tested."""
        return self.bank.items[i].label is not None and self.bank.items[i].split is None

    def _equal(self) -> list[tuple[int, int]]:
        """Pairs of different patients that are equal: each with the first of its kind."""
        first: dict[str, int] = {}
        pairs = [(first.setdefault(value, i), i) for i, value in enumerate(self.bank.hashes)]
        return [(i, j) for i, j in pairs if self.ids[i] != self.ids[j]]

    def _match(self, where: str, what: str, a: frozenset[int], b: frozenset[int], names: Sequence[str]) -> None:
        self.audit.count(what)
        tested = {names[j]: j for j in sorted(b)}
        pairs = [(i, tested[names[i]]) for i in sorted(a) if names[i] in tested]
        if pairs:
            self.audit.findings.append(Finding(where=where, what=what, pairs=pairs))

    def _match_spellings(self, where: str, a: frozenset[int], b: frozenset[int]) -> None:
        self.audit.count(SPELLINGS)
        found = self._spellings(a, b)
        certain = {ids: (i, j) for ids, (i, j) in found.items() if self.people[i] == self.people[j]}
        likely = {ids: pair for ids, pair in found.items() if ids not in certain}
        for what, spellings, refused in (
            (SAME, certain, True),
            (SPELLINGS, likely, self.config.patient_ids == "refuse"),
        ):
            if spellings:
                finding = Finding(where=where, what=what, pairs=list(spellings.values()), spellings=spellings)
                (self.audit.findings if refused else self.audit.warnings).append(finding)

    def _spellings(self, a: frozenset[int], b: frozenset[int]) -> dict[tuple[str, str], tuple[int, int]]:
        """Each two different ids of one key, the first in `a` and the other in `b`, with a volume of each."""
        there: dict[str, dict[str, int]] = {}
        for j in sorted(b):
            there.setdefault(self.keys[j], {}).setdefault(self.ids[j], j)
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for i in sorted(a):
            for other, j in there.get(self.keys[i], {}).items():
                if other != self.ids[i]:
                    found.setdefault((self.ids[i], other), (i, j))
        return found
