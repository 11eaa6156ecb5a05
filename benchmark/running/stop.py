"""Ending early: the first signal asks a run to finish what it writes, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class Stop:
    """Whether an end was asked for, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether to start nothing more, and to leave what runs at its next step."""
        return self.signal is not None

    @contextmanager
    def listening(self, signals: Sequence[int], tell: Callable[[], None]) -> Iterator[None]:
        """Takes the signals for a block; `tell` says what was understood. The second raises KeyboardInterrupt.

        A signal that is ignored, as Ctrl-C is by a shell's background jobs, stays so.
        """
        main = threading.current_thread() is threading.main_thread()  # Python lets no other set handlers
        before = {number: signal.getsignal(number) for number in signals if main}
        taken = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}

        def handle(number: int, _: object) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.signal = number
            tell()

        for number in taken:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, old in taken.items():
                signal.signal(number, old)
