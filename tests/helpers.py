"""What tests share: waiting for conditions, looking at processes, running scripts.

Light on purpose: tasks of the tests import it in the workers.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

LIMIT = 20.0

# How much longer everything may take: the core under a sanitizer, say, is several times slower.
SLOWNESS = float(os.environ.get("PYRAY_SLOWNESS", "1"))

# It needs address space by the terabyte, and memory of its own: see the mark `no_asan`.
UNDER_ASAN = "libasan" in os.environ.get("LD_PRELOAD", "")


def wait_until(
    condition: Callable[[], Any], seconds: float = LIMIT, what: str = "the condition"
) -> Any:
    """Poll until the condition holds; returns what it gave. Fails after so many seconds."""
    end = time.monotonic() + seconds * SLOWNESS
    pause = 0.0005
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about within {seconds:g} s (last: {value})")
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def patience(seconds: float) -> float:
    """So many seconds, and more where others want the processors too: at most ten times as many.

    For what is promised within some seconds, which presumes a processor to do it.
    """
    load, _, _, entities, _ = pathlib.Path("/proc/loadavg").read_text().split()
    wanting = max(float(load), float(entities.split("/")[0]))  # the first lags behind by a minute
    return seconds * SLOWNESS * min(10.0, 1 + wanting / len(os.sched_getaffinity(0)))


class Gate:
    """Something that tasks wait at until another process opens it; a file, so no pyray in it."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)

    def open(self) -> None:
        pathlib.Path(self.path).touch()

    def is_open(self) -> bool:
        return os.path.exists(self.path)

    def wait(self, seconds: float = LIMIT) -> None:
        wait_until(self.is_open, seconds, f"gate {os.path.basename(self.path)}")


class Tally:
    """Counts across processes: each `add` appends a line to a file."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)
        pathlib.Path(self.path).touch()

    def add(self, text: Any = "x") -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{text}\n".encode())
        os.close(fd)

    def lines(self) -> list[str]:
        return pathlib.Path(self.path).read_text().splitlines()

    def __len__(self) -> int:
        return len(self.lines())


# ---- processes ---------------------------------------------------------------------------------


def process_state(pid: int) -> tuple[str, int] | None:
    """(state letter, parent) of a process, or None if there is none."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1])


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie that is not our child counts as gone: init reaps lazily."""
    state = process_state(pid)
    return state is not None and (state[0] not in "ZX" or state[1] == os.getpid())


def parents() -> dict[int, int]:
    """Each process's parent."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            state = process_state(int(name))
            if state is not None:
                found[int(name)] = state[1]
    return found


def descendants(pid: int | None = None) -> list[int]:
    """Children of a process (default: this one), their children, and so on; zombies too."""
    tree = parents()
    found = [os.getpid() if pid is None else pid]
    for parent in found:
        found.extend(p for p, pp in tree.items() if pp == parent and p not in found)
    return found[1:]


def command(pid: int) -> str:
    """A process's command line, or its name."""
    for file in ("cmdline", "comm"):
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{pid}/{file}").read_bytes().replace(b"\0", b" ").strip()
            if text:
                return text.decode(errors="replace")
    return "?"


def open_fds() -> dict[int, str]:
    """This process's descriptors, and what they are open on."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def store_mappings(pid: int | str = "self") -> list[str]:
    """Lines of a process's memory map that show pyray's memory."""
    lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "memfd:pyray" in line]


def resident(pid: int | str = "self") -> int:
    """Bytes of a process's memory that are its own: without what it shares through memfds."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon in /proc")


def rollup() -> dict[str, int]:
    """Bytes of this process's memory by kind, as the kernel adds them up page by page."""
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}


# ---- the session of this process ---------------------------------------------------------------


def check_books() -> None:
    """If this process has a session, its books are in order: see pyray/accounting.py. It takes some
    milliseconds."""
    from pyray import accounting, session

    current = session.current()
    if not isinstance(current, session.Session) or current.local_mode:
        return
    if session.is_initialized():
        with contextlib.suppress(accounting.NodeDiedError):
            accounting.validate(3.0)


# ---- scripts -----------------------------------------------------------------------------------


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment with changes; None removes."""
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def run_python(
    *arguments: str, cwd: Any = None, timeout: float = 40, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments; fails the test unless it exits with 0."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        timeout=timeout,
        env=env or environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def run_script(path: Any, source: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Write a script and run it in its folder."""
    path = pathlib.Path(path)
    path.write_text(source)
    options.setdefault("cwd", path.parent)
    return run_python(str(path), **options)


@contextlib.contextmanager
def running(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is killed and reaped at the end if it still runs."""
    options.setdefault("env", environment())
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    try:
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
    finally:
        process.kill()
        process.wait()
