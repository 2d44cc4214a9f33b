"""The node process as the driver starts it: `subprocess.Popen`, less what the node does not need.

It begins in a session of its own: a Ctrl-C at the terminal is the driver's business, and would hit
a Python that is starting up before it could say so.

Importing `subprocess` takes as long as starting a process with it: 4 ms of `import pyray` or of the
first `init`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence

_NEVER = -1


class Child:
    """A child process in a session of its own, with /dev/null for its standard input and output.

    Parameters
    ----------
    command : list of str
        The program, searched for as a shell would, and its arguments.
    inherited : sequence of int
        The descriptors that it gets, under the same numbers, besides standard error.
    env : mapping of str to str
        What its environment has besides this process's.

    Attributes
    ----------
    pid : int
    returncode : int or None
        Once `wait` has returned it: the exit status, or less than 0: the signal, negated.

    Raises
    ------
    OSError
        The program cannot be started.
    """

    def __init__(
        self, command: list[str], inherited: Sequence[int], env: Mapping[str, str]
    ) -> None:
        self.returncode: int | None = None
        self._reaping = threading.Lock()
        null = above_standard(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        try:
            copies = [(null, 0), (null, 1)]
            # There and back: a copy is not closed in the new program, as what is copied would be.
            # (A copy onto itself does that only since glibc 2.29.)
            for fd in inherited:
                copies += [(fd, null), (null, fd)]
            closed = [fd for fd in _inheritable() if fd > 2 and fd not in inherited]
            actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, *pair) for pair in copies]
            actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in (null, *closed)]
            # No signal is blocked there, whatever this thread has blocked: workers are interrupted
            # by one.
            self.pid = os.posix_spawnp(
                command[0],
                command,
                {**os.environ, **env},
                file_actions=actions,
                setsid=True,
                setsigmask=(),
            )
        finally:
            os.close(null)
        # From now on its number may become another process's, should others reap children of ours.
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._pidfd = _NEVER

    def wait(self, seconds: float | None = None) -> int | None:
        """The return code, once it has ended, or None if it has not within so many seconds."""
        import select

        if self._pidfd != _NEVER:
            waiting = select.poll()
            waiting.register(self._pidfd, select.POLLIN)
            if not waiting.poll(None if seconds is None else seconds * 1000):
                return None
        with self._reaping:
            if self.returncode is None:
                try:
                    status = os.waitpid(self.pid, 0)[1]
                    self.returncode = os.waitstatus_to_exitcode(status)
                except ChildProcessError:
                    self.returncode = 0  # somebody else has reaped it: there is no telling
        return self.returncode

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        import signal

        if self._pidfd == _NEVER:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Let go of it; nobody may wait for it any more."""
        if self._pidfd != _NEVER:
            os.close(self._pidfd)
            self._pidfd = _NEVER


def above_standard(fd: int) -> int:
    """The same under a number above 2: where standard input or output is closed it may have got
    theirs, and the node's own are set to /dev/null."""
    import fcntl

    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _inheritable() -> list[int]:
    """The descriptors of this process that programs which it starts would get."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            continue  # the list's own, or closed meanwhile
    return found
