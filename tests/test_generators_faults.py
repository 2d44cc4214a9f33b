"""Generators whose processes die: what was yielded stays, and what follows is in order."""

from __future__ import annotations

import os
import random
import signal
import time

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions
from pyray._core import records, store

KILLS = 25


def values_of(generator):
    return [pyray.get(ref) for ref in generator]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


@pyray.remote
def dies(tally, n, at, times, nested=False):
    """Yields (i, attempt), and kills itself before it yields value `at` so many times."""
    tally.add()
    attempt = len(tally)
    for i in range(n):
        if i == at and attempt <= times:
            kill(os.getpid())
        yield [ray_put(i), attempt] if nested else (i, attempt)
    if at == n and attempt <= times:
        kill(os.getpid())


def ray_put(i):
    return pyray.put(np.full(1000, i))


@pytest.fixture
def leaves_nothing(ray):
    """Afterwards the store is as full as it was, and there are as many records."""

    @ray.remote
    def nothing():
        pass

    ray.get([nothing.remote() for _ in range(8)])
    used = store.object_stats()["used"]
    before = sum(records.live_records())
    yield
    helpers.wait_until(
        lambda: store.object_stats()["used"] <= used + 8 * 16384, what="the store to be as empty"
    )
    helpers.wait_until(lambda: sum(records.live_records()) <= before + 4, what="records to go")


@pytest.mark.parametrize("at", [0, 1, 3])
def test_without_retries_the_crash_is_the_last_item(ray, leaves_nothing, tally, at):
    generator = dies.options(max_retries=0).remote(tally, 5, at, 1)
    *good, last = generator
    assert ray.get(good) == [(i, 1) for i in range(at)]
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        ray.get(last)
    assert list(generator) == []
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(generator.completed())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("read_first", [False, True])
def test_what_was_yielded_outlives_its_worker(ray, leaves_nothing, tally, nested, read_first):
    generator = dies.options(max_retries=0).remote(tally, 5, 3, 1, nested)
    refs = [next(generator)] if read_first else []
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(generator.completed())
    refs += generator
    found = ray.get(refs[:-1])
    if nested:
        found = [(int(ray.get(ref).sum()) // 1000, attempt) for ref, attempt in found]
    assert found == [(0, 1), (1, 1), (2, 1)]
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(refs[-1])


@pytest.mark.parametrize(
    ("window", "at", "times"), [(None, 0, 1), (None, 2, 3), (1, 2, 1), (2, 3, 2), (2, 5, 2)]
)
def test_a_retry_goes_on_where_it_was(ray, leaves_nothing, tally, window, at, times):
    f = dies.options(max_retries=3, _generator_backpressure_num_objects=window)
    found = values_of(f.remote(tally, 5, at, times))
    assert [i for i, _ in found] == [0, 1, 2, 3, 4]
    # A value is of the attempt that came to it first: at the end nothing is made again.
    assert [attempt for _, attempt in found] == [1] * at + [times + 1] * (5 - at)
    assert len(tally) == times + 1


def test_a_retry_that_yields_less_ends_there(ray, leaves_nothing, tally):
    @ray.remote(max_retries=1)
    def less(tally):
        tally.add()
        yield 1
        if len(tally) == 1:
            yield 2
            yield 3
            kill(os.getpid())

    assert values_of(less.remote(tally)) == [1, 2, 3]


def test_killed_while_it_waits_for_its_reader(ray, leaves_nothing, tally):
    @ray.remote(max_retries=1, _generator_backpressure_num_objects=2)
    def f(tally):
        tally.add()
        for i in range(6):
            yield i, os.getpid()

    generator = f.remote(tally)
    _, pid = ray.get(next(generator))
    helpers.wait_until(lambda: store_quiet(generator))
    kill(pid)
    found = values_of(generator)
    assert [i for i, _ in found] == [1, 2, 3, 4, 5]
    assert found[-1][1] != pid
    assert len(tally) == 2


def store_quiet(generator):
    """It has yielded all that it may."""
    before = records.live_records()
    time.sleep(0.05)
    return generator.next_ready() and records.live_records() == before


@pytest.mark.parametrize("window", [None, 2])
def test_a_reader_that_dies(ray, leaves_nothing, tally, window):
    @ray.remote
    def endless(tally):
        try:
            i = 0
            while True:
                yield np.full(1000, i)
                time.sleep(0.001)
                i += 1
        finally:
            tally.add("closed")

    @ray.remote(max_retries=0)
    def reads(tally):
        f = endless.options(_generator_backpressure_num_objects=window)
        generator = f.remote(tally)
        for _ in range(3):
            next(generator)
        kill(os.getpid())

    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(reads.remote(tally))
    helpers.wait_until(lambda: tally.lines() == ["closed"])


def test_a_reader_that_returns_without_reading_on(ray, leaves_nothing, tally):
    @ray.remote
    def endless(tally):
        try:
            while True:
                yield 1
                time.sleep(0.001)
        finally:
            tally.add("closed")

    @ray.remote
    def reads(tally):
        return ray.get(next(endless.remote(tally)))

    assert ray.get(reads.remote(tally)) == 1
    helpers.wait_until(lambda: tally.lines() == ["closed"])


@pytest.mark.parametrize(("reads", "window"), [("along", None), ("along", 3), ("after", None)])
@pytest.mark.seconds(120)
def test_killed_at_any_point(ray, leaves_nothing, tally, reads, window):
    """Not a value is lost, doubled or out of order, wherever between two instructions it dies."""

    @ray.remote(max_retries=-1, _generator_backpressure_num_objects=window)
    def busy(tally, n, kills):
        tally.add(os.getpid())
        yield from range(n if len(tally) > kills else 10**9)

    dice = random.Random(7)
    generator = busy.remote(tally, 10**6, KILLS)
    found = []
    for attempt in range(KILLS):
        helpers.wait_until(lambda attempt=attempt: len(tally) > attempt)
        end = time.monotonic() + dice.random() * 0.01
        while time.monotonic() < end:
            if reads == "along" and (ref := generator._next_sync(0)) is not None:
                found.append(ray.get(ref))
        kill(int(tally.lines()[attempt]))
    while len(found) < 2000:
        found.append(ray.get(next(generator)))
    assert found == list(range(len(found)))
    generator.close()


@pytest.mark.slow
@pytest.mark.seconds(180)
def test_actors_killed_at_any_point(ray, tally):
    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class Busy:
        def steps(self, tally):
            tally.add(os.getpid())
            yield from range(10**9)

    dice = random.Random(11)
    actor = Busy.remote()
    generator = actor.steps.remote(tally)
    found = []
    for attempt in range(10):
        helpers.wait_until(lambda attempt=attempt: len(tally) > attempt)
        end = time.monotonic() + dice.random() * 0.01
        while time.monotonic() < end:
            if (ref := generator._next_sync(0)) is not None:
                found.append(ray.get(ref))
        kill(int(tally.lines()[attempt]))
    while len(found) < 2000:
        found.append(ray.get(next(generator)))
    assert found == list(range(len(found)))
