"""Errors that are the user's to mend: one clear line, no traceback, a non-zero exit code."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from voxbench.datasets.base import DatasetError
from voxbench.methods.base import MethodError
from voxbench.reports.run_folder import ReportError


class BenchError(Exception):
    """A setting or a run folder cannot be used; the message says which, what is wrong and what to do."""


class AuditError(BenchError):
    """The leak audit found test data where none may be."""


USER_ERRORS = (BenchError, DatasetError, MethodError, ReportError)


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest choices, or all of them where none is near."""
    known = sorted(choices)
    near = get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
