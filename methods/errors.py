"""What a method raises; apart, so that a command that only says what is wrong need not wait for PyTorch."""

from __future__ import annotations


class MethodError(Exception):
    """A method cannot work with what it was given; the message is for the user and needs no traceback."""
