"""What the tests that need root share: cgroups, other users, namespaces."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import cloudpickle
import numpy
import pytest
from helpers import wait_until

import pyray

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


def become(user: int) -> None:
    """In a child, before its program: be this user for good, with no rights."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


@functools.cache
def python_for_all() -> tuple[str, str]:
    """(a Python that users without rights can run, the PYTHONPATH that it needs).

    The one of the tests may lie in root's home; then the system's, of the same version, does.
    """
    root = str(pathlib.Path(pyray.__file__).parent.parent)
    libraries = sorted({str(pathlib.Path(m.__file__).parent.parent) for m in (numpy, cloudpickle)})
    path = ":".join([root, *libraries])
    version = "{}.{}".format(*sys.version_info)
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$0" -c "import pyray._core.shm, numpy, cloudpickle"', python],
            env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=lambda: become(ONE),
            capture_output=True,
            cwd="/",
        )
        if done.returncode == 0:
            return python, path
    pytest.skip(f"no Python {version} here that a user without rights can run")


def run_as(
    user: int, script: pathlib.Path, *arguments: str, shell: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as a user without rights; `shell` goes before, as root."""
    python, path = python_for_all()
    command = [python, str(script), *arguments]
    if shell:
        words = shlex.join(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"])
        command = ["unshare", "-m", "sh", "-ec", f"{shell}\nexec {words} {shlex.join(command)}"]
    return subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **env},
        preexec_fn=None if shell else lambda: become(user),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


# ---- sockets -----------------------------------------------------------------------------------


def sockets_of(pids: list[int], kind: str, inode_at: int) -> list[str]:
    """Lines of /proc/net about sockets that these processes have open."""
    ours = set()
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
                if found:
                    ours.add(found[1])
    lines = pathlib.Path(f"/proc/{pids[0]}/net/{kind}").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[inode_at] in ours]


def names_of_sockets(pids: list[int]) -> list[str]:
    """Names of Unix sockets that belong to these processes."""
    return [line.split()[7] for line in sockets_of(pids, "unix", 6) if len(line.split()) > 7]


def assert_no_names_or_ports(pids: list[int]) -> None:
    """Nobody can connect to these processes: all they have are pairs that were inherited."""
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "udplite", "udplite6"):
        if os.path.exists(f"/proc/{pids[0]}/net/{kind}"):
            assert not sockets_of(pids, kind, 9)
    assert not sockets_of(pids, "packet", 8)
    assert not sockets_of(pids, "netlink", 9)
    unix = sockets_of(pids, "unix", 6)
    assert unix
    for line in unix:
        assert len(line.split()) == 7, f"a socket with a name: {line}"
        assert not int(line.split()[3], 16) & 0x10000, f"a socket that listens: {line}"
