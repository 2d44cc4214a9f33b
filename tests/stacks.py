"""What every process of the tests is doing: for a test that does not end.

Of each: what the kernel says of its threads, and the Python stacks of those that answer (see
`pyray.stacks`), which go on unharmed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import tempfile
import time
from collections.abc import Callable

import helpers

from pyray import stacks

ANSWER_SECONDS = 2.0


def prepare() -> None:
    """From now on the sessions that this process starts, and their drivers, answer."""
    fd, path = tempfile.mkstemp(prefix="stacks-of-tests-")
    os.close(fd)
    os.environ[stacks.VARIABLE] = path


def clear() -> None:
    """Remove the file."""
    path = os.environ.pop(stacks.VARIABLE, "")
    with contextlib.suppress(OSError):
        os.unlink(path)


def relatives() -> list[int]:
    """All processes that descend from this one, or have its environment: orphans too."""
    found = set(helpers.descendants())
    mark = f"{stacks.VARIABLE}={os.environ.get(stacks.VARIABLE)}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (*found, os.getpid()):
            with contextlib.suppress(OSError):
                if mark in pathlib.Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.add(int(name))
    return sorted(found)


def answers(pid: int) -> bool:
    """Whether a process has a handler for the signal; another would end by it."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (stacks.SIGNAL - 1) & 1)
    return False


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text().strip()
    return ""


def kernel_view(pid: int) -> list[str]:
    """A line for each thread: state, what it waits for, the system call; and stacks, as root."""
    lines = []
    with contextlib.suppress(OSError):
        for thread in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
            place = f"/proc/{pid}/task/{thread}"
            state = _read(f"{place}/stat").rpartition(")")[2].split()[:1]
            call = " ".join(_read(f"{place}/syscall").split()[:4])
            lines.append(
                f"  thread {thread} {_read(f'{place}/comm')}: {''.join(state)} in "
                f"{_read(f'{place}/wchan') or '?'}, system call {call or '?'}"
            )
            lines += [f"    {line}" for line in _read(f"{place}/stack").splitlines()[:8]]
    return lines


def python_stacks(pid: int) -> str:
    """What a process answers; empty if it doesn't."""
    path = os.environ.get(stacks.VARIABLE)
    if not path or not answers(pid):
        return ""
    before = os.path.getsize(path)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, stacks.SIGNAL)
    end = time.monotonic() + ANSWER_SECONDS
    size = before
    while time.monotonic() < end:
        time.sleep(0.02)
        now = os.path.getsize(path)
        if now > before and now == size:
            break  # nothing more since the last look
        size = now
    with open(path, "rb") as file:
        file.seek(before)
        return file.read().decode(errors="replace")


def dump(write: Callable[[str], None]) -> None:
    """Say of every process what it does."""
    for pid in relatives():
        write(f"==== {pid} {helpers.process_state(pid)} {helpers.command(pid)}")
        for line in kernel_view(pid):
            write(line)
        write(python_stacks(pid) or "  (no Python stacks: it does not answer)")


def kill_all() -> None:
    for pid in relatives():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
