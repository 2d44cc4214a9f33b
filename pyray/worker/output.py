"""What a task prints: whole lines, marked with the task's name, on the worker's pipes.

A line that Python code prints goes out as ``NUL name NUL line``; what C code or a child process
writes to the descriptors comes without a mark.  The node adds the pid and passes both on.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any

from pyray._core import running


class TaskOutput(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a worker.

    Parameters
    ----------
    fd : int
        1 or 2.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._partial = ""
        self.buffer = io.FileIO(fd, "wb", closefd=False)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        whole, newline, rest = (self._partial + text).rpartition("\n")
        self._partial = rest
        if newline:
            self._send(whole)
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._partial:
            self._partial, text = "", self._partial
            self._send(text)

    def _send(self, text: str) -> None:
        mark = f"\0{running.current_name()}\0"
        data = "".join(f"{mark}{line}\n" for line in text.split("\n"))
        raw = data.encode(self.encoding, self.errors)
        while raw:
            raw = raw[os.write(self._fd, raw) :]
