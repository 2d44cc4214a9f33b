"""What keeps others out, as far as it can be seen without being another user.

Attacks by one are in test_root_attacks.py; SECURITY.md says who is trusted with what.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import socket
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from root_helpers import assert_no_names_or_ports, sockets_of

import pyray
from pyray import api

F_GET_SEALS, F_ADD_SEALS = 1034, 1033
SEALS = {"seal": 1, "shrink": 2, "grow": 4, "write": 8, "future write": 16}


@pytest.fixture(params=[0, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def memory_fd(pid: int | str = "self") -> int:
    """The number of the descriptor of the session's memory in a process."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if "memfd:pyray" in os.readlink(f"/proc/{pid}/fd/{name}"):
                return int(name)
        except FileNotFoundError:
            continue
    raise AssertionError("there is none")


def test_nothing_listens(ray: Any) -> None:
    ray.get(ray.remote(os.getpid).remote())
    assert_no_names_or_ports(api.processes())


def test_the_proof_would_see_what_listens(tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as named, socket.socket() as port:
        named.bind("\0pyray-test-" + str(os.getpid()))
        named.listen()
        assert any(len(line.split()) > 7 for line in sockets_of([os.getpid()], "unix", 6))
        port.bind(("127.0.0.1", 0))
        port.listen()
        assert sockets_of([os.getpid()], "tcp", 9)
        with pytest.raises(AssertionError):
            assert_no_names_or_ports([os.getpid()])


def test_the_memory_is_the_users_alone_whatever_the_umask(any_umask: int) -> None:
    pyray.init(num_cpus=1, object_store_memory=1 << 20)
    found = os.fstat(memory_fd())
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_nlink == 0


def test_the_memory_cannot_be_cut_short_under_those_who_use_it(ray: Any) -> None:
    """Whoever touched a page that is gone would be killed by SIGBUS: driver, node and all."""

    @ray.remote
    def attempts() -> list[str]:
        fd = memory_fd()
        size = os.fstat(fd).st_size
        got = []
        for n in (0, size // 2, size + 4096):
            try:
                os.ftruncate(fd, n)
                got.append(f"cut to {n}")
            except PermissionError:
                continue
        for seal in SEALS.values():
            try:
                fcntl.fcntl(fd, F_ADD_SEALS, seal)
                got.append(f"added seal {seal}")
            except PermissionError:
                continue
        return got

    assert ray.get(attempts.remote()) == []
    seals = fcntl.fcntl(memory_fd(), F_GET_SEALS)
    assert seals & SEALS["shrink"] and seals & SEALS["grow"] and seals & SEALS["seal"]


def test_objects_are_not_in_core_dumps(ray: Any) -> None:
    def flags() -> list[bool]:
        found, ours = [], False
        for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                ours = "memfd:pyray" in line
            elif ours and line.startswith("VmFlags:"):
                found.append("dd" in line.split())
        return found

    for where in (flags(), ray.get(ray.remote(flags).remote())):
        assert len(where) >= 2
        assert all(where)


def test_command_lines_say_nothing_of_the_session(ray: Any) -> None:
    """They are for all to read."""

    @ray.remote
    def work(secret: str) -> str:
        return pathlib.Path("/proc/self/cmdline").read_text()

    ray.get(work.remote("correct horse battery staple"))
    for pid in api.processes()[1:]:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
        assert words[1] == "-P"
        assert words[2].endswith("__main__.py")
        assert all(word.isdigit() for word in words[3:])


def test_programs_that_are_started_inherit_nothing(ray: Any) -> None:
    """One may run as somebody else: sudo, or whatever has its user's rights."""

    def inherited() -> list[str]:
        out = subprocess.run(
            ["sh", "-c", "ls -l /proc/$$/fd"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            close_fds=False,
        ).stdout
        return [w for w in ("memfd", "socket:", "eventfd", "pidfd", "timerfd", "poll") if w in out]

    @ray.remote
    class Actor:
        def look(self) -> list[str]:
            return inherited()

    assert inherited() == []
    assert ray.get(ray.remote(inherited).remote()) == []
    assert ray.get(Actor.remote().look.remote()) == []
