"""What a file is that is no NIfTI: told by its first bytes, so that the remedy fits."""

from __future__ import annotations

from pathlib import Path

PEEK = 1024  # bytes that suffice to tell
GZIP, BZIP2 = b"\x1f\x8b", b"BZh"

_FETCH_ANNEX = "fetch it (git annex get, or datalad get)"
_ARRAYS = "NumPy arrays, which have no orientation; write each volume as .nii.gz"
_BY_START = (
    (b"version https://git-lfs", "a pointer that git-lfs left in the file's place; fetch it (git lfs pull)"),
    (b"/annex/objects/", f"a pointer that git-annex left in the file's place; {_FETCH_ANNEX}"),
    (b"\x00\x05\x16\x07", "a side file of macOS, not the volume; leave it out"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"\xfd7zXZ", "compressed by xz; unpack it, and compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it, and compress it with gzip"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"NRRD", "an NRRD file; convert it to .nii.gz"),
    (b"ObjectType", "a MetaImage header; convert it to .nii.gz"),
    (b"\x93NUMPY", _ARRAYS),
    (b"CDF", "a MINC file; convert it to .nii.gz (mnc2nii)"),
    (b"\x89HDF", "an HDF5 or MINC file; convert it to .nii.gz"),
    (b"\x89PNG", "a 2D picture; export the volume as NIfTI"),
    (b"\xff\xd8\xff", "a 2D picture; export the volume as NIfTI"),
)
_BY_ENDING = {
    (".mgz", ".mgh"): "FreeSurfer's format, not NIfTI; convert it to .nii.gz (mri_convert)",
    (".nrrd", ".nhdr", ".mha", ".mhd", ".mnc"): "not NIfTI; convert it to .nii.gz",
    (".dcm", ".ima"): "DICOM by its name, not NIfTI; convert it (dcm2niix)",
}


def lookalike(start: bytes, name: str) -> str:
    """What is wrong with a file, called `name`, that begins with `start` and is no NIfTI; and the remedy."""
    if name.lower().endswith(".npz"):  # a ZIP inside
        return _ARRAYS
    for sign, what in _BY_START:
        if start.startswith(sign):
            return what
    if start[128:132] == b"DICM":
        return "DICOM, not NIfTI; convert it (dcm2niix)"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if start.startswith((GZIP, BZIP2)):
        return "compressed twice; unpack it once"
    for endings, what in _BY_ENDING.items():
        if any(name.lower().endswith((ending, f"{ending}.gz")) for ending in endings):
            return what
    if not start:
        return "nothing is compressed in it; copy or export it again"
    if not start.strip(b"\0"):
        return "nothing but zeros, as a broken copy leaves; damaged: copy it again"
    if any(int.from_bytes(start[:4], order) in (348, 540) for order in ("little", "big")):
        if len(start) < 540:
            return f"it ends within its header, after {len(start)} bytes; damaged: copy it again"
        if start[344:348].strip(b"\0") or start[:4].strip(b"\0") == b"\x02\x1c":
            return "its header is damaged; copy or export it again"
        return "an Analyze 7.5 header, which does not tell left from right; export it as NIfTI"
    if b"<html" in start.lower() or start.lower().lstrip().startswith(b"<!doctype"):
        return "a web page, as a failed download leaves; download it again"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "it is text; export or copy it again"
    return "it has no NIfTI header; export or copy it again"


def dangling(path: Path) -> str | None:
    """Why a link leads to nothing, and the remedy; None where it is no such link."""
    if not path.is_symlink() or path.exists():
        return None
    if "annex/objects" in path.readlink().as_posix():
        return f"a link of git-annex to a file that is not here yet; {_FETCH_ANNEX}"
    return "there is no such file, or a link to nothing; fetch it (datalad get) or correct its path"


def unfetched(path: Path) -> bool:
    """Whether a file is but a link to nothing, or a pointer of git-annex or git-lfs."""
    if dangling(path) is not None:
        return True
    try:
        with path.open("rb") as stream:
            start = stream.read(32)
    except OSError:
        return False
    return start.startswith((b"version https://git-lfs", b"/annex/objects/"))
