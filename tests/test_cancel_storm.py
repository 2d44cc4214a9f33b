"""cancel at random moments, of everything at once: each result is right or says that it was
cancelled, and nothing is lost or left."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import fault_helpers
import helpers
import pytest
from cancel_helpers import assert_all_free, workers

import pyray
from pyray import session
from pyray.exceptions import TaskCancelledError


@pyray.remote
def quick(i):
    return i


@pyray.remote
def naps(i):
    time.sleep(0.002)
    return i


@pyray.remote
def computes(i):
    return sum(range(i * 100)) * 0 + i


@pyray.remote
def parent(i):
    return pyray.get([naps.remote(i), quick.remote(i)])[0]


@pyray.remote
def grandparent(i):
    return pyray.get(parent.remote(i))


@pyray.remote(num_returns=2)
def two(i):
    return bytes([i % 251]) * 100_000, i


@pyray.remote(num_cpus=2)
def wide(i):
    time.sleep(0.001)
    return i


@pyray.remote
def after(i, before):
    return i


@pyray.remote(max_retries=-1, retry_exceptions=True)
def retries(i):
    if random.random() < 0.5:
        raise ValueError("once more")
    return i


@pyray.remote
def cleans_up(i):
    try:
        time.sleep(0.002)
    finally:
        pyray.get(quick.remote(i))
    return i


@pyray.remote
class Plain:
    def call(self, i):
        time.sleep(0.001)
        return i


@pyray.remote
class Loop:
    async def call(self, i):
        await asyncio.sleep(0.001)
        return i


def submit(rng, i, actors, earlier):
    """(refs, what they are to be) of a random call."""
    kind = rng.randrange(12)
    simple = [quick, naps, computes, parent, grandparent, wide, retries, cleans_up]
    if kind < len(simple):
        return [simple[kind].remote(i)], [i]
    if kind == 8:
        return two.remote(i), [bytes([i % 251]) * 100_000, i]
    if kind == 9 and earlier:
        return [after.remote(i, rng.choice(earlier))], [i]
    return [rng.choice(actors).call.remote(i)], [i]


def storm(n, seed, force):
    rng = random.Random(seed)
    actors = [Plain.remote(), Loop.remote(), Plain.options(max_concurrency=3).remote()]
    calls = []
    cancelled = set()
    stop = threading.Event()

    def cancel_some():
        mine = random.Random(seed + 1)
        while not stop.is_set():
            time.sleep(mine.uniform(0, 0.004))
            recent = len(calls)
            if recent == 0:
                continue
            i = mine.randrange(max(0, recent - 60), recent)
            refs = calls[i][0]
            by_force = force and mine.random() < 0.2
            cancelled.add(i)
            try:
                pyray.cancel(mine.choice(refs), force=by_force, recursive=mine.random() < 0.8)
            except ValueError:
                assert by_force  # a call of an actor

    canceller = threading.Thread(target=cancel_some)
    canceller.start()
    try:
        for i in range(n):
            earlier = [c[0][0] for c in calls[-20:]]
            calls.append(submit(rng, i, actors, earlier))
            if rng.random() < 0.1:
                time.sleep(rng.uniform(0, 0.02))
        pyray.wait([r for refs, _ in calls for r in refs], num_returns=1)
        right = ended = 0
        for i, (refs, expected) in enumerate(calls):
            for ref, value in zip(refs, expected, strict=True):
                try:
                    assert pyray.get(ref, timeout=30) == value
                    right += 1
                except TaskCancelledError:
                    ended += 1
                    # It, or what it waited for.
                    assert cancelled, i
    finally:
        stop.set()
        canceller.join()
    return right, ended, len(cancelled)


@pytest.mark.parametrize(
    ("n", "force"),
    [
        (500, False),
        (500, True),
        pytest.param(5000, False, marks=[pytest.mark.slow, pytest.mark.seconds(200)]),
        pytest.param(5000, True, marks=[pytest.mark.slow, pytest.mark.seconds(200)]),
    ],
)
@pytest.mark.seconds(60)
def test_a_storm(n, force, capfd):
    pyray.init(num_cpus=2, object_store_memory=256 << 20)
    helpers.wait_until(lambda: len(workers()) == 2)
    with fault_helpers.store_balanced():
        right, ended, asked = storm(n, n, force)
        assert right > n // 3, (right, ended, asked)
        assert ended > n // 100, (right, ended, asked)
        assert_all_free()
        fault_helpers.assert_whole()
    left = session.current().call("workers")
    helpers.wait_until(lambda: all(w["task"] is None for w in session.current().call("workers")))
    assert len(left) < 40
    pyray.shutdown()
    # No interrupt struck where it was not meant, and no process died unasked.
    assert capfd.readouterr().err == ""


def test_no_interrupt_hits_the_next_task(ray1):
    """Cancel a task in the moment in which it ends and the next begins, again and again."""
    rng = random.Random(3)
    before = None
    hits = 0
    end = time.monotonic() + 2
    while time.monotonic() < end or not hits:
        refs = [computes.remote(20 + i) for i in range(30)]
        victims = set(rng.sample(range(30), 10))
        for i in victims:
            ray1.cancel(refs[i])
        for i, ref in enumerate(refs):
            try:
                assert ray1.get(ref, timeout=20) == 20 + i
            except TaskCancelledError:
                hits += 1
                assert i in victims
        before = before or workers()
    assert set(before) <= set(workers())
