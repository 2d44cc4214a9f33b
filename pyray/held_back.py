"""Ctrl-C that waits until what is being done is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from pyray._core.annotations import Any


class HeldBack:
    """A Ctrl-C in the block takes effect at the block's end.

    What is half made when an interrupt strikes would stay: a process that nobody reaps, open
    descriptors.  And Python loses those that strike in a destructor or in the callback of a weak
    reference, of which each import runs one: it prints a line and goes on.

    Attributes
    ----------
    hurry : callable or None
        Called at once, in the main thread, wherever that is in the block.
    """

    def __init__(self) -> None:
        self.hurry: Callable[[], None] | None = None
        self._pressed = False
        self._before: Any = None

    def __enter__(self) -> HeldBack:
        # Other threads are not interrupted; nor is there anything to hold back where Python has no
        # handler.
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            try:
                self.let_through()
            except KeyboardInterrupt as interrupt:
                raise interrupt from None  # whatever else went wrong is due to the hurry

    def let_through(self) -> None:
        """Let what has been held back take effect now."""
        if self._pressed:
            self._pressed = False
            self._before(signal.SIGINT, None)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._pressed = True
        if self.hurry is not None:
            self.hurry()
