"""DICOM folders, a patient each, through dcm2niix; what it makes is kept in PREPARED/private/converted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - its own convention

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.scans import (
    Found,
    Scan,
    Search,
    few,
    foreign,
    foreign_note,
    is_nifti,
    patient_id,
    stem,
    walk,
)
from voxbench.datasets.prepare.store import Store
from voxbench.datasets.volumes.lookalikes import unfetched

SOME = 8  # dcm2niix's exit status for "some files converted, some not": what it made is whole
DEPTH = 9  # levels of folders that dcm2niix looks into at most
NOTE = "note.txt"  # beside the volumes of a conversion
LONG_CODES = (b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UC", b"UN", b"UR", b"UT")  # with four bytes of length
NEVER = (".json", ".tsv", ".csv", ".txt", ".md", ".bval", ".bvec", ".xlsx", ".pdf", ".png", ".jpg", ".html")


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark after its preamble, or begins as DICOM does where the preamble is left out."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False  # side files of macOS; the list of a CD's files
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:  # not ours to read: dcm2niix could not read it either
        return False
    return start[128:] == b"DICM" or begins_with_elements(start)


def begins_with_elements(start: bytes) -> bool:
    """Whether two elements of the groups that come first (2: file meta, 8: identity) follow each other."""
    at = 0
    tags: list[tuple[int, int]] = []
    while len(tags) < 2 and at + 12 <= len(start):
        group, element, code = number(start[at : at + 2]), number(start[at + 2 : at + 4]), start[at + 4 : at + 6]
        if group not in (2, 8):
            return False
        tags.append((group, element))
        if code in LONG_CODES:
            at += 12 + number(start[at + 8 : at + 12])
        elif code.isalpha() and code.isupper():
            at += 8 + number(start[at + 6 : at + 8])
        else:  # implicit: four bytes of length follow the tag
            at += 8 + number(start[at + 4 : at + 8])
    return bool(tags) and tags == sorted(set(tags)) and (len(tags) == 2 or 12 < at < 4096)


def number(field: bytes) -> int:
    """As DICOM writes it."""
    return int.from_bytes(field, "little")


def dicom_among(files: Sequence[Path]) -> list[Path]:
    """Those that are DICOM."""
    return [path for path in files if path.suffix.lower() not in NEVER and not is_nifti(path) and is_dicom(path)]


def from_dicom(root: Path, search: Search) -> Found:
    """Every folder right below `root` is one patient's; it is converted by dcm2niix, which must be installed."""
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    contents = {entry: list(walk(entry)) for entry in entries if entry.is_dir() and not Store(entry).is_prepared()}
    folders = {folder: dicom_among(files) for folder, files in contents.items()}
    folders = {folder: files for folder, files in folders.items() if files}
    refuse_loose(root, [entry for entry in entries if is_dicom(entry)], list(folders))
    missing = {folder: unfetched_among(files) for folder, files in contents.items()}
    missing = {folder: files for folder, files in missing.items() if files}
    known = {path for files in (*folders.values(), *missing.values()) for path in files}
    others = foreign([*entries, *(path for files in contents.values() for path in files)], known)
    if not folders and not missing:
        rest = f"; there are {others}: convert those that are scans to .nii.gz" if others else ""
        none = "no .nii.gz, no sub-*/anat, and no folders of DICOM files (one a patient) in here"
        raise DatasetError(f"{root}: {none}{rest}")
    tool = shutil.which("dcm2niix")
    if tool is None:
        raise DatasetError(
            f"{root}: {len(folders or missing)} DICOM folders; install dcm2niix to convert them "
            "(pip install dcm2niix, or apt-get install dcm2niix), or convert them to NIfTI yourself"
        )
    search.folder.open()
    found = Found(notes=one_person(folders) + foreign_note(others))
    for folder in sorted({*folders, *missing}):
        patient = patient_id(folder.name)
        try:
            refuse_unfetched(folder, missing.get(folder, []))
            made, note = convert(tool, folder, search.folder)
            found.scans.append(Scan(chosen(folder, made, search.series), patient, search.modality))
            found.notes += [note] if note else []
        except DatasetError as error:
            found.problems.append(error.message)
            found.named.add(patient)
    empty = [folder.name for folder in contents if folder not in folders and folder not in missing]
    if empty:
        found.notes.append(f"folders without DICOM files were left out: {few(empty)}")
    return found


def one_person(folders: Mapping[Path, Sequence[Path]]) -> list[str]:
    """A note for folders whose DICOM has one PatientID: each counts as a patient, and might be but one's series."""
    of_id: dict[str, list[str]] = defaultdict(list)
    for folder, files in folders.items():
        of_id[own_id(files[0])].append(folder.name)
    return [
        f"folders {few(names)} have one PatientID in their DICOM, and count as {len(names)} patients; "
        "if they show one person, put them into one folder"
        for number, names in of_id.items()
        if number and len(names) > 1
    ]


