"""Scans and whose they are, from a folder of NIfTI, a BIDS tree or a CSV of paths."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import cause, remedy
from voxbench.datasets.prepare.store import Store
from voxbench.datasets.tables.ids import AS_TEXT, rounded, same
from voxbench.datasets.tables.reader import read_table
from voxbench.datasets.tables.words import names_nobody, stands_for_nothing

ENDINGS = (".nii.gz", ".nii")
HEADER = (".hdr", ".hdr.gz")
PAIR = (*HEADER, ".img", ".img.gz")  # left and right are not certain in them: Analyze 7.5 has no affine
FOREIGN = (".mgz", ".mgh", ".mha", ".mhd", ".nrrd", ".mnc", ".dcm", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst")
SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "CT", "ct")  # of BIDS names; --suffix may name any other
NO_SCANS = ("derivatives", "sourcedata", "code", "stimuli", "rawdata")  # folders of a BIDS tree that are not its scans
PATIENT_COLUMNS = ("patient_id", "patient", "participant_id", "subject", "id")
ScanModality = Literal["auto", "mr", "ct"]


@dataclass(frozen=True)
class Scan:
    """One file, and the patient it shows."""

    path: Path
    patient: str
    modality: ScanModality = "auto"


@dataclass
class Found:
    """The scans in a stable order, what is wrong, and what is worth knowing; lines, one each."""

    scans: list[Scan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)  # patients of whom a problem has been told already


@dataclass(frozen=True, kw_only=True)
class Search:
    """How scans are looked for; `folder` is what will be PREPARED."""

    folder: Store
    suffix: str | None = None
    id_pattern: str | None = None
    series: str | None = None
    modality: ScanModality = "auto"
    reference: Path | None = None  # which may lie among the scans, and is none

    def is_reference(self, path: Path) -> bool:
        """Whether a file is the reference head itself."""
        return self.reference is not None and path.resolve() == self.reference.resolve()

    def without_effect(self, source: Path, what: str, *options: str) -> None:
        """Raises DatasetError if one of these options was given: nothing that was asked for is ignored."""
        for option in options:
            given = getattr(self, option)
            if given is not None:
                uses = {
                    "suffix": "chooses among the scans of a BIDS tree (name its root, which holds sub-*/anat) or of "
                    "folders that hold several scans of a patient each",
                    "id_pattern": "finds patients in the paths of a folder of NIfTI",
                    "series": "chooses among the series of DICOM folders",
                }
                raise DatasetError(
                    f"--{option.replace('_', '-')} {given}: {uses[option]}, and {source} is {what}; leave it out"
                )


def stem(path: Path) -> str:
    """The file's name without .nii or .nii.gz (or half a pair's ending)."""
    for ending in (*ENDINGS, *PAIR):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def is_nifti(path: Path) -> bool:
    """By name; hidden files (as macOS leaves them) are none."""
    return path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")


def patient_id(text: str) -> str:
    """The patient, said the same way everywhere: BIDS's sub- goes, and what looks the same is the same."""
    return same(text).removeprefix("sub-")


def walk(folder: Path, above: frozenset[Path] | None = None) -> Iterator[Path]:
    """Files below a folder, through links too (but in no circle); not in hidden folders nor in a PREPARED one."""
    real = folder.resolve()
    above = frozenset(real.parents) if above is None else above
    if real in above or Store(folder).is_prepared():
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"{folder}: the folder cannot be read ({cause(error)}); {remedy(error)}") from error
    for entry in entries:
        if not entry.is_dir():
            yield entry
        elif not entry.name.startswith("."):
            yield from walk(entry, above | {real})


def foreign(files: Sequence[Path], known: Collection[Path] = ()) -> str:
    """How many files are in formats that are not read, by their endings ("": none), but those that are `known`."""
    endings = [path.suffix.lower() for path in files if path not in known and not path.name.startswith(".")]
    counts = Counter(ending for ending in endings if ending in FOREIGN)
    return ", ".join(f"{number} {ending}" for ending, number in sorted(counts.items()))


def foreign_note(counts: str) -> list[str]:
    """A note on what `foreign` has counted."""
    told = f"files that are no NIfTI were left out ({counts}); convert those that are scans to .nii.gz"
    return [told] if counts else []


def is_header(path: Path) -> bool:
    """Whether the file is the header of an .hdr/.img pair, by name (.img alone may be DICOM)."""
    return path.name.lower().endswith(HEADER) and not path.name.startswith(".")


def pair_problem(path: Path) -> str:
    """Why an .hdr/.img pair is not read, and what to do."""
    return f"{path}: .hdr/.img pairs are not read; convert it (nib-convert {path.name} {stem(path)}.nii.gz)"


def pairs(files: Sequence[Path]) -> list[str]:
    """A line for each .hdr/.img pair that does not lie beside its own conversion."""
    converted = {path.parent / stem(path) for path in files if is_nifti(path)}
    found = {path.parent / stem(path): path for path in files if is_header(path)}
    return [pair_problem(path) for base, path in sorted(found.items()) if base not in converted]


