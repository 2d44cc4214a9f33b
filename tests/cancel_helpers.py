"""What the tests of cancel share: light, since tasks import it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from typing import Any

import helpers

import pyray
from pyray import session
from pyray.exceptions import TaskCancelledError

SOON = 1.0


def workers() -> list[int]:
    current = session.current()
    assert current is not None
    return sorted(w["pid"] for w in current.call("workers"))


def assert_cancelled(ref: Any, seconds: float = SOON) -> TaskCancelledError:
    """`get` raises TaskCancelledError, soon."""
    start = time.monotonic()
    got: Any = None
    try:
        got = pyray.get(ref, timeout=20)
    except TaskCancelledError as error:
        got = error
    assert isinstance(got, TaskCancelledError)
    assert not isinstance(got, KeyboardInterrupt)
    assert time.monotonic() - start < helpers.patience(seconds)
    return got


def assert_all_free() -> None:
    total = pyray.cluster_resources()

    def all_free() -> bool:
        free = pyray.available_resources()
        return all(free.get(k) == v for k, v in total.items() if k != "object_store_memory")

    helpers.wait_until(all_free, what="all resources free")


@pyray.remote
def sleep(tally, seconds=1000.0):
    tally.add(os.getpid())
    time.sleep(seconds)
    tally.add("end")
    return seconds


@pyray.remote
def passes(gate, x=1):
    gate.wait()
    return x


@pyray.remote
def add_to(tally, *args):
    tally.add()
    return len(args)


@pyray.remote
def nothing():
    return None


@pyray.remote
def family(tally, depth, then):
    """Submits one that runs and one that waits for it, and the same below; then does something."""
    if depth:
        below = family.options(num_cpus=0).remote(tally, depth - 1, "wait")
        add_to.remote(tally, below)
    tally.add(os.getpid())
    if then == "wait":
        time.sleep(1000)
    return "done"


@pyray.remote(max_retries=5)
def deaf(tally, seconds=1000):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    tally.add(os.getpid())
    time.sleep(seconds)
    return seconds


@pyray.remote
class Counter:
    def __init__(self):
        self.n = 0

    def nap(self, tally, seconds):
        self.n += 1
        tally.add(f"nap {seconds}")
        time.sleep(seconds)
        return self.n

    def stay(self, tally, gate):
        self.n += 1
        tally.add()
        gate.wait()

    def add(self, *args):
        self.n += 1
        return self.n

    def pid(self):
        return os.getpid()


@pyray.remote
class Loop:
    def __init__(self):
        self.n = 0
        self.seen = []

    async def nap(self, tally, seconds, stubborn=False):
        self.n += 1
        tally.add(f"nap {seconds}")
        try:
            await asyncio.sleep(seconds)
        except BaseException as error:
            self.seen.append(type(error).__name__)
            if stubborn:
                return "caught"
            raise
        return self.n

    async def stay(self, tally, gate):
        self.n += 1
        tally.add()
        while not gate.is_open():
            await asyncio.sleep(0.001)

    async def add(self, *args):
        self.n += 1
        return self.n

    async def report(self):
        return self.seen


# ---- things that a task may be doing -------------------------------------------------------------


def nap():
    time.sleep(1000)


def get():
    pyray.get(nap_task.remote())


def get_many():
    pyray.get([nap_task.remote(), pyray.put(1)], timeout=1000)


def wait():
    pyray.wait([nap_task.remote()])


def loop():
    while True:
        pass


def child_process():
    subprocess.run(["sleep", "1000"])


def wait_for_child():
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            child.wait()
        finally:
            child.kill()


def lock():
    one = threading.Lock()
    one.acquire()
    one.acquire()


def condition():
    threading.Event().wait()


def take_from_queue():
    queue.SimpleQueue().get()


def receive():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def poll():
    select.select([], [], [])


def join():
    thread = threading.Thread(target=time.sleep, args=(1,), daemon=True)
    thread.start()
    while True:
        thread.join()


def event_loop():
    asyncio.run(asyncio.sleep(1000))


def c_call():
    ctypes.CDLL(None).sleep(1000)


def submit_for_ever():
    while True:
        pyray.get([nothing.remote() for _ in range(10)])


def put_for_ever():
    while True:
        pyray.put(b"x" * 100_000)


@pyray.remote
def asks():
    return pyray.cluster_resources()["CPU"]


@pyray.remote
def nap_task():
    time.sleep(1000)


def ask_for_ever():
    while True:
        pyray.cluster_resources()


WAYS = [
    nap, get, get_many, wait, loop, child_process, wait_for_child, lock, condition, take_from_queue,
    receive, poll, join, event_loop, c_call, submit_for_ever, ask_for_ever, put_for_ever,
]  # fmt: skip


@pyray.remote
def begin(tally, way):
    tally.add()
    return way()
