"""DICOM folders, a patient each, through dcm2niix; what it makes is kept in PREPARED/private/converted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.scans import Found, Scan, Search, is_nifti, patient_id, stem, walk
from voxbench.datasets.prepare.store import Store


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark after its preamble."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:  # not ours to read: dcm2niix could not read it either
        return False


def from_dicom(root: Path, search: Search) -> Found:
    """Every folder right below `root` is one patient's; it is converted by dcm2niix, which must be installed."""
    folders = [f for f in sorted(root.iterdir()) if f.is_dir() and any(is_dicom(p) for p in walk(f))]
    if not folders:
        raise DatasetError(f"{root}: no .nii.gz, no sub-*/anat, and no folders of DICOM files (one a patient) in here")
    tool = shutil.which("dcm2niix")
    if tool is None:
        raise DatasetError(
            f"{root}: {len(folders)} DICOM folders; install dcm2niix to convert them "
            "(pip install dcm2niix, or apt-get install dcm2niix), or convert them to NIfTI yourself"
        )
    search.folder.open()
    found = Found()
    for folder in folders:
        patient = patient_id(folder.name)
        try:
            path = chosen(folder, convert(tool, folder, search.folder), search.series)
            found.scans.append(Scan(path, patient, search.modality))
        except DatasetError as error:
            found.problems.append(error.message)
            found.named.add(patient)
    return found


def hash_of(data: bytes) -> str:
    """A name for a folder."""
    return hashlib.sha256(data).hexdigest()[:16]


def convert(tool: str, folder: Path, store: Store) -> list[Path]:
    """The volumes of a DICOM folder: an earlier conversion if no file has changed since; raises DatasetError."""
    files = [(path, path.stat()) for path in walk(folder) if path.is_file()]
    listing = [(os.fsencode(path), status.st_size, status.st_mtime_ns) for path, status in files]
    name, state = hash_of(os.fsencode(folder.resolve())), hash_of(repr(listing).encode())
    out = store.private / "converted" / f"{name}-{state}"
    if not out.is_dir():
        for old in out.parent.glob(f"{name}-*"):
            shutil.rmtree(old)
        part = out.with_suffix(".part")  # renamed once whole: a stop midway leaves no volume that would be believed
        part.mkdir(parents=True, mode=0o700)
        done = subprocess.run(
            [tool, "-z", "y", "-b", "n", "-f", "%d_%s", "-o", str(part), str(folder)],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise DatasetError(
                f"{folder}: dcm2niix failed: {said[-1] if said else done.returncode}; convert it yourself"
            )
        if not any(is_nifti(path) for path in part.iterdir()):
            raise DatasetError(f"{folder}: dcm2niix made no volume of it; remove the folder or convert it yourself")
        part.rename(out)
    return sorted(path for path in out.iterdir() if is_nifti(path))


def chosen(folder: Path, made: list[Path], series: str | None) -> Path:
    """The one volume of a patient that is meant; raises DatasetError where that cannot be known."""
    fitting = [path for path in made if series is None or re.search(series, stem(path), re.IGNORECASE)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(stem(path) for path in (fitting or made))
    if not fitting:
        raise DatasetError(f"{folder}: no series fits --series {series}; there are: {names}")
    raise DatasetError(
        f"{folder}: {len(fitting)} series ({names}); "
        "choose one with --series PATTERN, a regular expression for one of these names"
    )
