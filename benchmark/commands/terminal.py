"""What every command prints to: it never fails because of a character that is not there or a reader who has left."""

from __future__ import annotations

import gc
import os
import sys
from typing import IO, NoReturn

from rich.console import Console

from voxbench.reports.tables.characters import HANDLER

INTERRUPTED = 130  # exit code


class Terminal(Console):
    """A console that knows its stream's characters, and goes on in silence where nobody reads any more.

    The work is what counts: `bench run ... | head` still ends with all its files.
    """

    @property
    def encoding(self) -> str:
        """Of the stream that is written to: rich takes it for UTF-8 where it is standard output."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()

    def on_broken_pipe(self) -> None:
        """Called by rich when the reader of the stream has gone."""
        self.quiet = True
        _discard(self.file)


def duration(seconds: float) -> str:
    """For a person: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def open_streams() -> None:
    """Standard output and error replace what they cannot encode, in place of an error after all the work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def close_streams() -> None:
    """Flushes; a reader who has left, or a full disk behind a redirection, is no traceback at Python's end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _discard(stream)
        except AttributeError:  # None: the command was started with a closed stream
            continue


def _discard(stream: IO[str]) -> None:
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # closed, or not a file: nothing more is written to it
        return


def stopped() -> NoReturn:
    """Says so and ends the process: workers are gone, and threads that wait for them need not be waited for."""
    Terminal(stderr=True).print(
        "stopped: what is done is kept, and the same command goes on from there", soft_wrap=True
    )
    close_streams()
    gc.collect()  # semaphores of the workers' queue, of which Python would complain
    os._exit(INTERRUPTED)
