"""Much of everything at once: it ends right, in bounded memory and with few processes."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import fault_helpers as h
import helpers
import numpy as np
import pytest
from storm_helpers import Baseline, sizes

import pyray as ray
from pyray._core import store
from pyray.exceptions import TaskCancelledError


def start(cpus: int = 2, size: int = 256 << 20) -> Baseline:
    ray.init(num_cpus=cpus, object_store_memory=size, log_to_driver=False)
    return Baseline()


class Most:
    """The greatest value that something has while a block runs."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.most = 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.end.wait(0.01):
            self.most = max(self.most, self.value())

    def __enter__(self) -> Most:
        self.thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.end.set()
        self.thread.join()


@sizes(300, short={"tasks": 30_000}, full={"tasks": 1_000_000})
def test_flood_of_queued_tasks(figures, size, gate):
    @ray.remote
    def held() -> int:
        gate.wait(250)
        return os.getpid()

    baseline = start()
    before = helpers.resident()
    holders = [held.remote() for _ in range(2)]
    helpers.wait_until(lambda: sum(w["task"] is not None for w in h.workers()) == 2)
    begun = time.monotonic()
    refs = [h.double.remote(i) for i in range(size.tasks)]
    submitted = time.monotonic() - begun
    own = (helpers.resident() - before) / size.tasks
    gate.open()
    begun = time.monotonic()
    values = ray.get(refs, timeout=250)
    took = time.monotonic() - begun
    assert values == [2 * i for i in range(size.tasks)]
    ray.get(holders)
    chunks = store.object_stats()["chunks"]
    del refs, values, holders
    back = baseline.assert_back(10.0)
    # What a second one takes was the first one's.
    refs = [h.double.remote(i) for i in range(size.tasks)]
    assert ray.get(refs[-1], timeout=250) == 2 * size.tasks - 2
    ray.get(refs)
    assert store.object_stats()["chunks"] <= chunks + 8
    del refs
    baseline.assert_back(10.0)
    assert own < 400
    figures(
        tasks=size.tasks,
        submitted_s=submitted,
        done_s=took,
        driver_bytes_each=own,
        back_to_baseline_s=back,
    )


@sizes(
    120,
    # Workers too many go one a second, some seconds later: waited for in the full size alone.
    short={"tasks": 300, "but": ("processes", "node_fds")},
    full={"tasks": 1000, "but": ()},
)
def test_flood_of_nested_tasks(figures, size):
    """On one CPU: each has two children, and each of those one."""

    @ray.remote
    def leaf(i: int) -> int:
        return i

    @ray.remote
    def middle(i: int) -> int:
        return ray.get(leaf.remote(i)) + 1

    @ray.remote
    def top(i: int) -> int:
        return sum(ray.get([middle.remote(i), middle.remote(2 * i)]))

    baseline = start(cpus=1)
    begun = time.monotonic()
    with Most(lambda: len(helpers.descendants(baseline.node))) as processes:
        values = ray.get([top.remote(i) for i in range(size.tasks)], timeout=100)
    took = time.monotonic() - begun
    assert values == [3 * i + 2 for i in range(size.tasks)]
    assert 2 <= processes.most <= 20
    back = baseline.assert_back(30.0, but=size.but)
    figures(
        tasks=5 * size.tasks, seconds=took, most_workers=processes.most, back_to_baseline_s=back
    )


