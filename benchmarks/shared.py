"""What arrays in shared memory cost: filling, passing, sealing them; copy on write."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pyray as ray
from benchmarks.growth import held_up
from benchmarks.harness import (
    PYRAY,
    Sample,
    Settings,
    Theme,
    at_least,
    at_least_times,
    at_most,
    available_memory,
    timed,
)
from benchmarks.probes import smaps
from benchmarks.sessions import BATCH, WORKERS, nothing_of
from pyray.api import processes

MEGABYTE = 10**6
FORKED = "two bare forked loops"
PUT = "put of a plain array"
# Numbers that are worked on at a time: they stay in the cache, so that memory is not the limit.
BLOCK = 8192
VIEWS = 1_000

task = ray.remote(nothing_of)


@dataclass
class Shared:
    """What the benchmarks are handed."""

    settings: Settings
    megabytes: int

    @property
    def size(self) -> str:
        """Of the largest array."""
        return f"{self.megabytes // 1000} GB" if self.megabytes >= 1000 else f"{self.megabytes} MB"


@contextlib.contextmanager
def arrays(settings: Settings) -> Iterator[Shared]:
    enough = available_memory() >= 5000 * MEGABYTE
    megabytes = 1000 if enough and not settings.quick else 100
    ray.init(num_cpus=WORKERS, object_store_memory=3 * megabytes * MEGABYTE)
    try:
        # By then the workers have imported numpy and know what a shared array is.
        ray.get([task.remote(ray.shared.zeros(1)) for _ in range(100)])
        yield Shared(settings, megabytes)
    finally:
        ray.shutdown()


THEME = Theme("shared", arrays)


# ---- filling -----------------------------------------------------------------------------------


def fill(part: np.ndarray[Any, Any]) -> None:
    """Some 10 ns of computing for each number, in place."""
    for start in range(0, len(part), BLOCK):
        block = part[start : start + BLOCK]
        block[:] = start
        np.sin(block, out=block)
        np.exp(block, out=block)


def halves(array: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    bounds = np.linspace(0, len(array), WORKERS + 1, dtype=int).tolist()
    return [array[a:b] for a, b in itertools.pairwise(bounds)]


def fill_in_forks(array: np.ndarray[Any, Any]) -> None:
    """By two processes that have nothing to do with pyray."""
    children = []
    for part in halves(array):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                fill(part)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    if any(statuses):
        raise RuntimeError("a forked loop failed")


@THEME.add(
    "shared-fill",
    "speed-up, filling {bench.size} in place from 2 tasks",
    "×",
    at_least(1.8),
    at_least_times(0.95, FORKED),
    higher_is_better=True,
    rounds=5,
)
def _fill(bench: Shared) -> dict[str, Sample]:
    numbers = bench.megabytes * MEGABYTE // 8
    task = ray.remote(fill)
    array = ray.shared.empty(numbers)
    bare = np.frombuffer(mmap.mmap(-1, numbers * 8))
    serial_seconds = 0.0

    def pyray() -> None:
        ray.get([task.remote(part) for part in halves(array)])

    def first() -> float:
        nonlocal serial_seconds
        serial_seconds = timed(lambda: fill(array))
        return serial_seconds / timed(pyray)

    # Whoever touches a page first waits for the kernel; that is to be nobody who is timed.
    for part in halves(array):
        ray.get(task.remote(part))
    array[::512] = bare[::512] = 0
    return {PYRAY: first, FORKED: lambda: serial_seconds / timed(lambda: fill_in_forks(bare))}


# ---- passing -----------------------------------------------------------------------------------


def extra_micros(one: Callable[[], Any], other: Callable[[], Any], operations: int) -> Sample:
    """Microseconds that an operation of the first takes longer; both take turns."""

    def sample() -> float:
        spent = [0.0, 0.0]
        for _ in range(20):
            for i, function in enumerate((one, other)):
                spent[i] += timed(function)
        return (spent[0] - spent[1]) / (20 * operations) * 1e6

    return sample


def calls(argument: Any) -> None:
    for _ in range(200):
        ray.get(task.remote(argument))


def batch(argument: Any) -> None:
    ray.get([task.remote(argument) for _ in range(BATCH)])


@THEME.add("shared-pass", "passing a view, beyond passing an int", "µs", at_most(1))
def _pass(bench: Shared) -> dict[str, Sample]:
    view = ray.shared.zeros((1000, 1000))[10:20]
    return {PYRAY: extra_micros(lambda: calls(view), lambda: calls(7), 200)}


@THEME.add("shared-pass-batch", f"the same, {BATCH:,} tasks at a time", "µs", at_most(1))
def _pass_batch(bench: Shared) -> dict[str, Sample]:
    view = ray.shared.zeros((1000, 1000))[10:20]
    return {PYRAY: extra_micros(lambda: batch(view), lambda: batch(7), BATCH)}


def in_use() -> float:
    """Megabytes: of the store, and of all processes of the session by themselves."""
    free = ray.available_resources()["object_store_memory"]
    store = ray.cluster_resources()["object_store_memory"] - free
    return store / MEGABYTE + sum(smaps(pid)["Pss_Anon"] for pid in processes()) / 1e3


@THEME.add(
    "shared-views",
    f"{VIEWS:,} views of one array of 100 MB as arguments: memory",
    "MB",
    at_most(5),
    rounds=3,
    quick_rounds=1,
)
def _views(bench: Shared) -> dict[str, Sample]:
    array = ray.shared.zeros((VIEWS, 100 * MEGABYTE // 8 // VIEWS))

    def sample() -> float:
        with held_up() as let_go:
            before = in_use()
            refs = [task.remote(array[i:]) for i in range(VIEWS)]
            more = in_use() - before
            let_go()
            ray.get(refs)
        return more

    sample()
    return {PYRAY: sample}


# ---- sealing -----------------------------------------------------------------------------------


def seals(nbytes: int, times: int) -> Sample:
    """Microseconds of sealing arrays of a size."""

    def sample() -> float:
        total = 0.0
        for _ in range(times):
            array = ray.shared.empty(nbytes, dtype=np.uint8)
            total += timed(array.seal)
            del array  # before there is another one
        return total / times * 1e6

    array = ray.shared.empty(nbytes, dtype=np.uint8)
    array[::4096] = 1
    return sample


def puts(nbytes: int, times: int) -> Sample:
    array = np.zeros(nbytes, dtype=np.uint8)
    return lambda: sum(timed(lambda: ray.put(array)) for _ in range(times)) / times * 1e6


@THEME.add("seal-1k", "seal of 1 KB", "µs", at_most(20))
def _seal_1k(bench: Shared) -> dict[str, Sample]:
    return {PYRAY: seals(1000, 2000), PUT: puts(1000, 2000)}


@THEME.add("seal-1m", "seal of 1 MB", "µs", at_most(20))
def _seal_1m(bench: Shared) -> dict[str, Sample]:
    return {PYRAY: seals(MEGABYTE, 500), PUT: puts(MEGABYTE, 100)}


@THEME.add("seal-large", "seal of {bench.size}", "µs", at_most(20))
def _seal_large(bench: Shared) -> dict[str, Sample]:
    return {PYRAY: seals(bench.megabytes * MEGABYTE, 100)}


# ---- copy on write -----------------------------------------------------------------------------


def own_megabytes() -> float:
    """Pages that this process shares with nobody, and with no file."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1.024e-3
    raise RuntimeError("no Anonymous in smaps_rollup")


@THEME.add(
    "cow-memory",
    "get of {bench.size}, writable, and touch 1 MB of it: memory",
    "MB",
    at_most(1.2),
    rounds=5,
)
def _cow_memory(bench: Shared) -> dict[str, Sample]:
    array = ray.shared.empty(bench.megabytes * MEGABYTE // 8)
    array[:] = 1
    ref = array.seal()
    del array

    def sample() -> float:
        mine = ray.get(ref, writable=True)
        before = own_megabytes()
        mine[: MEGABYTE // 8] = 2
        more = own_megabytes() - before
        if ray.get(ref)[0] != 1 or mine[-1] != 1:
            raise RuntimeError("the store has changed, or the copy is none")
        return more

    return {PYRAY: sample}
