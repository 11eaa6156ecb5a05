"""A NIfTI file is read to its end: a gzip's checksum and length stand last, and nothing before them proves it whole.

What a file is, is told by its bytes; names count in any capitals. Headers are read without nibabel's log, whose lines
name no file: what it would mend is mended without a word, what it cannot is said in words.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy

from voxbench.datasets.files import cause, remedy
from voxbench.datasets.volumes.lookalikes import BZIP2, GZIP, PEEK, dangling, lookalike

MM = {1: 1000.0, 3: 0.001}  # by the header's code for metres and microns; all else is mm
UNIT_NAMES = {1: "metres", 3: "microns"}
SINGLE, PAIR, SECOND = b"n+1\0", b"ni1\0", (b"n+2\0", b"ni2\0")  # magic words of NIfTI-1 and NIfTI-2
GZIP_MOST = 1100  # bytes that one byte of deflate can stand for, and a little
STEP = 1 << 20
PACKED = (gzip.GzipFile, bz2.BZ2File)

_quiet = logging.Logger("nibabel, unheard")
_quiet.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Image:
    """What a header says, and the voxels, which are read when they are asked for."""

    header: Any  # a nib.Nifti1Header or one of its kin
    voxels: ArrayProxy

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the voxels, all dimensions."""
        return tuple(self.header.get_data_shape())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels as they are stored."""
        found: np.dtype[Any] = self.header.get_data_dtype()
        return found

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """By sform, else by qform, else by the voxel sizes alone; in the header's own unit."""
        return np.asarray(self.header.get_best_affine(), dtype=np.float64)


class NiftiError(Exception):
    """A file cannot be used as a volume; the message says what is wrong and what to do, without the file's
    name."""


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """The image of a NIfTI file (or .hdr/.img pair), its voxels not yet read; on leaving, the file is read to its end.

    Whatever is wrong with the file, here or when voxels are read inside the block, is a NiftiError.
    """
    try:
        _refuse_absent(path)
        with ExitStack() as streams:
            streams.enter_context(np.errstate(all="ignore"))  # what overflows becomes infinite, and is refused as such
            head_path, data_path = _parts(path)
            head = _stream(head_path, streams)
            header = _header(head.read(PEEK), path)
            data = head if data_path == head_path else _stream(data_path, streams)
            _refuse_short(header, data, data_path)
            yield Image(header, ArrayProxy(data, header.copy(), mmap=False))
            for stream in (head, data):
                while isinstance(stream, PACKED) and stream.read(STEP):
                    pass
    except (EOFError, zlib.error, gzip.BadGzipFile, MemoryError, ValueError, OverflowError) as error:
        raise NiftiError(f"cut short or damaged: copy it again ({_damage(error)})") from error
    except OSError as error:
        if error.errno is None:  # nibabel or bz2, on what it read
            raise NiftiError(f"cut short or damaged: copy it again ({_damage(error)})") from error
        raise NiftiError(f"cannot be read ({cause(error)}); {remedy(error)}") from error


def unit_mm(header: Any) -> float:
    """What one of the header's units of length is in mm; an unknown one is taken as mm."""
    return MM.get(int(header["xyzt_units"]) & 7, 1.0)


def unit_name(header: Any) -> str:
    """The header's unit of length, if it is one that is no mm."""
    return UNIT_NAMES.get(int(header["xyzt_units"]) & 7, "")


def unit_of_file(path: Path) -> float:
    """`unit_mm` of a file, by its header alone; 1 for a file that cannot be read."""
    try:
        with ExitStack() as streams:
            return unit_mm(_header(_stream(_parts(path)[0], streams).read(PEEK), path))
    except (NiftiError, EOFError, zlib.error, ValueError, OSError):
        return 1.0


def _refuse_absent(path: Path) -> None:
    nothing = dangling(path)
    if nothing is not None:
        raise NiftiError(nothing)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        if "\\" in str(path):
            raise NiftiError("there is no such file; write / for \\ between folders") from error
        raise NiftiError("there is no such file; correct the path (it is relative to the folder of the CSV)") from error
    if path.is_dir():
        raise NiftiError("a folder, not a file; name the file in it")
    if not path.is_file():
        raise NiftiError("a device or a pipe, not a file; copy its content to a file")
    if path.stat().st_size == 0:
        raise NiftiError("the file is empty (0 bytes); copy or export it again")


def _parts(path: Path) -> tuple[Path, Path]:
    """Header and voxels: one file, or both of an .hdr/.img pair."""
    base, ending, packed = path.name, "", ""
    if base.lower().endswith(".gz"):
        base, packed = base[:-3], base[-3:]
    base, ending = base[:-4], base[-4:]
    if ending.lower() not in (".hdr", ".img"):
        return path, path
    found = []
    for wanted in (".hdr", ".img"):
        endings = (ending, wanted, wanted.upper()) if ending.lower() == wanted else (wanted, wanted.upper())
        names = [f"{base}{e}{p}" for e in endings for p in (packed, "", ".gz")]
        there = [path.parent / name for name in names if (path.parent / name).is_file()]
        if not there:
            raise NiftiError(f"half of an .hdr/.img pair, whose {wanted} is missing; add it, or convert to .nii.gz")
        found.append(there[0])
    return found[0], found[1]