def own_id(path: Path) -> str:
    """The PatientID in a DICOM file; "" where it has none, or cannot be read."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        return str(reader.GetMetaData("0010|0020")).strip()
    except RuntimeError:  # SimpleITK's only kind
        return ""


def refuse_loose(root: Path, loose: Sequence[Path], folders: Sequence[Path]) -> None:
    """Raises DatasetError if DICOM files lie in `root` itself: whose they are cannot be known."""
    if loose:
        beside = f", beside {len(folders)} folders of DICOM ({few([f.name for f in folders])})" if folders else ""
        raise DatasetError(
            f"{root}: {len(loose)} DICOM files lie in the folder itself ({few([p.name for p in loose])}){beside}; "
            "put each patient's files into a folder of its own in it"
        )


def unfetched_among(files: Sequence[Path]) -> list[Path]:
    """Links and pointers to what is not here."""
    return [path for path in files if path.suffix.lower() not in NEVER and unfetched(path)]


def refuse_unfetched(folder: Path, missing: Sequence[Path]) -> None:
    """Raises DatasetError if files of a folder are missing: without them a volume would have gaps."""
    if missing:
        raise DatasetError(
            f"{folder}: {len(missing)} files are links or pointers to what is not here "
            f"({few([path.name for path in missing])}); fetch them (git annex get, datalad get, git lfs pull)"
        )


def hash_of(data: bytes) -> str:
    """A name for a folder."""
    return hashlib.sha256(data).hexdigest()[:16]


def convert(tool: str, folder: Path, store: Store) -> tuple[list[Path], str]:
    """The volumes of a DICOM folder, and a note if there might be more; raises DatasetError.

    An earlier conversion is taken if no file has changed since.
    """
    files = [(path, path.stat()) for path in walk(folder) if path.is_file()]
    listing = [(os.fsencode(path), status.st_size, status.st_mtime_ns) for path, status in files]
    name, state = hash_of(os.fsencode(folder.resolve())), hash_of(repr(listing).encode())
    out = store.private / "converted" / f"{name}-{state}"
    if not out.is_dir():
        for old in out.parent.glob(f"{name}-*"):
            shutil.rmtree(old)
        part = out.with_suffix(".part")  # renamed once whole: a stop midway leaves no volume that would be believed
        part.mkdir(parents=True, mode=0o700)
        run_converter(tool, folder, [path for path, _ in files], part)
        part.rename(out)
    note = out / NOTE
    return sorted(path for path in out.iterdir() if is_nifti(path)), note.read_text() if note.is_file() else ""


def run_converter(tool: str, folder: Path, files: Sequence[Path], out: Path) -> None:
    """dcm2niix from `folder` to `out`; raises DatasetError where it made nothing to rely on."""
    with tempfile.TemporaryDirectory(dir=out.parent, suffix=".part") as within:
        source = within_reach(folder, files, Path(within))
        done = subprocess.run(
            [tool, "-z", "y", "-b", "n", "-d", str(DEPTH), "-f", "%d_%s", "-o", str(out), str(source)],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    said = " ".join((done.stderr or done.stdout).strip().splitlines()[-1:])
    if done.returncode not in (0, SOME):
        why = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        raise DatasetError(f"{folder}: dcm2niix failed: {said or why}; convert it yourself")
    if not any(is_nifti(path) for path in out.iterdir()):
        raise DatasetError(f"{folder}: dcm2niix made no volume of it; remove the folder or convert it yourself")
    if done.returncode == SOME:
        note = f"{folder}: dcm2niix converted only some of its files ({said or 'exit status 8'}); see what it left out"
        (out / NOTE).write_text(note)


def within_reach(folder: Path, files: Sequence[Path], links: Path) -> Path:
    """The folder, or `links` filled with links where dcm2niix would not see some of its files.

    It looks into so many levels of folders only, and does not know a file that begins with group 2 without a preamble.
    """
    dicom = dicom_among(files)
    bare = {path for path in dicom if is_bare(path)}
    if not bare and all(len(path.relative_to(folder).parts) <= DEPTH for path in dicom):
        return folder
    for count, path in enumerate(dicom):
        place = links / f"{count:06d}.dcm"
        if path in bare:
            place.write_bytes(bytes(128) + b"DICM" + path.read_bytes())
        else:
            place.symlink_to(path.resolve())
    return links


def is_bare(path: Path) -> bool:
    """Whether a DICOM file begins with group 2, without the preamble that must stand before it."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x02\0"


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
