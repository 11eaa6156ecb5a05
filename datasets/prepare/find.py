"""Which scans there are: the kind of source is found out, and what cannot be is refused."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.dicom import dicom_among, from_dicom, is_dicom
from voxbench.datasets.prepare.layout import from_files
from voxbench.datasets.prepare.scans import (
    FOREIGN,
    NO_SCANS,
    PAIR,
    Found,
    Scan,
    Search,
    few,
    from_bids,
    from_table,
    is_header,
    is_nifti,
    pair_problem,
    walk,
)
from voxbench.datasets.volumes.names import as_stored


def find_scans(source: Path, search: Search) -> Found:
    """All scans, and every problem found on the way. Raises DatasetError if there is nothing at all to work on."""
    if not source.exists():
        raise DatasetError(f"{source}: there is no such file or folder")
    if source.is_file() and source.name.lower().endswith((".csv", ".tsv", ".xlsx")):
        search.without_effect(source, "a table of scans", "suffix", "id_pattern", "series")
        found = from_table(source, search.modality)
        found.scans = [replace(scan, path=as_stored(scan.path)) for scan in found.scans]
    elif source.is_file():
        search.without_effect(source, "one file", "suffix", "series")
        if source.name.lower().endswith(PAIR):
            raise DatasetError(pair_problem(source))
        refuse_one_foreign(source)
        found = from_files([source], source.parent, search)
    elif is_bids(source):
        search.without_effect(source, "a BIDS tree", "id_pattern", "series")
        refuse_both_kinds(source, search, NO_SCANS)
        found = from_bids(source, search.suffix, search.modality)
    else:
        files = list(walk(source))
        if any((is_nifti(path) or is_header(path)) and not search.is_reference(path) for path in files):
            refuse_parts_of_bids(source, files, search.id_pattern)
            search.without_effect(source, "a folder of NIfTI", "series")
            if search.id_pattern is not None:
                search.without_effect(source, "searched with --id-pattern", "suffix")
            refuse_both_kinds(source, search)
            found = from_files(files, source, search)
        elif any(is_dicom(path) for path in files) or not any(is_nifti(path) for path in files):
            search.without_effect(source, "no folder of NIfTI", "suffix", "id_pattern")
            found = from_dicom(source, search)
        else:  # the reference alone
            found = from_files(files, source, search)
    if not found.scans and not found.problems:
        raise DatasetError(f"{source}: no scan (.nii or .nii.gz) in here")
    found.problems += duplicates(found.scans)
    refuse_unwritable_names(found)
    return found


def is_bids(root: Path) -> bool:
    """Whether there are sub-*/[ses-*/]anat with NIfTI in them."""
    folders = [*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")]
    return any(is_nifti(path) or is_header(path) for folder in folders if folder.is_dir() for path in walk(folder))


def refuse_one_foreign(path: Path) -> None:
    """Raises DatasetError if a file that is given for the scans is none that could be read."""
    if is_dicom(path):
        raise DatasetError(f"{path}: one DICOM file; name the folder that holds a folder of DICOM files a patient")
    if path.suffix.lower() in FOREIGN:
        raise DatasetError(f"{path}: not NIfTI; convert it to .nii.gz")


def refuse_both_kinds(root: Path, search: Search, beside: Sequence[str] = ()) -> None:
    """Raises DatasetError if NIfTI and DICOM lie in one tree (but in folders named `beside`): neither may be dropped.

    Taking both would count a patient twice who has been converted already.
    """
    folders = [root] if not beside else [f for f in sorted(root.iterdir()) if f.name not in beside]
    files = [path for entry in folders for path in (walk(entry) if entry.is_dir() else [entry])]
    dicom = dicom_among(files)
    if not dicom:
        return
    nifti = [str(p.relative_to(root)) for p in files if (is_nifti(p) or is_header(p)) and not search.is_reference(p)]
    places = sorted({str(path.relative_to(root).parts[0]) for path in dicom})
    raise DatasetError(
        f"{root}: NIfTI ({few(nifti)}) and DICOM (in {few(places)}) lie in one folder, and neither is left out; "
        "move one kind elsewhere, or convert the DICOM yourself (dcm2niix), or list the NIfTI that is meant in a CSV "
        "of path,patient_id"
    )


def refuse_parts_of_bids(root: Path, files: Sequence[Path], id_pattern: str | None) -> None:
    """Raises DatasetError if files are named as in BIDS: sub-01_T1w and sub-01_FLAIR are not two patients."""
    for path in files:
        if is_nifti(path) and re.match("sub-[^_]+_", path.name) and id_pattern is None:
            raise DatasetError(
                f"{root}: {path.name} is named as in a BIDS tree; name the tree's root (which holds sub-*/anat), or "
                "say which part of a path is the patient: --id-pattern 'sub-([^_/]+)'"
            )


def duplicates(scans: Sequence[Scan]) -> list[str]:
    """A line a patient with more than one scan: labels could not be told apart."""
    by_patient: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        by_patient[scan.patient].append(scan)
    return [
        f"patient {patient} has {len(found)} scans ({', '.join(str(s.path) for s in found)}); keep one, "
        "or give a CSV of path,patient_id that lists one scan of each patient (of several sessions or runs, too)"
        for patient, found in sorted(by_patient.items())
        if len(found) > 1
    ]


def refuse_unwritable_names(found: Found) -> None:
    """Names that are no UTF-8 could be written to no table; they become problems."""
    for scan in list(found.scans):
        try:
            f"{scan.path.resolve()}{scan.path}{scan.patient}".encode()
        except UnicodeEncodeError:
            shown = f"{scan.path} of {scan.patient}".encode(errors="backslashreplace").decode()
            found.problems.append(f"{shown}: the name is not UTF-8; rename the file or folder")
            found.scans.remove(scan)
    found.problems[:] = [line.encode(errors="backslashreplace").decode() for line in found.problems]
