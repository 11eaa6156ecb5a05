"""Files that are whole or not there, and what the system's refusals mean in words that a user can act on."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

LONGEST_SHOWN = 120  # characters of a path whose very length may be the trouble

_WORDS = {
    errno.EACCES: ("permission denied", "change its rights, or name another place"),
    errno.EPERM: ("permission denied", "change its rights, or name another place"),
    errno.EROFS: ("the file system is read-only", "name a place that can be written to"),
    errno.ENAMETOOLONG: ("the name is too long", "use a shorter one"),
    errno.ENOSPC: ("no space is left on the disk", "free some, or name a folder on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or name a folder on another disk"),
    errno.EFBIG: ("the file would be too large", "raise the limit (ulimit -f), or name a folder on another disk"),
    errno.ENOENT: ("there is no such file or folder", "correct the path"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "correct the path"),
    errno.EEXIST: ("there is a file of this name", "name another place"),
    errno.EISDIR: ("is a folder, not a file", "correct the path, or remove it"),
    errno.ELOOP: ("its links lead in a circle", "correct the links"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n), or use fewer --workers"),
    errno.ENFILE: ("too many files are open on this machine", "wait, or use fewer --workers"),
    errno.ENOMEM: ("there is not enough memory", "use fewer --workers"),
    errno.EIO: ("the disk gives an input/output error", "copy the file again, or use another disk"),
    errno.ESTALE: ("the network drive has lost it", "run again"),
    errno.EINVAL: ("the file system does not take this name or write", "name another place"),
}
# What systems and tools put into any folder: one that has nothing else is empty to a user.
SYSTEM_FILES = frozenset(
    {".DS_Store", "._.DS_Store", ".localized", "Thumbs.db", "desktop.ini", ".directory", "lost+found", "@eaDir",
     ".gitkeep", ".gitignore", ".keep", ".ipynb_checkpoints"}
)  # fmt: skip
TEMPORARY = ".part-"  # how the name of a file begins that is being written
UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def cause(error: OSError) -> str:
    """What the system refused, in a few words without a path."""
    known = _WORDS.get(error.errno or 0)
    return known[0] if known else (error.strerror or str(error) or type(error).__name__)


def remedy(error: OSError) -> str:
    """What can be done about it in general."""
    known = _WORDS.get(error.errno or 0)
    return known[1] if known else "mend it, or name another place"


def explained(error: OSError) -> str:
    """One line: which file, why, and what to do. An error without a number or a file keeps its own text."""
    if error.errno is None:
        return " ".join(str(error).split()) or type(error).__name__
    where = f"{shortened(str(error.filename))}: " if error.filename is not None else ""
    return f"{where}{cause(error)}: {remedy(error)}"


def is_readable(path: Path) -> bool:
    """Whether there is a file that may be read; a path that the system refuses as such is none."""
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def shortened(path: str) -> str:
    """A path that fits on a line: the middle of an endless one is left out."""
    half = LONGEST_SHOWN // 2
    return path if len(path) <= LONGEST_SHOWN else f"{path[:half]} ... {path[-half:]}"


def write_whole(path: Path, write: Callable[[BinaryIO], object], *, private: bool = False) -> None:
    """Writes beside `path`, fsyncs, renames: readers see the old file, the new file, or none.

    Rights follow the umask, so that a colleague may read what the user lets colleagues read; a `private` file is its
    owner's alone from the first byte on. An OSError names `path`.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
