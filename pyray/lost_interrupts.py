"""Ctrl-C where Python would lose it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class Raised:
    """Raise KeyboardInterrupt at the end of the block if one was lost inside.

    Python only prints one that strikes in a destructor or in a weak reference's callback, and goes
    on. Each import runs such a callback, and starting a session imports: one in some hundred
    presses meanwhile would have no effect.

    Parameters
    ----------
    undo : callable
        Takes back what the block has done; called before the interrupt is raised.
    """

    def __init__(self, undo: Callable[[], None]) -> None:
        self.undo = undo
        self.lost = False

    def __enter__(self) -> None:
        self.before = sys.unraisablehook
        self.hook = self._on_unraisable
        sys.unraisablehook = self.hook

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> None:
        if sys.unraisablehook is self.hook:
            sys.unraisablehook = self.before
        if self.lost and not isinstance(error, KeyboardInterrupt):
            self.undo()
            raise KeyboardInterrupt

    def _on_unraisable(self, what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            self.lost = True
        else:
            self.before(what)
