"""What another user's process tries on a session's: run as that user, with the session's pids.

It prints in JSON what it got and what it did not: (attempt, what came of it). Nothing but the
standard library, and nothing of pyray's.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
SYS_PIDFD_GETFD = 438


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return repr(os.read(fd, 64))
    finally:
        os.close(fd)


def read_at(path: str, address: int) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return repr(os.pread(fd, 16, address))
    finally:
        os.close(fd)


def write(path: str) -> str:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.close(fd)
    return "opened for writing"


def listed(path: str) -> str:
    return repr(os.listdir(path)[:3])


def trace(pid: int) -> str:
    checked(LIBC.ptrace(PTRACE_SEIZE, pid, 0, 0))
    LIBC.ptrace(PTRACE_DETACH, pid, 0, 0)
    return "attached"


def read_memory(pid: int, address: int) -> str:
    room = ctypes.create_string_buffer(16)
    mine = Vector(ctypes.cast(room, ctypes.c_void_p), 16)
    theirs = Vector(ctypes.c_void_p(address), 16)
    checked(LIBC.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))
    return repr(room.raw)


def take_descriptor(pid: int, fd: int) -> str:
    handle = os.pidfd_open(pid)
    try:
        os.close(checked(LIBC.syscall(SYS_PIDFD_GETFD, handle, fd, 0)))
    finally:
        os.close(handle)
    return "taken"


def end(pid: int) -> str:
    os.kill(pid, 0)
    return "may be signalled"


def connect(name: str) -> str:
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect(address)
    return "connected"


def attempts(pid: int, address: int, fds: list[int]) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield f"read mem of {pid}", lambda: read_at(f"/proc/{pid}/mem", address)
    for name in ("environ", "maps", "smaps", "auxv", "stack", "syscall"):
        yield f"read {name} of {pid}", lambda name=name: read(f"/proc/{pid}/{name}")
    for name in ("mem", "oom_score_adj", "comm", "coredump_filter", "clear_refs"):
        yield f"write {name} of {pid}", lambda name=name: write(f"/proc/{pid}/{name}")
    for name in ("fd", "fdinfo", "map_files", "cwd", "root"):
        yield f"list {name} of {pid}", lambda name=name: listed(f"/proc/{pid}/{name}")
    for fd in fds:
        yield f"open fd {fd} of {pid}", lambda fd=fd: read(f"/proc/{pid}/fd/{fd}")
        yield f"open fd {fd} of {pid} to write", lambda fd=fd: write(f"/proc/{pid}/fd/{fd}")
        yield f"take fd {fd} of {pid}", lambda fd=fd: take_descriptor(pid, fd)
    yield f"trace {pid}", lambda: trace(pid)
    yield f"read the memory of {pid}", lambda: read_memory(pid, address)
    yield f"signal {pid}", lambda: end(pid)


def main() -> None:
    targets = json.loads(sys.argv[1])
    got, failed = [], []
    for target in targets["processes"]:
        for what, attempt in attempts(target["pid"], target["address"], target["fds"]):
            try:
                got.append((what, str(attempt())))
            except OSError as error:
                failed.append((what, errno.errorcode.get(error.errno or 0)))
    for name in targets["sockets"]:
        try:
            got.append((name, connect(name)))
        except OSError as error:
            failed.append((name, errno.errorcode.get(error.errno or 0)))
    json.dump({"got": got, "failed": failed, "uid": os.getuid()}, sys.stdout)


if __name__ == "__main__":
    main()
