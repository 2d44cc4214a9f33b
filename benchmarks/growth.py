"""Whether an operation still costs the same when there is a lot of everything.

Each sample begins a session of its own, brings it to the size in question, and times some
operations there. pyray's figure is that of the largest size; the references are pyray too, at
smaller ones, and the smallest is what the target is about.

What one process does by itself is timed by its CPU clock: by the clock on the wall a neighbour who
takes the core would make a million operations look dearer than a thousand, which are over before.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyray as ray
from benchmarks.actors import Counter
from benchmarks.harness import (
    PYRAY,
    Result,
    Sample,
    Settings,
    Theme,
    at_most,
    at_most_times,
    keep_busy,
    timed,
)
from benchmarks.probes import cpu_seconds, new_memory_micros, smaps
from benchmarks.sessions import BATCH, WORKERS, nothing
from pyray.api import processes

# How many times what it costs in the small case an operation may cost.
ALLOWED = 1.3
ACTORS = 4
# Operations that are timed at the given size.
TIMED = 5_000

# From the small case to the one that the target speaks of.
QUEUED = (1_000, 10_000, 100_000, 1_000_000)
OBJECTS = (1_000, 10_000, 100_000)
PROCESSES = (2, 8, 64)
HANDLES = (4, 100, 1_000)

task = ray.remote(nothing)


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[Settings]:
    """Nothing but the settings: each sample has a session of its own."""
    yield settings


THEME = Theme("growth", alone)


def add(name: str, title: str, sizes: tuple[int, ...], new_bytes: int = 0) -> Any:
    """Decorator: a function that takes a size and gives microseconds becomes a benchmark.

    The title ends with what there is a lot of: "a task at a time, workers". Where each operation
    takes up memory that the small case had before, what the kernel takes to make it is said too.
    """

    def register(cost: Callable[[int], float]) -> Any:
        *smaller, largest = sizes

        @THEME.add(
            name,
            f"{title}: {largest:,}",
            "µs",
            at_most_times(ALLOWED, at(sizes[0])),
            rounds=5,
            quick_rounds=1,
        )
        def _prepare(settings: Settings) -> dict[str, Sample]:
            samples: dict[str, Sample] = {PYRAY: lambda: cost(largest)}
            if new_bytes:
                samples[f"making {new_bytes} bytes"] = lambda: new_memory_micros(new_bytes)
            return samples | {at(size): lambda size=size: cost(size) for size in smaller}

        return cost

    return register


def at(size: int) -> str:
    """What a smaller case is called in the table."""
    return f"with {size:,}"


def curves(results: list[Result]) -> list[dict[str, Any]]:
    """Cost by size, for `plot.curves`."""
    found = []
    for result in results:
        medians = result.medians
        if result.benchmark.theme != THEME.name or PYRAY not in medians or len(medians) < 2:
            continue
        title, _, largest = result.title.rpartition(": ")
        sizes = {
            int(n[5:].replace(",", "")): v for n, v in medians.items() if n.startswith("with ")
        }
        sizes[int(largest.replace(",", ""))] = medians[PYRAY]
        found.append(
            {
                "name": result.benchmark.name,
                "title": f"{title} ({result.benchmark.unit})",
                "points": sorted(sizes.items()),
            }
        )
    return found


# ---- the sizes ---------------------------------------------------------------------------------


@contextlib.contextmanager
def session(cpus: int = WORKERS) -> Iterator[None]:
    """A session whose workers have run tasks and whose first memory has been used."""
    ray.init(num_cpus=cpus, object_store_memory=256 << 20)
    try:
        # So many that the small case finds memory that has been used; the large one can't.
        for _ in range(3):
            ray.get([task.remote() for _ in range(10 * BATCH)])
        yield
    finally:
        ray.shutdown()


@ray.remote
def stand_in_the_way(path: str) -> None:
    """Keep a worker, at no cost, until somebody writes into a pipe."""
    with open(path, "rb", buffering=0) as pipe:
        pipe.read(1)


@contextlib.contextmanager
def held_up() -> Iterator[Callable[[], None]]:
    """All workers are busy with nothing; gives what lets them go."""
    with tempfile.TemporaryDirectory(prefix="pyray-bench-") as folder:
        path = os.path.join(folder, "gate")
        os.mkfifo(path)
        busy = [stand_in_the_way.remote(path) for _ in range(WORKERS)]
        gate = os.open(path, os.O_WRONLY)  # waits for the first of them
        try:
            time.sleep(0.05)  # by then the others have been started too
            yield lambda: os.write(gate, b"." * WORKERS) and None
        finally:
            os.close(gate)  # which lets them go as well
            ray.get(busy)


def micros(function: Callable[[], Any], operations: int = TIMED) -> float:
    """Microseconds of each of the operations that a call does, once it is busy with them."""
    keep_busy(function)
    return timed(function) / operations * 1e6


def own_micros(function: Callable[[], Any], operations: int = TIMED) -> float:
    """The same, of this thread's CPU time.

    A processor that has rested may be twice as fast for some 20 ms: not when a large case is timed,
    which has taken long to set up, and so for none.
    """
    keep_busy(lambda: None)
    start = time.thread_time()
    result = function()
    used = time.thread_time() - start
    del result
    return used / operations * 1e6


def submit(count: int = TIMED) -> list[Any]:
    return [task.remote() for _ in range(count)]


def one_by_one() -> None:
    for _ in range(TIMED):
        ray.get(task.remote())


def in_batches() -> None:
    for _ in range(TIMED // BATCH):
        ray.get(submit(BATCH))


def warm_up() -> None:
    """So many tasks that whichever worker is woken has run some: each one's first are dear."""
    for _ in range(20):
        in_batches()


