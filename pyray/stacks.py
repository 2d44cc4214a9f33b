"""Stacks of every process of a session, for whoever looks into something that does not end.

With ``PYRAY_STACKS=FILE`` in the environment the node, and with it all workers, append the Python
stacks of all their threads to that file on the signal `SIGNAL`, whatever they are doing; they go on
afterwards.  The tests ask each process for them when a test takes too long.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "PYRAY_STACKS"
# The next one after that of `_core/interrupts.pyx`.
SIGNAL = signal.SIGRTMIN + 12
# The descriptor is from here upward: out of the way of programs that count, limit or close theirs.
FIRST_FD = 100


def answer() -> None:
    """Answer the signal from now on, if the environment asks for it; so do forked children."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    import faulthandler
    import fcntl

    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
        finally:
            os.close(fd)
    except OSError:
        return  # a limit on descriptors, or no such directory: a debugging aid stops nobody
    faulthandler.register(SIGNAL, high, all_threads=True, chain=False)
