"""A thread that is there while there is work for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
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
        self._work: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None]
        self._work = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called, after those before it."""
        self._work.put((function, args))
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Have the thread end as soon as it has nothing to do, without lingering."""
        self._closed = True
        self._work.put(None)

    def join(self) -> None:
        """Wait until the thread has ended; not in the thread itself."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=0 if self._closed else IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._work.empty():
                        self._thread = None
                        return
                continue
            if work is None:
                continue
            function, args = work
            try:
                function(*args)
            except BaseException as error:
                # A user's callback that raises is reported, as in any thread, and ends nothing.
                threading.excepthook(
                    threading.ExceptHookArgs(
                        (type(error), error, error.__traceback__, threading.current_thread())
                    )
                )
            del work, function, args