# A record of 256 bytes for the task, and one of 128 for its return.
@add("queued-submit", "submit a task, CPU, tasks queued", QUEUED, 384)
def _queued_submit(size: int) -> float:
    with session(), held_up():
        queued = submit(size)
        cost = own_micros(submit)
        del queued
        return cost


@add("queued-put", "put and get of an int, CPU, tasks queued", QUEUED)
def _queued_put(size: int) -> float:
    with session(), held_up():
        queued = submit(size)
        cost = own_micros(lambda: [ray.get(ray.put(7)) for _ in range(TIMED)])
        del queued
        return cost


# A thousand are over so soon that it is the workers' waking up that would be measured.
@add("queued-run", "run a task, CPU of the workers, tasks queued", QUEUED[1:])
def _queued_run(size: int) -> float:
    with session(), held_up() as release:
        queued = submit(size)
        workers = processes()[2:]  # after the driver and the node
        before = sum(map(cpu_seconds, workers))
        release()
        ray.wait(queued, num_returns=size)
        return (sum(map(cpu_seconds, workers)) - before) / size * 1e6


@add("live-put", "put of an int that is kept, CPU, live objects", OBJECTS, 128)
def _live_put(size: int) -> float:
    with session():
        live = [ray.put(i) for i in range(size)]
        cost = own_micros(lambda: [ray.put(7) for _ in range(TIMED)])
        del live
        return cost


@add("live-get", "get of each in turn, CPU, live objects", OBJECTS)
def _live_get(size: int) -> float:
    with session():
        live = [ray.put(i) for i in range(size)]
        times = OBJECTS[-1] // size

        def each() -> None:
            for _ in range(times):
                for ref in live:
                    ray.get(ref)

        each()  # the first look at each is at what `put` has left in no cache
        return own_micros(each, times * size)


@add("live-task", "tasks, 1,000 at a time, live objects", OBJECTS)
def _live_task(size: int) -> float:
    with session():
        live = [ray.put(i) for i in range(size)]
        cost = micros(in_batches)
        del live
        return cost


def finished(size: int) -> list[Any]:
    """Results that are there and that nobody has asked for."""
    refs = submit(size)
    ray.wait(refs, num_returns=size)
    return refs


@add("unread-sync", "a task at a time, unread results", OBJECTS)
def _unread_sync(size: int) -> float:
    with session():
        unread = finished(size)
        cost = micros(one_by_one)
        del unread
        return cost


@add("unread-task", "tasks, 1,000 at a time, unread results", OBJECTS)
def _unread_task(size: int) -> float:
    with session():
        unread = finished(size)
        cost = micros(in_batches)
        del unread
        return cost


@add("unread-get", "get of all at once, each, CPU, unread results", OBJECTS)
def _unread_get(size: int) -> float:
    times = max(1, 20_000 // size)
    with session():
        batches = [finished(size) for _ in range(times)]
        return own_micros(lambda: [ray.get(refs) for refs in batches], times * size)


@add("workers-sync", "a task at a time, workers", PROCESSES)
def _workers_sync(size: int) -> float:
    with session(size):
        warm_up()
        return micros(one_by_one)


@add("workers-task", "tasks, 1,000 at a time, workers", PROCESSES)
def _workers_task(size: int) -> float:
    with session(size):
        warm_up()
        return micros(in_batches)


@add("handles-call", "actor calls, 1,000 at a time, handles to 4 actors", HANDLES)
def _handles_call(size: int) -> float:
    with session():
        actors = [ray.remote(Counter).options(num_cpus=0).remote() for _ in range(ACTORS)]
        copies = [ray.put(actor) for actor in actors]
        handles = [ray.get(copies[i % ACTORS]) for i in range(size)]

        def batch() -> None:
            calls = (handles[i % size].nothing.remote() for i in range(BATCH))
            ray.get(list(calls))

        batch()
        return micros(lambda: [batch() for _ in range(TIMED // BATCH)])


# ---- memory ------------------------------------------------------------------------------------


def held() -> float:
    """Bytes that the processes of the session share, and those that each has alone."""
    gc.collect()
    return sum(smaps(pid)["Pss"] for pid in processes()) * 1e3


def bytes_each(make: Callable[[int], Any], size: int) -> float:
    before = held()
    made = make(size)
    grown = held() - before
    del made
    return grown / size


@THEME.add("task-bytes", "memory of a queued task and its id", "bytes", at_most(500), rounds=3)
def _task_bytes(settings: Settings) -> dict[str, Sample]:
    def sample() -> float:
        with session(), held_up():
            return bytes_each(submit, settings.pick(QUEUED, OBJECTS)[-1])

    return {PYRAY: sample}


@THEME.add(
    "object-bytes", "memory of an int in the store and its id", "bytes", at_most(250), rounds=3
)
def _object_bytes(settings: Settings) -> dict[str, Sample]:
    def sample() -> float:
        with session():
            return bytes_each(lambda n: [ray.put(i) for i in range(n)], OBJECTS[-1])

    return {PYRAY: sample}
