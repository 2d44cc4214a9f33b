"""The worker pool: forking workers, reading what they print, reaping them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from multiprocessing.context import ForkContext
from typing import Any

from pyray import protocol
from pyray._core import control

LINE_CAP = 1 << 16


class Pipe:
    """One of a worker's output streams, cut into marked lines.

    Parameters
    ----------
    fd : int
        The reading end.
    stream : int
        1 for standard output, 2 for standard error.
    """

    def __init__(self, fd: int, stream: int) -> None:
        self.fd = fd
        self.stream = stream
        self._rest = b""
        os.set_blocking(fd, False)

    def read(self, pid: int) -> tuple[list[bytes], bool]:
        """Frames for the driver, and whether the pipe is at its end."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return [], False
        except OSError:
            data = b""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if self._rest and (not data or len(self._rest) > LINE_CAP):
            lines.append(self._rest)
            self._rest = b""
        return [self._frame(pid, line) for line in lines], not data

    def _frame(self, pid: int, line: bytes) -> bytes:
        name = b""
        if line.startswith(b"\0"):
            name, _, line = line[1:].partition(b"\0")
        return protocol.output(self.stream, pid, name or b"worker", line)


class Worker:
    """A worker process as its parent sees it.

    Attributes
    ----------
    slot, pid, pidfd : int
        Its number in the session, its process ID, and a descriptor that is readable once it ended.
    pipes : list of Pipe
        What it prints.
    link : socket.socket
        For calls from it.
    up, retired : bool
        Whether it has come up; whether it was told to end.
    task : int or None
        The task with resources of its own that it was given.
    state : int
        Where that task stood when the shell last looked.
    between : tuple of (int, float), or None
        How many tasks it had run when it was first seen between two of them, and when that was.
    """

    def __init__(self, slot: int, process: Any, pipes: list[Pipe], link: socket.socket) -> None:
        self.slot = slot
        self.process = process
        self.pid: int = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        self.pipes = pipes
        self.link = link
        self.frames = protocol.Frames()
        self.up = False
        self.retired = False
        self.task: int | None = None
        self.state = 0
        self.between: tuple[int, float] | None = None

    def close(self) -> None:
        """Give back the descriptors of a worker that has been reaped."""
        for pipe in self.pipes:
            os.close(pipe.fd)
        self.pipes = []
        self.link.close()
        os.close(self.pidfd)
        self.process.close()


def fork_worker(
    context: ForkContext, config: dict[str, Any], close_in_child: Callable[[], None]
) -> Worker | None:
    """Fork one worker; None when all process slots are taken."""
    slot = control.reserve_slot()
    if slot is None:
        return None
    opened: list[int] = []
    try:
        opened += os.pipe2(os.O_CLOEXEC)
        opened += os.pipe2(os.O_CLOEXEC)
        ours, theirs = socket.socketpair()
        opened += [ours.detach(), theirs.detach()]
        return _fork(context, config, close_in_child, slot, opened)
    except OSError:
        # Out of descriptors, processes or memory: one worker fewer, not the end of the session.
        for fd in opened:
            os.close(fd)
        control.release_slot(slot)
        return None


def _fork(
    context: ForkContext,
    config: dict[str, Any],
    close_in_child: Callable[[], None],
    slot: int,
    opened: list[int],
) -> Worker:
    out_r, out_w, err_r, err_w, mine, link = opened
    process = context.Process(
        target=_run,
        args=(slot, out_w, err_w, link, config, os.getpid(), close_in_child, (out_r, err_r, mine)),
        name=f"pyray-worker-{slot}",
        daemon=False,  # tasks may have child processes of their own
    )
    process.start()
    for fd in (out_w, err_w, link):
        os.close(fd)
    opened[:] = [out_r, err_r, mine]  # what the caller closes if the rest fails
    ours = socket.socket(fileno=mine)
    ours.setblocking(False)
    return Worker(slot, process, [Pipe(out_r, 1), Pipe(err_r, 2)], ours)


def _run(
    slot: int,
    out: int,
    err: int,
    link: int,
    config: dict[str, Any],
    parent: int,
    close_in_child: Callable[[], None],
    not_ours: tuple[int, int, int],
) -> None:
    close_in_child()
    for fd in not_ours:
        os.close(fd)
    from pyray.worker.main import main

    main(slot, out, err, link, config, parent)


def children(pid: int) -> list[int]:
    """Process IDs of all children, of whichever thread."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as f:
                found.extend(int(word) for word in f.read().split())
    except OSError:
        return found
    return found
