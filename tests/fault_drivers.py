"""Driver scripts that run as processes of their own, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import uuid

import stacks
from fault_helpers import wait_until
from helpers import patience

GONE = 2.0  # whatever belonged to a session that ended is gone within so many seconds
ROOT = str(pathlib.Path(__file__).resolve().parent.parent)


def alive(pid):
    """Whether a process runs; one that waits for a lazy parent to reap it does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def in_wait(pid):
    """Whether the main thread of a process sleeps in a wait of pyray's.

    That is a futex (system call 202) that processes share, without FUTEX_PRIVATE_FLAG: not one of
    Python's own locks, which a thread may have to wait for before it comes to that.
    """
    try:
        with open(f"/proc/{pid}/syscall") as f:
            fields = f.read().split()
            return fields[0] == "202" and not int(fields[2], 16) & 128
    except OSError:
        return False


def memfd_of(pid):
    """Inode of the session's memory that a process has mapped."""
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            if "/memfd:pyray" in line:
                return line.split()[4]
    return None


def _holds(pid, inode):
    with open(f"/proc/{pid}/maps") as f:
        if any("/memfd:pyray" in line and line.split()[4] == inode for line in f):
            return True
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if str(
                os.stat(f"/proc/{pid}/fd/{fd}").st_ino
            ) == inode and "memfd:pyray" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                return True
    return False


def belonging(node, inode=None, mark=None):
    """{pid: why} for the processes that belong to the session of a node process."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or not alive(int(name)):
            continue
        pid = int(name)
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
            with open(f"/proc/{pid}/environ", "rb") as f:
                marked = mark is not None and mark.encode() in f.read().split(b"\0")
            if node in (pid, int(fields[2]), int(fields[3])):
                found[pid] = "is in the node's process group or session"
            elif marked:
                found[pid] = "has the driver's environment"
            elif inode is not None and _holds(pid, inode):
                found[pid] = "holds the memory"
            if pid in found:
                with open(f"/proc/{pid}/cmdline") as f:
                    found[pid] += f": {f.read().replace(chr(0), ' ')[:100]}"
    return found


PRELUDE = """
import json, os, pathlib, signal, subprocess, sys, threading, time
import pyray as ray
import pyray.stacks
pyray.stacks.answer()
HERE = os.path.dirname(os.path.abspath(__file__))
def say(**what):
    sys.stdout.write("@@" + json.dumps(what) + chr(10))
    sys.stdout.flush()
def begin(**options):
    info = ray.init(**{"num_cpus": 2, **options})
    say(node=info["node_pid"])
    return info
@ray.remote
def double(x):
    return 2 * x
"""


class Driver:
    """A driver script in a process, session and temporary directory of its own."""

    def __init__(self, folder, body, env=None, command=None, stdio=None, **popen):
        self.folder = folder
        self.scratch = folder / "tmp"
        self.scratch.mkdir(exist_ok=True)
        script = folder / "script.py"
        script.write_text(PRELUDE + body)
        name = f"PYRAY_FAULT_TEST_{uuid.uuid4().hex}"
        self.mark = f"{name}=1"
        self.shm = set(os.listdir("/dev/shm"))
        environment = {**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(self.scratch), name: "1"}
        environment |= env or {}
        self.errors = open(folder / "stderr", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command or [sys.executable, str(script)],
            stdin=subprocess.DEVNULL if stdio is None else stdio,
            stdout=subprocess.PIPE if stdio is None else stdio,
            stderr=self.errors if stdio is None else stdio,
            start_new_session=True,
            env={k: v for k, v in environment.items() if v is not None},
            **popen,
        )
        self.pid = self.process.pid
        self.spared = set()  # processes that may outlive the session
        self.node = -1
        self.inode = None
        self.lines = []
        self._said = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for raw in self.process.stdout or ():
            self.hear(raw.decode(errors="replace"))

    def hear(self, text):
        """Take in what the script printed."""
        for line in text.splitlines():
            self.lines.append(line)
            if line.startswith("@@"):
                told = json.loads(line[2:])
                if "node" in told:
                    self.node = told["node"]
                    with contextlib.suppress(OSError):
                        self.inode = memfd_of(self.node) or self.inode
                self._said |= told

    def stderr(self):
        return (self.folder / "stderr").read_text()

    def said(self, key, limit=20.0):
        """What the script said under this key."""
        wait_until(
            lambda: key in self._said or not alive(self.pid), limit, f"the script's word on {key!r}"
        )
        if key not in self._said:
            self._reader.join(2.0)
        assert key in self._said, f"the script ended without a word on {key!r}:\n{self.stderr()}"
        return self._said[key]

    def has_said(self, key):
        return key in self._said

    def ended(self, limit=20.0):
        """The script's exit status."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            told = [f"the script goes on for {limit:g} s; it has written", self.stderr()]
            stacks.dump(told.append)
            raise AssertionError("\n".join(told)) from None

    def left(self):
        found = belonging(self.node, self.inode, self.mark)
        return {pid: why for pid, why in found.items() if pid not in self.spared}

    def assert_gone(self):
        """Within so many seconds no process, no memory and no file is left; how many it took."""
        limit = patience(GONE)
        begun = time.monotonic()
        try:
            wait_until(lambda: not self.left(), limit)
        except AssertionError:
            raise AssertionError(f"still there after {limit:g} s: {self.left()}") from None
        took = time.monotonic() - begun
        assert list(self.scratch.iterdir()) == []
        assert not [n for n in set(os.listdir("/dev/shm")) - self.shm if "pyray" in n]
        return took

    def clean(self):
        """Leave nothing behind, however the test went."""
        for pid in (*self.left(), *self.spared):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self._reader.join(5.0)
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()
