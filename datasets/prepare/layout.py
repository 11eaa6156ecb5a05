"""Whose a file is in a folder of NIfTI: its name tells, or the folder of the case it lies in, or --id-pattern."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.scans import (
    Found,
    Scan,
    Search,
    foreign,
    foreign_note,
    is_nifti,
    pairs,
    patient_id,
    stem,
)

# Folders above the cases that name no patient: site1, center_A, train.
GROUP = re.compile(r"(site|cent(er|re)|hospital|scanner|batch|cohort|group|train|test|val)[-_ ]?\w{0,3}", re.IGNORECASE)
SHOWN = 8  # kinds of scans in a message


def from_files(files: Sequence[Path], root: Path, search: Search) -> Found:
    """Every NIfTI is a patient's; .hdr/.img pairs are refused, scans in other formats counted."""
    found = Found(problems=pairs(files))
    niftis = [path for path in files if is_nifti(path)]
    niftis = [path for path in niftis if not search.is_reference(path)] or niftis
    folders = None if search.id_pattern else case_folders(niftis, root)
    if folders is None:
        search.without_effect(root, "not such a folder", "suffix")
        folders = {path: patient_of(path, root, search.id_pattern) for path in niftis}
    else:
        folders = of_one_kind(folders, root, search.suffix)
        if search.suffix is None:
            path, patient = next(iter(folders.items()))
            found.notes.append(f"a folder is taken for a patient, as {patient} in {path.relative_to(root)}")
    for path, patient in folders.items():
        if patient:
            found.scans.append(Scan(path, patient, search.modality))
        else:
            how = f"--id-pattern {search.id_pattern} finds" if search.id_pattern else "the file's name has"
            found.problems.append(f"{path}: {how} no patient in this path; mend the pattern or the name")
    found.notes += foreign_note(foreign(files))
    return found


def patient_of(path: Path, root: Path, pattern: str | None) -> str:
    """The file's stem, or what the first group of `pattern` finds in its path below `root`; "" if nothing."""
    if pattern is None:
        return patient_id(stem(path))
    match = re.search(pattern, path.relative_to(root).as_posix())
    if match is None:
        return ""
    return patient_id((match.group(1) if match.groups() else match.group(0)) or "")


def case_folders(files: Sequence[Path], root: Path) -> dict[Path, str] | None:
    """The patient of each file where a folder is a patient's, as in s0001/ct.nii.gz or s0001/s0001_t1.nii.gz.

    It is one where no file lies in `root` itself, and most names occur in several folders, or files that share a
    folder bear its name. None: the files' own names are the patients.
    """
    if len(files) < 2 or any(path.parent == root for path in files):
        return None
    places: dict[str, set[Path]] = defaultdict(set)
    named: Counter[Path] = Counter()
    for path in files:
        places[stem(path).casefold()].add(path.parent)
        named[path.parent] += kind_of(path) != stem(path)
    common = sum(len(places[stem(path).casefold()]) > 1 for path in files)
    if 2 * common <= len(files) and max(named.values()) < 2:
        return None
    parts = {path: path.relative_to(root).parts[:-1] for path in files}
    at = depth(set(parts.values()))
    return {path: patient_id(found[at]) for path, found in parts.items()}


def depth(folders: Iterable[tuple[str, ...]]) -> int:
    """Which part of the folders' paths is the patient: the first that differs, those that name groups passed over."""
    columns = list(zip(*folders, strict=False))
    differing = [at for at, names in enumerate(columns) if len(set(names)) > 1]
    people = [at for at in differing if not all(GROUP.fullmatch(name) for name in columns[at])]
    return (people or differing or [0])[0]


def kind_of(path: Path) -> str:
    """What a file shows, by its name: its stem without the name of the folder that it lies in."""
    name, folder = stem(path), path.parent.name
    rest = name[len(folder) :]
    is_named = name.casefold().startswith(folder.casefold()) and rest[:1] in ("_", "-", ".") and len(rest) > 1
    return rest[1:] if is_named else name


def of_one_kind(patients: dict[Path, str], root: Path, suffix: str | None) -> dict[Path, str]:
    """The files of the kind that `suffix` names; raises DatasetError where it must be chosen, or none is called so."""
    kinds = {path: kind_of(path) for path in patients}
    counts = Counter(kinds.values()).most_common()
    shown = ", ".join(kind for kind, _ in counts[:SHOWN]) + (", ..." if len(counts) > SHOWN else "")
    if suffix is not None:
        wanted = suffix.casefold()
        chosen = {
            p: who for p, who in patients.items() if re.search(rf"(^|[_.-]){re.escape(wanted)}$", kinds[p].casefold())
        }
        if not chosen:
            raise DatasetError(f"{root}: no scan ends in {suffix}; there are {shown}")
        return chosen
    of_patient: dict[str, set[str]] = defaultdict(set)
    for path, patient in patients.items():
        of_patient[patient].add(kinds[path])
    several = [patient for patient, found in of_patient.items() if len(found) > 1]
    if several:
        raise DatasetError(
            f"{root}: several scans in a folder ({shown}; e.g. in {several[0]}); if a folder is a patient, choose one "
            f"with --suffix {counts[0][0]}; else name the part of a path that is, with --id-pattern, or list one scan "
            "of each patient in a CSV of path,patient_id"
        )
    return patients