def _stream(path: Path, streams: ExitStack) -> IO[bytes]:
    """The file's bytes, unpacked; raises NiftiError where its name says the contrary of its content."""
    raw = streams.enter_context(path.open("rb"))
    start = raw.read(PEEK)
    raw.seek(0)
    named = path.name.lower()
    if start.startswith((GZIP, BZIP2)):
        ending, packer = (".gz", "gzip") if start.startswith(GZIP) else (".bz2", "bzip2")
        if named.endswith(".nii"):
            raise NiftiError(f"compressed by {packer}, though called {path.suffix}; rename it to {path.name}{ending}")
        unpacked: Any = gzip.GzipFile(fileobj=raw) if packer == "gzip" else bz2.BZ2File(raw)
        return cast(IO[bytes], streams.enter_context(unpacked))
    if named.endswith((".gz", ".bz2")):
        if _kind(start) is None:
            raise NiftiError(f"not a readable NIfTI file: {lookalike(start, path.name)}")
        raise NiftiError(f"not compressed, though called {path.suffix}; rename it to {path.name[: -len(path.suffix)]}")
    return raw


def _kind(start: bytes) -> Any:
    """The header's class, by its magic word; None where there is none."""
    if start[4:8] in SECOND:
        return nib.Nifti2Header if start[4:8] == SECOND[0] else nib.nifti2.Nifti2PairHeader
    return {SINGLE: nib.Nifti1Header, PAIR: nib.nifti1.Nifti1PairHeader}.get(start[344:348])


def _header(start: bytes, path: Path) -> Any:
    """The header, mended where nibabel knows how; raises NiftiError where it does not, or where sizes make no sense."""
    kind = _kind(start)
    if kind is None or len(start) < kind.sizeof_hdr:
        raise NiftiError(f"not a readable NIfTI file: {lookalike(start, path.name)}")
    is_half = start[4:7] == b"ni2" or start[344:347] == b"ni1"
    if is_half and not path.name.lower().removesuffix(".gz").endswith((".hdr", ".img")):
        raise NiftiError("half of an .hdr/.img pair under another name; convert the pair to .nii.gz")
    try:
        header = kind(start[: kind.sizeof_hdr], check=False)
        sizes = header["pixdim"][1:4].copy()
        header.check_fix(logger=_quiet, error_level=40)
        header.get_best_affine(), header.get_slope_inter(), header.get_data_dtype(), int(header["vox_offset"])
        shape = header.get_data_shape()
    except Exception as error:  # whatever a broken header makes nibabel raise
        raise NiftiError(f"not a readable NIfTI file: {_header_words(error)}; export it again") from error
    if min(shape, default=0) < 1:
        size = "x".join(str(n) for n in shape)
        raise NiftiError(f"not a readable NIfTI file: its header is damaged ({size or 'no'} voxels); export it again")
    if not header["sform_code"] and not sizes.all():
        raise NiftiError("the header gives no voxel size along an axis, and no sform; export it again")
    return header


def _header_words(error: Exception) -> str:
    """What nibabel found in a header, without names of classes."""
    text = " ".join(str(error).split()).rstrip(".")
    words = "its header is damaged"
    if "w2 should be positive" in text:  # a quaternion that is none
        return "its qform is no rotation, so left and right are not known"
    if isinstance(error, KeyError | AttributeError | IndexError | TypeError) or not text:
        return words
    return f"{words} ({text if len(text) <= 120 else text[:117] + '...'})"


def _refuse_short(header: Any, data: IO[bytes], path: Path) -> None:
    """Said from the sizes, before room for the voxels is asked for."""
    need = int(header["vox_offset"]) + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    there = path.stat().st_size
    if isinstance(data, gzip.GzipFile):
        short = need > there * GZIP_MOST
    elif isinstance(data, bz2.BZ2File):
        short = False  # bzip2 packs even more
    else:
        short = need > there
    if short:
        raise NiftiError(f"cut short or damaged: copy it again (its header tells of {need} bytes, it has {there})")


def _damage(error: BaseException) -> str:
    """In words, what a reader found."""
    text = str(error)
    if isinstance(error, EOFError):
        return "it ends in the middle of its compressed data"
    if "CRC" in text:
        return "its gzip checksum is wrong"
    if "Incorrect length" in text:
        return "its gzip length is wrong"
    if "Not a gzipped file" in text:
        return "something else follows its gzip data"
    if isinstance(error, MemoryError):
        return "its header tells of more voxels than there is memory for"
    if "bytes" in text and "Expected" in text:
        return "it holds fewer voxels than its header tells of"
    return "its compressed data are broken" if isinstance(error, zlib.error | OSError) else "its voxels cannot be read"
