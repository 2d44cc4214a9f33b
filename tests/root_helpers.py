"""What the tests that need root share: cgroups, other users, namespaces."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import pytest
from helpers import wait_until

# Users without a name or any rights; the one runs pyray, the other attacks.
ONE, OTHER = 64001, 64002


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[pathlib.Path]:
    """A cgroup of our own below the one that this process is in, version 1 or 2.

    Skips the test where none can be made.
    """
    made = None
    for directory in _parents():
        made = directory / f"pyray-test-{os.getpid()}-{time.monotonic_ns()}"
        try:
            made.mkdir()
            name = "memory.max" if (made / "memory.max").exists() else "memory.limit_in_bytes"
            (made / name).write_text(str(limit))
            break
        except OSError:
            with contextlib.suppress(OSError):
                made.rmdir()
            made = None
    if made is None:
        pytest.skip("no cgroup with a limit of memory can be made here")
    try:
        yield made
    finally:
        for pid in (made / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: _removed(made), 5, "the cgroup's end")


def _parents() -> list[pathlib.Path]:
    found = []
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            found.append(pathlib.Path("/sys/fs/cgroup/memory" + path))
            found.append(pathlib.Path("/sys/fs/cgroup/memory"))
        elif controllers == "":
            found.append(pathlib.Path("/sys/fs/cgroup" + path))
    return [p for p in found if p.is_dir()]


def _removed(directory: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def oom_kills(directory: pathlib.Path) -> int:
    """How often the kernel has killed in this cgroup."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in (directory / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    raise AssertionError("this cgroup does not count")
