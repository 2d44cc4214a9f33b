"""Python's prompt at a pseudo-terminal, for the tests to type at."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import sys
import termios
import time

from fault_drivers import Driver


class Terminal:
    """Python's prompt at a pseudo-terminal of its own."""

    def __init__(self, folder):
        ours, theirs = pty.openpty()
        mode = termios.tcgetattr(theirs)
        mode[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, mode)
        begin = (
            "import fcntl, os, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            f"os.execv({sys.executable!r}, ['python', '-i', '-q'])"
        )
        self.fd = ours
        self.text = ""
        self.driver = Driver(
            folder,
            "",
            command=[sys.executable, "-c", begin],
            env={"TERM": "dumb", "PYTHON_BASIC_REPL": "1"},
            stdio=theirs,
        )
        os.close(theirs)
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_NONBLOCK)

    def send(self, text):
        os.write(self.fd, text.encode())

    def read_until(self, what, limit=15.0):
        """What came, up to and with a match of a pattern."""
        end = time.monotonic() + limit
        while True:
            found = re.search(what, self.text)
            if found:
                got, self.text = self.text[: found.end()], self.text[found.end() :]
                return got
            left = end - time.monotonic()
            assert left > 0, f"no {what!r} within {limit} s, but {self.text!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.text += os.read(self.fd, 4096).decode().replace("\r\n", "\n")
