"""A thread that is there while there is work for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["SerialThread"]

# A thread costs some 50 us to start; one that has had nothing to do for so long ends, so that a
# pool that nobody closes leaves none behind.
IDLE_SECONDS = 0.5


class SerialThread:
    """Runs functions one after the other, in a thread of its own.

    Parameters
    ----------
    name : str
        Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called, after those before it."""
        with self._changed:
            self._work.append((function, args))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def close(self) -> None:
        """Have the thread end as soon as it has nothing to do, without lingering."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self) -> None:
        """Wait until the thread has ended; not in the thread itself."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._work:
                    idle = self._closed or not self._changed.wait(IDLE_SECONDS)
                    if idle and not self._work:
                        self._thread = None
                        return
                function, args = self._work.popleft()
            try:
                function(*args)
            except BaseException as error:
                # A user's callback that raises is reported, as in any thread, and ends nothing.
                threading.excepthook(
                    threading.ExceptHookArgs(
                        (type(error), error, error.__traceback__, threading.current_thread())
                    )
                )
            del function, args
