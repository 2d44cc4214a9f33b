"""cancel: calls of actors."""

from __future__ import annotations

import os
import time

import helpers
import pytest
from cancel_helpers import (
    Counter,
    Loop,
    assert_all_free,
    assert_cancelled,
    nothing,
    passes,
)

KINDS = {
    "plain": Counter,
    "threads": Counter.options(max_concurrency=2),
    "coroutines": Loop,
    "one coroutine": Loop.options(max_concurrency=1),
}


@pytest.mark.parametrize("kind", ["plain", "coroutines", "one coroutine"])
def test_a_call_that_runs_is_interrupted_and_the_actor_lives_on(ray, tally, kind):
    actor = KINDS[kind].remote()
    assert ray.get(actor.add.remote(), timeout=10) == 1
    for i in range(3):
        running = actor.nap.remote(tally, 1000)
        after = actor.add.remote()
        helpers.wait_until(lambda i=i: len(tally) == i + 1)
        start = time.monotonic()
        ray.cancel(running)
        error = assert_cancelled(running)
        assert time.monotonic() - start < helpers.patience(0.5)
        assert ".nap" in str(error)
        assert ray.get(after, timeout=10) == 2 * i + 3
    if kind != "plain":
        assert ray.get(actor.report.remote(), timeout=10) == ["CancelledError"] * 3


def test_a_coroutine_may_catch_it(ray, tally):
    actor = Loop.remote()
    refs = [actor.nap.remote(tally, 1000, stubborn) for stubborn in (True, False)]
    helpers.wait_until(lambda: len(tally) == 2)
    for ref in refs:
        ray.cancel(ref)
    assert ray.get(refs[0], timeout=10) == "caught"
    assert_cancelled(refs[1])


def test_one_of_many_coroutines(ray, tally):
    actor = Loop.remote()
    refs = [actor.nap.remote(tally, 0.5) for _ in range(100)]
    helpers.wait_until(lambda: len(tally) == 100)
    for ref in refs[::10]:
        ray.cancel(ref)
    for i, ref in enumerate(refs):
        if i % 10:
            assert ray.get(ref, timeout=10) == 100
        else:
            assert_cancelled(ref)


def test_a_call_that_runs_in_a_thread_goes_on(ray, tally):
    actor = KINDS["threads"].remote()
    ref = actor.nap.remote(tally, 0.5)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert ray.get(ref, timeout=10) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_wait_their_turn_never_start(ray, tally, gate, kind):
    actor = KINDS[kind].remote()
    limit = 1000 if kind == "coroutines" else 2 if kind == "threads" else 1
    if kind == "coroutines":
        actor, limit = Loop.options(max_concurrency=3).remote(), 3
    running = [actor.stay.remote(tally, gate) for _ in range(limit)]
    helpers.wait_until(lambda: len(tally) == limit)
    queued = [actor.stay.remote(tally, gate) for _ in range(5)]
    ordered = [actor.add.remote() for _ in range(3)]
    # Whether they are in the mailbox still, or taken by the actor already.
    assert ray.get(nothing.remote(), timeout=10) is None
    for ref in queued:
        ray.cancel(ref)
        assert "before it started" in str(assert_cancelled(ref))
    assert ray.wait(running, num_returns=limit, timeout=0)[0] == []
    gate.open()
    assert sorted(ray.get(ordered, timeout=10)) == [limit + 1, limit + 2, limit + 3]
    assert len(tally) == limit


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_holds_up_others(ray, tally, gate, kind):
    actor = KINDS[kind].remote()
    first = passes.remote(gate)
    waits = actor.add.remote(first)
    after = actor.add.remote()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(after, timeout=0.3)
    ray.cancel(waits)
    assert_cancelled(waits)
    assert ray.get(after, timeout=10) == 1
    gate.open()


def test_a_call_of_an_actor_that_is_not_made_yet(ray, tally, gate):
    @ray.remote
    class Slow:
        def __init__(self, gate):
            gate.wait()

        def add(self, tally):
            tally.add()
            return 1

    actor = Slow.remote(gate)
    refs = [actor.add.remote(tally) for _ in range(3)]
    ray.cancel(refs[1])
    assert_cancelled(refs[1])
    gate.open()
    assert ray.get([refs[0], refs[2]], timeout=10) == [1, 1]
    assert len(tally) == 2


def test_an_actor_ends_when_its_last_calls_are_cancelled(ray, gate):
    actor = Counter.remote()
    pid = ray.get(actor.pid.remote(), timeout=10)
    first = passes.remote(gate)
    ref = actor.add.remote(first)
    del actor
    ray.cancel(ref)
    assert_cancelled(ref)
    helpers.wait_until(lambda: not helpers.alive(pid), what="the actor's end")
    gate.open()


def test_an_actor_with_cpus_of_its_own_in_a_wait(ray1, tally, gate):
    """It gives its CPU to the child; the interrupt does not wait until it has that back."""

    @ray1.remote
    def child(tally, gate):
        tally.add()
        gate.wait()
        return "child"

    @ray1.remote(num_cpus=1)
    class Waits:
        def wait(self, refs):
            return ray1.get(refs[0])

        def twice(self, x):
            return 2 * x

    actor = Waits.remote()
    assert ray1.get(actor.twice.remote(1), timeout=10) == 2
    for i in range(3):
        slow = child.remote(tally, gate)
        ref = actor.wait.remote([slow])
        helpers.wait_until(lambda i=i: len(tally) == i + 1)
        ray1.cancel(ref, recursive=False)
        assert_cancelled(ref)
        assert ray1.get(actor.twice.remote(i), timeout=10) == 2 * i
        ref = actor.wait.remote([slow])  # and again, before it has its CPU back
        gate.open()
        assert ray1.get([ref, slow], timeout=10) == ["child", "child"]
        helpers.wait_until(lambda: "CPU" not in ray1.available_resources(), what="its CPU")
        os.unlink(gate.path)
    ray1.kill(actor)
    assert_all_free()


def test_a_call_is_not_made_again(ray, tally):
    @ray.remote(max_restarts=1, max_task_retries=5)
    class Retries:
        @ray.method(retry_exceptions=True)
        def fails(self, tally):
            try:
                tally.add()
                time.sleep(1000)
            finally:
                raise ValueError("again")

    actor = Retries.remote()
    ref = actor.fails.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert_cancelled(ref)
    assert len(tally) == 1