@sizes(120, short={"results": 1000}, full={"results": 5100})
def test_flood_of_results_with_cancels(figures, size):
    """One in twenty is cancelled at a random moment: it alone is, or it was done already."""

    @ray.remote
    def block(i: int) -> Any:
        time.sleep(0.002)
        return np.full(5000, i)

    @ray.remote
    def small(i: int) -> int:
        time.sleep(0.001)
        return i

    @ray.remote(num_returns=2)
    def two(i: int) -> tuple[int, bytes]:
        return i, bytes([i % 251]) * 3000

    baseline = start()
    rng = random.Random(9)
    refs: list[Any] = []
    asked: set[int] = set()

    def maybe_cancel(refs: list[Any], first: int, end: int) -> None:
        """One in forty, here and while the results are fetched: queued, running or done."""
        if rng.random() < 0.025:
            victim = rng.randrange(max(0, first), min(end, len(refs)))
            asked.add(victim)
            ray.cancel(refs[victim])

    begun = time.monotonic()
    for i in range(size.results):
        match i % 3:
            case 0:
                refs.append(block.remote(i))
            case 1:
                refs.append(small.remote(i))
            case _:
                refs.append(two.remote(i)[0])
        maybe_cancel(refs, i - 100, i + 1)
    cancelled = 0
    for i, ref in enumerate(refs):
        maybe_cancel(refs, i - 10, i + 20)
        try:
            value = ray.get(ref, timeout=60)
        except TaskCancelledError:
            assert i in asked
            cancelled += 1
        else:
            assert (value == i).all() if i % 3 == 0 else value == i
    took = time.monotonic() - begun
    assert cancelled > len(asked) // 4
    del refs, ref, value
    back = baseline.assert_back(10.0)
    figures(
        results=size.results,
        asked=len(asked),
        cancelled=cancelled,
        seconds=took,
        back_to_baseline_s=back,
    )


@pytest.mark.no_asan("takes memory of its own")
@sizes(1800, short={"actors": 60}, full={"actors": 10_000})
def test_flood_of_actors(figures, size):
    """Made and dropped in turn: some unused, some killed."""

    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, payload: bytes) -> None:
            self.payload = payload

        def length(self) -> int:
            return len(self.payload)

    baseline = start()
    begun = time.monotonic()
    warm = min(1000, size.actors // 5)
    with Most(lambda: len(helpers.descendants(baseline.node))) as processes:
        for i in range(size.actors):
            actor = Actor.remote(b"x" * 2000)
            if i % 3 == 0:
                assert ray.get(actor.length.remote(), timeout=60) == 2000
            if i % 7 == 0:
                ray.kill(actor)
            if i == warm:
                resident = helpers.resident(baseline.node)
                chunks = store.object_stats()["chunks"]
    took = time.monotonic() - begun
    grown = helpers.resident(baseline.node) - resident
    del actor
    back = baseline.assert_back(10.0, room=1 << 20)
    assert grown < 16 << 20
    assert store.object_stats()["chunks"] <= chunks + 64
    figures(
        actors=size.actors,
        seconds=took,
        most_processes=processes.most,
        node_grew_kb=grown / 1024,
        back_to_baseline_s=back,
    )


@sizes(300, short={"bytes": 150_000_000}, full={"bytes": 2_200_000_000})
@pytest.mark.parametrize("kind", ["an array", "bytes"])
def test_flood_of_one_large_argument(figures, size, kind):
    """More than two gigabytes, where lengths no longer fit in 31 bits; and back."""

    @ray.remote
    def look(value: Any) -> Any:
        data = memoryview(value).cast("B")
        assert len(data) == size.bytes
        step = len(data) // 1000
        return bytes(data[::step]), bytes(data[-10:])

    @ray.remote
    def same(value: Any) -> Any:
        return value

    baseline = start(size=2 * size.bytes + (64 << 20))
    value: Any = np.arange(size.bytes // 4, dtype=np.uint32) if kind == "an array" else None
    if value is None:
        value = os.urandom(1_000_003) * (size.bytes // 1_000_003 + 1)
        value = value[: size.bytes]
    data = memoryview(value).cast("B")
    want = bytes(data[:: len(data) // 1000]), bytes(data[-10:])
    begun = time.monotonic()
    assert ray.get(look.remote(value), timeout=200) == want
    took = time.monotonic() - begun
    helpers.wait_until(lambda: h.used() < size.bytes // 2, what="the argument to go")
    begun = time.monotonic()
    got = ray.get(same.remote(value), timeout=200)
    both = time.monotonic() - begun
    data = memoryview(got).cast("B")
    assert (bytes(data[:: len(data) // 1000]), bytes(data[-10:])) == want
    del got, data, value
    back = baseline.assert_back(10.0)
    figures(mb=size.bytes / 1e6, there_s=took, there_and_back_s=both, back_to_baseline_s=back)
