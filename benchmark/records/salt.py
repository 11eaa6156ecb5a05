"""The secret from which the codes of patients and volumes are made: where it is looked for, and where it is kept.

First ``VOXBENCH_SALT``, then the run folder's own (``RUN/private/salt``), then the machine's. Whichever it is, the run
folder keeps it beside the ids that it hides, so that the folder can be continued where nothing else is kept: in a
container, in a job's temporary home, on another machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from voxbench.benchmark.settings.errors import BenchError
from voxbench.datasets.files import cause, remedy, write_whole
from voxbench.datasets.machine import config_folder

VARIABLE = "VOXBENCH_SALT"


def place(run: Path) -> Path:
    """Where a run folder keeps its salt."""
    return run / "private" / "salt"


def known_salt(run: Path) -> bytes | None:
    """The salt that a run in this folder would have, or None where it would be made; writes nothing."""
    given = os.environ.get(VARIABLE)
    if given:
        return os.fsencode(given)  # the user's bytes, whatever language the terminal is set to
    return _read(place(run)) or _machines()


def kept_salt(run: Path) -> bytes:
    """The salt of a run folder, made where there is none, and kept in the folder from now on."""
    salt = known_salt(run) or _made()
    if _read(place(run)) != salt:
        private = place(run).parent
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.chmod(0o700)
        write_whole(place(run), lambda file: file.write(salt), private=True)
    return salt


def _machines() -> bytes | None:
    """The user's salt of this machine; None where there is none, or where the home cannot be looked into."""
    folder = config_folder()
    if folder is None:
        return None
    try:
        return _read(folder / "salt")
    except BenchError:
        if os.access(folder, os.X_OK):  # there is one, and another one in its place would go unnoticed
            raise
        return None


def _made() -> bytes:
    """A new salt, the machine's from now on where its home can keep one; so that the user's runs can be paired."""
    salt = secrets.token_hex(32).encode()
    folder = config_folder()
    if folder is None:
        return salt
    path = folder / "salt"
    new = folder / f".salt-{secrets.token_hex(6)}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(new, lambda file: file.write(salt), private=True)
        with contextlib.suppress(FileExistsError):  # a link is made whole or not at all, and by one process alone
            os.link(new, path)
    except OSError:  # a home that keeps nothing: the run folder has it
        return salt
    finally:
        with contextlib.suppress(OSError):
            new.unlink()
    return _read(path) or salt


def _read(path: Path) -> bytes | None:
    try:
        salt = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BenchError(f"{path}: {cause(error)}: {remedy(error)}, or set {VARIABLE} to the salt") from error
    if not salt:
        raise BenchError(f"{path} is empty: delete it, or set {VARIABLE} to the salt that the results were made with")
    return salt
