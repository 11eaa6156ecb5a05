"""Which scans there are, and whose: a folder of NIfTI, a BIDS tree, a CSV of paths, or DICOM folders."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.tables import read_table

ENDINGS = (".nii.gz", ".nii")
SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "CT", "ct")  # of BIDS names; --suffix may name any other
ScanModality = Literal["auto", "mr", "ct"]


@dataclass(frozen=True)
class Scan:
    """One file, and the patient it shows."""

    path: Path
    patient: str
    modality: ScanModality = "auto"


def stem(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def is_nifti(path: Path) -> bool:
    """By name; hidden files (as macOS leaves them) are none."""
    return path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")


def find_scans(
    source: Path, *, suffix: str | None, id_pattern: str | None, modality: ScanModality, converted: Path
) -> tuple[list[Scan], list[str]]:
    """All scans in a stable order, and every problem found on the way.

    `converted` is where DICOM folders are converted to. Raises DatasetError if there is nothing at all to work on.
    """
    if not source.exists():
        raise DatasetError(f"{source}: there is no such file or folder")
    if source.is_file() and source.name.lower().endswith((".csv", ".tsv", ".xlsx")):
        scans, problems = from_table(source, modality)
    elif source.is_file():
        scans, problems = [Scan(source, patient_of(source, source.parent, id_pattern), modality)], []
    elif any(source.glob("sub-*/anat")) or any(source.glob("sub-*/ses-*/anat")):
        scans, problems = from_bids(source, suffix, modality)
    else:
        files = sorted(path for path in source.rglob("*") if is_nifti(path) and not path.is_dir())
        if files:
            scans, problems = [Scan(p, patient_of(p, source, id_pattern), modality) for p in files], []
        else:
            scans, problems = from_dicom(source, modality, converted)
    return scans, problems + duplicates(scans)


def patient_of(path: Path, root: Path, pattern: str | None) -> str:
    """The file's stem, or what the first group of `pattern` finds in its path below `root`."""
    if pattern is None:
        return stem(path)
    found = re.search(pattern, path.relative_to(root).as_posix())
    if found is None:
        raise DatasetError(f"{path}: --id-pattern {pattern} finds no patient in this path")
    return found.group(1) if found.groups() else found.group(0)


def from_table(path: Path, modality: ScanModality) -> tuple[list[Scan], list[str]]:
    """Columns path, patient_id and, if wanted, modality (mr or ct); paths are relative to the table."""
    rows = read_table(path, {"path": ("path", "file"), "patient": PATIENT_COLUMNS}, {"modality": ("modality",)})
    scans, problems = [], []
    for number, row in rows:
        kind = row["modality"].lower().replace("mri", "mr") or modality
        if kind not in ("auto", "mr", "ct"):
            problems.append(f"{path.name} row {number}: modality {row['modality']} is none of mr, ct")
        elif not row["path"] or not row["patient"]:
            problems.append(f"{path.name} row {number}: path or patient_id is empty; fill it in")
        else:
            scans.append(Scan(path.parent / row["path"], row["patient"], kind))  # type: ignore[arg-type]
    return scans, problems


PATIENT_COLUMNS = ("patient_id", "patient", "participant_id", "subject", "id")


def from_bids(root: Path, suffix: str | None, modality: ScanModality) -> tuple[list[Scan], list[str]]:
    """`sub-*/[ses-*/]anat/*_SUFFIX.nii[.gz]`; participants.tsv, where there is one, must agree."""
    files = sorted(p for p in root.glob("sub-*/**/anat/*") if is_nifti(p))
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        by_suffix[stem(path).rsplit("_", 1)[-1]].append(path)
    known = {name: paths for name, paths in by_suffix.items() if name in SUFFIXES or name == suffix}
    if not known:
        raise DatasetError(f"{root}: no scan is named sub-*_{{T1w,T2w,FLAIR}}.nii.gz in an anat folder")
    if suffix is None and len(known) > 1:
        raise DatasetError(f"{root}: scans of several kinds ({', '.join(sorted(known))}); choose one with --suffix")
    chosen = suffix or next(iter(known))
    if chosen not in known:
        raise DatasetError(f"{root}: no scan ends in _{chosen}; there are {', '.join(sorted(known))}")
    scans = [Scan(p, p.relative_to(root).parts[0].removeprefix("sub-"), modality) for p in known[chosen]]
    problems = []
    if (root / "participants.tsv").is_file():
        rows = read_table(root / "participants.tsv", {"patient": ("participant_id",)}, {})
        present = {scan.patient for scan in scans}
        for number, row in rows:
            if row["patient"].removeprefix("sub-") not in present:
                problems.append(f"participants.tsv row {number}: {row['patient']} has no {chosen} scan")
    return scans, problems


def duplicates(scans: Sequence[Scan]) -> list[str]:
    """A line a patient with more than one scan: labels could not be told apart."""
    by_patient: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        by_patient[scan.patient].append(scan)
    return [
        f"patient {patient} has {len(found)} scans ({', '.join(str(s.path) for s in found)}); keep one, "
        "or list the scans in a CSV of path,patient_id"
        for patient, found in sorted(by_patient.items())
        if len(found) > 1
    ]


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark after its preamble."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def from_dicom(root: Path, modality: ScanModality, converted: Path) -> tuple[list[Scan], list[str]]:
    """Every folder right below `root` is one patient's; it is converted by dcm2niix, which must be installed."""
    folders = [
        f for f in sorted(root.iterdir()) if f.is_dir() and any(is_dicom(p) for p in f.rglob("*") if p.is_file())
    ]
    if not folders:
        raise DatasetError(f"{root}: no .nii.gz, no sub-*/anat, and no folders of DICOM files in here")
    tool = shutil.which("dcm2niix")
    if tool is None:
        raise DatasetError(
            f"{root}: {len(folders)} DICOM folders; install dcm2niix to convert them "
            "(pip install dcm2niix, or apt-get install dcm2niix), or convert them to NIfTI yourself"
        )
    scans, problems = [], []
    for folder in folders:
        out = converted / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not any(is_nifti(p) for p in out.iterdir()):
            done = subprocess.run(
                [tool, "-z", "y", "-b", "n", "-f", "%s", "-o", str(out), str(folder)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines()
                problems.append(f"{folder}: dcm2niix failed: {said[-1] if said else done.returncode}")
                continue
        made = sorted(p for p in out.iterdir() if is_nifti(p))
        if not made:
            problems.append(f"{folder}: dcm2niix made no volume of it")
        scans += [Scan(path, folder.name, modality) for path in made]
    return scans, problems
