"""The radiologist's spreadsheet: patient, side, finding or label -> a label for each sinus."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from voxbench.datasets.prepare.quality import SIDES, Side
from voxbench.datasets.prepare.scans import PATIENT_COLUMNS, Scan, patient_id
from voxbench.datasets.tables.ids import AS_TEXT, alike, difference, look_alikes, rounded
from voxbench.datasets.tables.reader import read_table
from voxbench.datasets.tables.words import names_nobody, plain, says_unknown, stands_for_nothing, whole_number

NORMAL, ANOMALOUS, OTHER = "normal", "anomalous", "other"
FINDINGS = {  # words in a sheet -> finding class (Bhattacharya et al., IJCARS 2024: four anomalies and normal)
    "normal": "normal", "none": "normal", "healthy": "normal", "no finding": "normal",
    "mucosal thickening": "mucosal thickening", "thickening": "mucosal thickening",
    "polyp": "polyp",
    "retention cyst": "retention cyst", "cyst": "retention cyst",
    "fully opacified": "fully opacified", "opacified": "fully opacified", "opacification": "fully opacified",
}  # fmt: skip
LABELS = {
    "0": NORMAL, "normal": NORMAL, "no": NORMAL, "false": NORMAL, "healthy": NORMAL,
    "1": ANOMALOUS, "anomalous": ANOMALOUS, "anomaly": ANOMALOUS, "yes": ANOMALOUS,
    "true": ANOMALOUS, "abnormal": ANOMALOUS,
}  # fmt: skip
SIDE_WORDS: dict[str, tuple[Side, ...]] = {
    "left": ("left",), "l": ("left",), "right": ("right",), "r": ("right",), "both": SIDES,
}  # fmt: skip


@dataclass(frozen=True)
class Label:
    """What is known of one sinus."""

    label: str  # NORMAL or ANOMALOUS
    finding: str = ""  # public: one of the known classes, OTHER, or not told
    told: str = ""  # private: the cell as it is, for people write names and dates into it


@dataclass(frozen=True)
class Labels:
    """The sheet: labels by patient and side, and who is listed at all (without a label: the unlabelled pool)."""

    known: dict[tuple[str, Side], Label] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()  # who may be meant by rows that could not be read
    note: str = ""  # for the user


def read_labels(path: Path, worksheet: str | None = None) -> tuple[Labels, list[str]]:
    """The labels and every problem of the sheet; raises DatasetError if it cannot be read at all.

    A row whose finding and label are both empty puts the patient (or that side) into the unlabelled pool. `worksheet`
    names one of several in a workbook.
    """
    table = read_table(
        path,
        {"patient": PATIENT_COLUMNS, "side": ("side", "laterality")},
        {"finding": ("finding", "findings", "diagnosis"), "label": ("label", "anomaly")},
        one_of=("finding", "label"),
        sheet=worksheet,
    )
    known: dict[tuple[str, Side], Label] = {}
    first: dict[tuple[str, Side], int] = {}
    listed, problems = set(), list(table.problems)
    for number, row in table.rows:
        where = f"{path.name} row {number}"
        patient = patient_id(row["patient"])
        if not patient or names_nobody(patient):
            told = f" ({row['patient']} names nobody)" if patient else ""
            problems.append(f"{where}: the patient is missing{told}; fill it in")
            continue
        if rounded(row["patient"]):
            problems.append(f"{where}: patient {row['patient']} {AS_TEXT}")
            continue
        listed.add(patient)
        label, problem = label_of(row["finding"], row["label"])
        sides = SIDE_WORDS.get(plain(row["side"]))
        if problem:
            problems.append(f"{where}: patient {patient}: {problem}")
        elif row["side"] and sides is None:
            problems.append(f"{where}: patient {patient}: {wrong_side(row['side'], label)}")
        elif label is not None and sides is None:
            problems.append(f"{where}: patient {patient}: the side is missing; write left, right or both")
        for side in sides or ():
            if (patient, side) in first:
                problems.append(
                    f"{where}: patient {patient}, {side}: a duplicate of row {first[patient, side]}; keep one of them"
                )
            first.setdefault((patient, side), number)
            if label is not None:
                known.setdefault((patient, side), label)
    doubtful = frozenset(patient_id(cell) for cell in table.doubtful)
    return Labels(known, frozenset(listed), doubtful, table.note), problems


def wrong_side(side: str, label: Label | None) -> str:
    """What to do about a side that is none."""
    if stands_for_nothing(side):
        remedy = "leave the cell empty" if label is None else "write left, right or both"
        return f"side {side} says nothing; {remedy}"
    return f"side {side} is none of left, right, both"


def label_of(finding: str, label: str) -> tuple[Label | None, str]:
    """The label in a row (None: there is none) and what is wrong with it ("": nothing)."""
    word, given = FINDINGS.get(plain(finding)), LABELS.get(plain(whole_number(label)))
    for column, cell in (("label", label), ("finding", finding)):
        if stands_for_nothing(cell) or (given is None and says_unknown(cell)):
            return None, f"{column} {cell} says nothing; leave the cell empty (without a label: unlabelled)"
    if label and given is None:
        return None, f"label {label} is none of normal, anomalous, 0, 1"
    if not finding:
        return (None, "") if given is None else (Label(given, NORMAL if given == NORMAL else ""), "")
    if word is None and given is None:
        return (
            None,
            f"finding {finding} is none of {', '.join(sorted(set(FINDINGS.values())))}; add a column label (0, 1)",
        )
    implied = given if word is None else (NORMAL if word == "normal" else ANOMALOUS)
    if given is not None and implied != given:
        return None, f"finding {finding} contradicts label {label}"
    return Label(implied or ANOMALOUS, word or (NORMAL if given == NORMAL else OTHER), finding), ""


def match(labels: Labels, patients: Collection[str], *, pool_unlisted: bool) -> list[str]:
    """Rows without a scan, and scans without a row; one patient whom both write in another way has one line."""
    unseen, unlisted = labels.listed - set(patients), set(patients) - labels.listed
    told = {alike(patient) for patient in labels.listed & set(patients)}
    unlisted -= {patient for patient in unlisted if alike(patient) in told}  # `two_spellings` asks about them
    by_key = {alike(patient): patient for patient in sorted(patients, reverse=True)}
    problems = []
    for patient in sorted(unseen):
        scan = by_key.get(alike(patient))
        if scan is None:
            problems.append(f"patient {patient} is in the spreadsheet but has no scan; add the scan or remove the row")
            continue
        unlisted.discard(scan)
        problems.append(
            f"patient {patient} is in the spreadsheet but has no scan, and there is a scan of {scan}: they differ by "
            f"{difference(patient, scan)} only; write the id in one way, as the scan's"
        )
    if not pool_unlisted:
        problems += [
            f"patient {patient} has a scan but no row in the spreadsheet; add one (an empty finding means: "
            "unlabelled), or pass --pool-unlisted"
            for patient in sorted(unlisted - labels.doubtful)
        ]
    return problems


def two_spellings(scans: Iterable[Scan]) -> list[str]:
    """A line for each two scans whose patients may be one person."""
    of = {scan.patient: scan.path for scan in scans}
    return [
        f"{of[other]}: patient {other} and {one} of {of[one]} look like one person, they differ by "
        f"{difference(one, other)} only; keep one of the scans, or rename one so that more than that differs"
        for one, other in look_alikes(sorted(of))
    ]