def from_table(path: Path, modality: ScanModality) -> Found:
    """Columns path, patient_id and, if wanted, modality (mr or ct); paths are relative to the table."""
    table = read_table(path, {"path": ("path", "file"), "patient": PATIENT_COLUMNS}, {"modality": ("modality",)})
    found = Found(problems=list(table.problems), notes=[table.note] if table.note else [])
    found.named |= {patient_id(cell) for cell in table.doubtful}
    for number, row in table.rows:
        where = f"{path.name} row {number}"
        kind = row["modality"].lower().replace("mri", "mr") or modality
        patient = patient_id(row["patient"])
        if stands_for_nothing(kind):
            found.problems.append(f"{where}: modality {row['modality']} says nothing; leave the cell empty")
        elif kind not in ("auto", "mr", "ct"):
            found.problems.append(f"{where}: modality {row['modality']} is none of mr, ct")
        elif not row["path"] or not patient:
            found.problems.append(f"{where}: path or patient_id is empty; fill it in")
        elif names_nobody(row["path"]):
            found.problems.append(f"{where}: path {row['path']} names no file; name it, or remove the row")
        elif names_nobody(patient):
            found.problems.append(f"{where}: patient {row['patient']} names nobody; fill it in, or remove the row")
        elif rounded(row["patient"]):
            found.problems.append(f"{where}: patient {row['patient']} {AS_TEXT}")
        elif row["path"].lower().endswith(PAIR):
            found.problems.append(f"{where}: {pair_problem(Path(row['path']))}, and name that")
        else:
            found.scans.append(Scan(path.parent / row["path"], patient, kind))  # type: ignore[arg-type]
            continue
        found.named.add(patient)
    return found


def from_bids(root: Path, suffix: str | None, modality: ScanModality) -> Found:
    """`sub-*/[ses-*/]anat/*_SUFFIX.nii[.gz]`; who is in participants.tsv without such a scan is counted."""
    files = [p for folder in sorted(root.glob("sub-*")) if folder.is_dir() for p in walk(folder)]
    files = [path for path in files if path.parent.name == "anat"]
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if is_nifti(path):
            by_suffix[stem(path).rsplit("_", 1)[-1]].append(path)
    chosen = chosen_suffix(root, by_suffix, suffix)
    scans = [Scan(p, patient_id(p.relative_to(root).parts[0]), modality) for p in by_suffix[chosen]]
    wrong = pairs([path for path in files if stem(path).endswith(f"_{chosen}")])
    present = {scan.patient for scan in scans}
    notes = absent(root / "participants.tsv", present, chosen)
    return Found(scans, wrong, notes + left_out(root, present, chosen, told=any(" have no " in note for note in notes)))


def chosen_suffix(root: Path, by_suffix: Mapping[str, list[Path]], suffix: str | None) -> str:
    """The suffix that is meant; raises DatasetError where that cannot be known."""
    there = ", ".join(sorted(by_suffix, key=lambda name: (name not in (*SUFFIXES, "UNIT1"), name)))
    known = [name for name in by_suffix if name in SUFFIXES]
    if suffix is not None:
        if suffix not in by_suffix:
            raise DatasetError(f"{root}: no scan ends in _{suffix}; there are {there or 'none in an anat folder'}")
        return suffix
    if not known:
        none = f"{root}: no scan is named sub-*_{{T1w,T2w,FLAIR}}.nii.gz in an anat folder"
        raise DatasetError(
            f"{none}; there are {there}: choose one, as in --suffix {there.split(', ')[0]}" if there else none
        )
    if len(known) > 1:
        raise DatasetError(f"{root}: scans of several kinds ({', '.join(sorted(known))}); choose one with --suffix")
    return known[0]


def left_out(root: Path, present: set[str], suffix: str, *, told: bool) -> list[str]:
    """Notes on what of a BIDS tree is not taken: subjects without such a scan (unless told already), stray files."""
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    subjects = [folder for folder in folders if folder.name.startswith("sub-")]
    lacking = [folder.name for folder in subjects if patient_id(folder.name) not in present]
    notes = []
    if lacking and not told:
        notes.append(f"{len(lacking)} of {len(subjects)} sub- folders have no {suffix} scan ({few(lacking)})")
    others = [folder for folder in folders if folder not in subjects and folder.name not in NO_SCANS]
    stray = [path for path in root.iterdir() if path.is_file()] + [path for folder in others for path in walk(folder)]
    niftis = sorted(str(path.relative_to(root)) for path in stray if is_nifti(path))
    if niftis:
        notes.append(f"NIfTI outside sub-*/[ses-*/]anat was left out: {len(niftis)} ({few(niftis)})")
    return notes


def few(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def absent(table: Path, present: set[str], suffix: str) -> list[str]:
    """A note on participants without a scan, which are usual; or on why the table could not be asked."""
    if not table.is_file():
        return []
    try:
        read = read_table(table, {"patient": ("participant_id",)}, {})
    except DatasetError as error:
        return [f"{error.message} (it was not needed)"]
    notes = [f"{problem} (it was not needed)" for problem in read.problems]
    rows = [row["patient"] for _, row in read.rows if not names_nobody(row["patient"])]
    missing = [patient for patient in rows if patient_id(patient) not in present]
    if not missing:
        return notes
    told = f"{table.name}: {len(missing)} of {len(rows)} participants have no {suffix} scan ({few(missing)})"
    return [*notes, told]
