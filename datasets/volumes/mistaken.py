"""What was given in place of a manifest, and what to give instead."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

MEDMNIST = re.compile(r"([a-z]+mnist3d)(_64)?\.npz", re.IGNORECASE)
NIFTI = re.compile(r".+\.nii(\.gz)?", re.IGNORECASE)
LOOKED_AT = 2000  # entries of a folder that may be a large one
WRITE_ONE = "write a CSV of path,patient_id,label beside the files and name it (docs/data.md)"
OR_PREPARE = "or, for sinuses in head scans, run bench prepare on it first"


def mistaken(given: Path) -> str | None:
    """Why a file or folder cannot be a manifest, with the remedy; None where it may be one."""
    if given.is_dir():
        return None if (given / "manifest.csv").exists() else _folder(given)
    name = given.name
    known = MEDMNIST.fullmatch(name)
    if known:
        return f"arrays of MedMNIST, not a manifest; {_medmnist(known, given.parent)}"
    if name.lower().endswith((".npz", ".npy")):
        return f"arrays, which tell no patients; write each volume as .nii.gz, and {WRITE_ONE}"
    if NIFTI.fullmatch(name):
        return f"one volume, not a manifest; {WRITE_ONE}"
    if name.lower().endswith((".dcm", ".ima", ".zip", ".tar", ".tar.gz", ".mgz", ".nrrd", ".mha", ".img", ".hdr")):
        return f"not a manifest; convert the volumes to .nii.gz, and {WRITE_ONE}"
    return None


def _medmnist(known: re.Match[str], folder: Path) -> str:
    size = 64 if known[2] else 28
    return f"give --dataset {known[1].lower()} --data-root {folder} --set dataset.size={size}"


def _folder(given: Path) -> str | None:
    """By what lies in it, or right below."""
    try:
        entries = sorted(itertools.islice(given.iterdir(), LOOKED_AT))
        below = [e for entry in entries if entry.is_dir() for e in itertools.islice(entry.iterdir(), LOOKED_AT)]
    except OSError:
        return None  # what is wrong is said when it is read in earnest
    files = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in files:
        known = MEDMNIST.fullmatch(entry.name)
        if known:
            return f"a folder of MedMNIST arrays, not of a manifest; {_medmnist(known, given)}"
    tables = [entry.name for entry in files if entry.name.lower().endswith(".csv")]
    if tables:
        return f"no manifest.csv in this folder; name the file itself, as in --dataset {given / tables[0]}"
    if any(entry.name.startswith("sub-") for entry in files) and any(
        e.name == "anat" or e.name.startswith("ses-") for e in below
    ):
        return f"a BIDS tree without manifest.csv; {WRITE_ONE}, {OR_PREPARE}"
    if any(NIFTI.fullmatch(entry.name) for entry in (*files, *below) if not entry.name.startswith(".")):
        return f"a folder of NIfTI without manifest.csv; {WRITE_ONE}, {OR_PREPARE}"
    if any(entry.name.lower().endswith((".dcm", ".ima")) for entry in (*files, *below)):
        return f"a folder of DICOM; convert it (dcm2niix), and {WRITE_ONE}, {OR_PREPARE}"
    return None
