"""What the tests of faults share: waiting with a limit, ways to crash, what a session looks like.

Imported by workers too, so no pytest in here. For drivers in processes of their own see
fault_drivers.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import resource
import signal
import sys
import time

import helpers

import pyray as ray
from pyray import session
from pyray._core import store

LIMIT = 10.0  # an error has to arrive within so many seconds
UNIT = 16384


def wait_until(condition, limit=LIMIT, what="the condition"):
    """The first true value of a condition; AssertionError at the time limit."""
    end = time.monotonic() + limit
    while True:
        late = time.monotonic() > end
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"{what} did not come true within {limit:g} s")
        time.sleep(0.005)


def get(refs, limit=LIMIT):
    return ray.get(refs, timeout=limit)


def error_of(ref, limit=LIMIT):
    """The exception that `get` raises."""
    try:
        value = ray.get(ref, timeout=limit)
    except BaseException as error:
        return error
    raise AssertionError(f"expected an error, got {value!r}")


# ---- ways to die -------------------------------------------------------------------------------

# kind -> (signal, exit code) as WorkerCrashedError gives them
CRASHES = {
    "exit": (None, 3),
    "_exit": (None, 5),
    "segfault": ("SIGSEGV", None),
    "abort": ("SIGABRT", None),
    "kill": ("SIGKILL", None),
    "term": ("SIGTERM", None),
}


def crash(kind, note=None):
    """End this process, or raise; leaves its pid in the file `note` first."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if note is not None:
        pathlib.Path(note).write_text(str(os.getpid()))
    match kind:
        case "raise":
            raise LookupError("boom")
        case "exit":
            sys.exit(3)
        case "_exit":
            os._exit(5)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError(f"{kind} did not work")


class OnPickle:
    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        crash(*self.how)


class OnUnpickle:
    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return crash, self.how


class OnDel:
    def __init__(self, *how):
        self.how = how

    def __del__(self):
        crash(*self.how)


def linger(path, seconds=30.0):
    """In a task: run until a file appears."""
    end = time.monotonic() + seconds
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.002)
    return os.getpid()


def count(path):
    """Add one to the count that a file keeps, and the new count."""
    with open(path, "ab") as f:
        f.write(b".")
        f.flush()
        return f.tell()  # where this one's ended, whatever others have added since


def counted(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


# ---- the session of this process ---------------------------------------------------------------


def workers():
    return session.current().call("workers")


def idle_pids():
    return [w["pid"] for w in workers() if w["up"] and w["task"] is None]


def used():
    return store.object_stats()["used"]


def resources():
    """(all, available) resources, without those of the store and with zeros."""
    total, free = session.current().call("resources")
    return total, {name: free.get(name, 0.0) for name in total}


@ray.remote
def double(x):
    return 2 * x


@ray.remote(num_cpus=2)
def double_with_both(x):
    return 2 * x


def assert_whole(limit=LIMIT):
    """All resources are free, the pool is complete, and it computes."""
    assert get([double.remote(i) for i in range(20)], limit) == [2 * i for i in range(20)]
    total = ray.cluster_resources()
    if total["CPU"] >= 2:
        assert get(double_with_both.remote(4), limit) == 8
    wait_until(lambda: resources()[0] == resources()[1], limit, "all resources free")
    wait_until(lambda: len(idle_pids()) >= total["CPU"], limit, "a worker for each CPU")


def assert_sound(limit=LIMIT):
    """After a storm: the session is whole, and its books agree with each other."""
    assert_whole(limit)
    helpers.check_books()


@contextlib.contextmanager
def store_balanced(units=16):
    """The store is as full after the block as before, but for some blocks of small objects."""
    get([double.remote(i) for i in range(4)])
    get(double_with_both.remote(1))
    before = used()
    yield
    top = before + units * UNIT
    try:
        wait_until(lambda: used() <= top, what="the store's balance")
    except AssertionError:
        raise AssertionError(f"the store holds {used() - before} bytes more than before") from None
