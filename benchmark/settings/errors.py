"""Errors that are the user's to mend: one clear line, no traceback, a non-zero exit code."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import FULL, explained
from voxbench.methods.errors import MethodError
from voxbench.reports.reading.results import ReportError


class BenchError(Exception):
    """A setting or a run folder cannot be used; the message says which, what is wrong and what to do."""


class ContractError(MethodError):
    """A method breaks a rule of the contract (methods/base.py), where a MethodError is its own to raise."""


class AuditError(BenchError):
    """The leak audit found test data where none may be."""


USER_ERRORS = (BenchError, DatasetError, MethodError, ReportError)


def unexpected(error: BaseException) -> str:
    """One line on an error that nobody foresaw: its type, its text, and where in the author's own code it arose."""
    if isinstance(error, OSError) and error.errno in FULL:  # nobody's code is at fault
        return explained(error)
    frames = traceback.extract_tb(error.__traceback__)
    libraries = [Path(path) for path in sysconfig.get_paths().values()]  # Python's own and installed packages
    own = [frame for frame in frames if not any(map(Path(frame.filename).is_relative_to, libraries))]
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, OSError) and error.errno is not None:
        text = explained(error)
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = (own or frames)[-1:]
    return f"{line} ({Path(place[0].filename).name}, line {place[0].lineno})" if place else line


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest choices, or all of them where none is near."""
    known = sorted(choices)
    near = get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
