"""The worker pool: forking workers, reading what they print, reaping them."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

from pyray import protocol
from pyray._core import control
from pyray.frozen import Frozen
from pyray.node.memory import Shortage

LINE_CAP = 1 << 16
# A process that does not stop within this is in the kernel for long, and cannot get away.
STOP_SECONDS = 0.25
# As in _core/layout.h.
SHAPED_NONE, SHAPED_RUNS, SHAPED_BLOCKED, SHAPED_WANTS, SHAPED_ACTOR = range(5)
PROC_ALIVE = 2
TASK_WAITING, TASK_NODE = 1, 6


class Given(Frozen):
    """What a dedicated worker is forked for.

    Attributes
    ----------
    task : int
        Its first task.
    lease : str
        What that was given: see `pyray.worker.main.before_shaped_task`.
    exclusive : bool
        Whether it has no other task, ever.
    env : str or None
        The runtime environment, if it is not the session's.
    """

    task: int
    lease: str
    exclusive: bool
    env: str | None


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
    running : bool
        Whether it had not ended when `reap` was last asked.
    code : int or None
        Its exit status or, negated, the signal that killed it; None if that is not known.
    started, began : float
        When it was forked, in seconds since the epoch and on the monotonic clock.
    pipes : list of Pipe
        What it prints.
    link : protocol.Socket
        For calls from it.
    up : bool
        Whether it has come up.
    retired : float
        When it was told to end, in seconds on the monotonic clock; 0: it was not.
    dedicated, exclusive : bool
        Whether it is outside the pool; whether it also has but one task in its life.
    env : str or None
        Runtime environment of a dedicated worker, if it is not the session's.
    given : int
        How many tasks a dedicated worker was given.
    idle_since : float
        When its last task ended; of dedicated workers.
    task : int or None
        The task with resources of its own that it was given.
    state : int
        Where that task stood when the shell last looked.
    forced : list of bytes, or None
        The ids of the task that the node kills it for (see `ids_of`), if it does.
    shortage : Shortage or None
        Why the node ends it for its memory, if it does.
    peak : int
        Most bytes of memory that it had at a time; once it has been reaped.
    between : tuple of (int, float), or None
        How many tasks it had run when it was first seen between two of them, and when that was.
    """

    def __init__(
        self,
        slot: int,
        pid: int,
        pipes: list[Pipe],
        link: protocol.Socket,
        given: Given | None = None,
    ) -> None:
        self.slot = slot
        self.dedicated = given is not None
        self.exclusive = given is not None and given.exclusive
        self.env = given.env if given else None
        self.given = 0
        self.idle_since = 0.0
        self.pid = pid
        self.running = True
        self.code: int | None = None
        self.started = time.time()
        self.began = time.monotonic()
        self.pidfd = os.pidfd_open(pid)
        self.pipes = pipes
        self.link = link
        self.frames = protocol.Frames()
        self.up = False
        self.retired = 0.0
        self.task: int | None = None
        self.state = 0
        self.forced: list[bytes] | None = None
        self.shortage: Shortage | None = None
        self.peak = 0
        self.between: tuple[int, float] | None = None

    def close(self) -> None:
        """Give back the descriptors of a worker that has been reaped."""
        for pipe in self.pipes:
            os.close(pipe.fd)
        self.pipes = []
        self.link.close()
        os.close(self.pidfd)

    def reap(self) -> bool:
        """Whether it has ended; then `code` says how."""
        if self.running:
            try:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.running = False  # nobody can tell
            else:
                if pid:
                    self.running = False
                    self.code = os.waitstatus_to_exitcode(status)
                    self.peak = usage.ru_maxrss << 10
        return not self.running


def fork_worker(
    config: dict[str, Any],
    close_in_child: Callable[[], None],
    given: Given | None = None,
) -> Worker:
    """Fork one worker of the pool, or a dedicated one with its first task.

    Raises
    ------
    OSError
        Out of process slots, descriptors, processes or memory.
    """
    slot = control.reserve_slot(given is not None)
    if slot is None:
        raise OSError("all process slots of the session are taken")
    opened: list[int] = []
    try:
        if given is not None:
            control.assign_first(slot, given.task, given.lease)
            if given.env is not None:
                config = {**config, "runtime_env": given.env}
        opened += os.pipe2(os.O_CLOEXEC)
        opened += os.pipe2(os.O_CLOEXEC)
        ours, theirs = protocol.socketpair()
        opened += [ours.detach(), theirs.detach()]
        return _fork(config, close_in_child, slot, opened, given)
    except OSError:
        for fd in opened:
            os.close(fd)
        control.release_slot(slot)
        raise


def _fork(
    config: dict[str, Any],
    close_in_child: Callable[[], None],
    slot: int,
    opened: list[int],
    given: Given | None,
) -> Worker:
    out_r, out_w, err_r, err_w, mine, link = opened
    parent = os.getpid()
    # Not multiprocessing.Process, which takes 4 ms of the first result: and so a task is not, to
    # libraries that ask `multiprocessing` for its parent, a child that some pool has made.
    pid = os.fork()
    if pid == 0:
        try:
            close_in_child()
            for fd in (out_r, err_r, mine):
                os.close(fd)
            from pyray.worker.main import main

            main(slot, out_w, err_w, link, config, parent)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for fd in (out_w, err_w, link):
        os.close(fd)
    opened[:] = [out_r, err_r, mine]  # what the caller closes if the rest fails
    ours = protocol.Socket(fileno=mine)
    ours.setblocking(False)
    return Worker(slot, pid, [Pipe(out_r, 1), Pipe(err_r, 2)], ours, given)


def seize(worker: Worker, runs: Callable[[], bool]) -> bool:
    """Stop a process in order to kill it; False, and it goes on, if it does not run the task.

    Stopped, because it might be through with the task, and at another, before it is hit.

    Parameters
    ----------
    worker : Worker
    runs : callable
        Whether it runs the task; called while it is stopped.
    """
    try:
        os.kill(worker.pid, signal.SIGSTOP)
    except ProcessLookupError:
        return False
    how = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    deadline = time.monotonic() + STOP_SECONDS
    while os.waitid(os.P_PIDFD, worker.pidfd, how) is None and time.monotonic() < deadline:
        time.sleep(0.00005)
    if runs():
        return True
    os.kill(worker.pid, signal.SIGCONT)
    return False


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
