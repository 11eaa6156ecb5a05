"""What goes wrong in reporting and is the user's to mend."""

from __future__ import annotations


class ReportError(Exception):
    """A run folder cannot be reported; the message is for the user and needs no traceback."""
