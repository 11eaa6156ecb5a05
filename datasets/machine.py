"""The user's folders on this machine, also where there is no home: in a container, in a job, for a service's user."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import cause

_LIBRARIES = (
    "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR",
    "XDG_DATA_HOME", "XDG_STATE_HOME",
)  # fmt: skip


def has_home() -> bool:
    """Whether a home folder can be told; without HOME and without an entry in passwd it cannot."""
    return os.path.expanduser("~") != "~"  # noqa: PTH111 - Path.home raises where there is none


def config_folder() -> Path | None:
    """Where the user's settings are kept; None where there is no home."""
    if not has_home() and not os.environ.get("XDG_CONFIG_HOME"):
        return None
    return Path(platformdirs.user_config_dir("voxbench"))


def cache_folder() -> tuple[Path, str | None]:
    """Where prepared volumes are kept if nothing is said, and a note where it is not the home's.

    Raises DatasetError where no folder can be written to.
    """
    why = "there is no home folder"
    if has_home() or os.environ.get("XDG_CACHE_HOME"):
        usual = Path(platformdirs.user_cache_dir("voxbench"))
        refusal = _refusal(usual)
        if refusal is None:
            return usual, None
        why = f"{usual}: {cause(refusal)}"
    temporary = _temporary(why)
    return temporary, f"{why}: prepared volumes are kept in {temporary} for now: name a --cache folder to keep them"


def quiet_libraries() -> None:
    """Gives libraries that would look for a name or a home of the user what they need where there is none.

    matplotlib, PyTorch's compiler and wandb look for one when they are imported, and each has its own way to fail.
    """
    if not _has_name():
        os.environ["USER"] = f"user-{os.getuid()}"  # getpass.getuser looks here before it asks passwd
    if has_home() and _refusal(Path(platformdirs.user_cache_dir("voxbench"))) is None:
        return
    try:
        folder = _temporary("there is no home folder that can be written to")
    except DatasetError:
        return  # said where a folder is needed
    for variable in _LIBRARIES:
        os.environ.setdefault(variable, str(folder / "libraries" / variable.lower()))


def _has_name() -> bool:
    if not hasattr(os, "getuid"):
        return True
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME"))
    return True


def _refusal(folder: Path) -> OSError | None:
    """Why `folder` could not be made or written to, or None; makes nothing."""
    try:
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        return error
    if not above.is_dir():
        return NotADirectoryError(errno.ENOTDIR, "Not a directory", str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        return PermissionError(errno.EACCES, "Permission denied", str(above))
    return None


def _temporary(why: str) -> Path:
    """A folder of this user alone under the system's temporary one; the same in every call, so that it serves again."""
    who = os.getuid() if hasattr(os, "getuid") else "user"
    advice = "name a --cache folder, or set HOME or TMPDIR to one that can be written to"
    try:
        folder = Path(tempfile.gettempdir()) / f"voxbench-{who}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DatasetError(f"{why}, and no temporary folder can be written to ({cause(error)}): {advice}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != who or found.st_mode & 0o077:
        raise DatasetError(f"{why}, and {folder} is not this user's alone: {advice}")
    return folder
