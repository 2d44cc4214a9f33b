"""Generators as methods of actors: plain, in threads, and in an event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import helpers
import pytest

import pyray
from pyray import exceptions


def values_of(generator):
    return [pyray.get(ref) for ref in generator]


@pyray.remote
class Plain:
    def __init__(self):
        self.n = 0

    def steps(self, n):
        for _ in range(n):
            self.n += 1
            yield self.n

    def value(self):
        return self.n

    def fails_after(self, n):
        yield from range(n)
        raise LookupError("on purpose")

    def tallied(self, tally, n):
        try:
            for i in range(n):
                tally.add(i)
                yield i
        finally:
            tally.add("closed")

    def shaky(self, tally):
        tally.add()
        attempt = len(tally)
        yield "a", attempt
        if attempt != 2:
            raise LookupError
        yield "b", attempt

    @pyray.method(num_returns="dynamic")
    def split(self, n):
        yield from range(n)

    @pyray.method(num_returns=2)
    def two(self):
        yield 1
        yield 2

    def leaves(self, n):
        yield from range(n)
        pyray.actor.exit_actor()

    def gated(self, gate):
        yield os.getpid()
        gate.wait()
        yield os.getpid()


@pyray.remote
class Loop:
    def __init__(self):
        self.event = asyncio.Event()
        self.log = []

    async def steps(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    def plain_steps(self, n):
        yield from range(n)

    async def until_set(self):
        yield "waiting"
        await self.event.wait()
        yield "set"

    async def set(self):
        self.event.set()

    async def fails_after(self, n):
        for i in range(n):
            yield i
        raise LookupError("on purpose")

    async def tallied(self, tally, n):
        try:
            for i in range(n):
                tally.add(i)
                yield i
        finally:
            await asyncio.sleep(0)
            tally.add("closed")

    async def cleans_up(self, tally, gate):
        try:
            while True:
                tally.add("yields")
                gate.wait()  # holds up the loop
                yield
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            tally.add("closed")

    async def stubborn(self, tally):
        n = 0
        while True:
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                tally.add()
            yield n
            n += 1

    def plain_tallied(self, tally, n):
        try:
            for i in range(n):
                tally.add(i)
                yield i
        finally:
            tally.add("closed")

    async def shaky(self, tally):
        tally.add()
        attempt = len(tally)
        yield "a", attempt
        await asyncio.sleep(0)
        if attempt != 2:
            raise LookupError
        yield "b", attempt

    async def of_self(self, handle, n):
        """Reads a stream that this very process writes."""
        async for ref in handle.steps.remote(n):
            yield await ref

    async def split(self, n):
        for i in range(n):
            yield i

    async def ping(self):
        return "pong"


@pytest.fixture(params=["plain", "threads", "loop"])
def actor(request, ray):
    """An actor with `fails_after` and `tallied`, of each sort."""
    if request.param == "loop":
        return Loop.remote()
    return Plain.options(max_concurrency=1 if request.param == "plain" else 4).remote()


# ---- of every sort -----------------------------------------------------------------------------


def test_an_exception_is_the_last_item(actor):
    *good, last = actor.fails_after.remote(3)
    assert pyray.get(good) == [0, 1, 2]
    with pytest.raises(LookupError, match="on purpose"):
        pyray.get(last)


@pytest.mark.parametrize("window", [1, 3])
def test_it_runs_so_far_ahead(actor, tally, window):
    method = actor.tallied.options(_generator_backpressure_num_objects=window)
    generator = method.remote(tally, 20)
    next(generator)
    helpers.wait_until(lambda: len(tally) == window + 1)
    assert values_of(generator) == list(range(1, 20))
    assert len(tally) == 21


def test_dropped_in_the_middle(actor, tally):
    method = actor.tallied.options(_generator_backpressure_num_objects=2)
    generator = method.remote(tally, 1000)
    next(generator)
    del generator
    helpers.wait_until(lambda: "closed" in tally.lines())
    assert len(tally) <= 5


def test_retry_exceptions_goes_on_where_it_was(actor, tally):
    method = actor.shaky.options(max_task_retries=1, retry_exceptions=True)
    assert values_of(method.remote(tally)) == [("a", 1), ("b", 2)]
    *good, last = method.options(max_task_retries=0).remote(tally)
    assert pyray.get(good) == [("a", 3)]
    with pytest.raises(LookupError):
        pyray.get(last)


def test_many_at_once(actor):
    generators = [actor.fails_after.remote(n) for n in range(10)]
    for n, generator in enumerate(generators):
        assert pyray.get(list(generator)[:-1]) == list(range(n))


# ---- plain and in threads --------------------------------------------------------------------


def test_state_and_order(ray):
    actor = Plain.remote()
    first, value, second = actor.steps.remote(3), actor.value.remote(), actor.steps.remote(2)
    # One call after the other, as always.
    assert ray.get(value) == 3
    assert values_of(second) == [4, 5]
    assert values_of(first) == [1, 2, 3]


def test_dynamic_and_a_number_of_returns(ray):
    actor = Plain.remote()
    assert values_of(ray.get(actor.split.remote(3))) == [0, 1, 2]
    assert values_of(actor.split.options(num_returns="streaming").remote(3)) == [0, 1, 2]
    assert ray.get(actor.two.remote()) == [1, 2]
    loop = Loop.remote()
    assert values_of(ray.get(loop.split.options(num_returns="dynamic").remote(3))) == [0, 1, 2]
    assert ray.get(loop.split.options(num_returns=3).remote(3)) == [0, 1, 2]
    refs = list(ray.get(loop.fails_after.options(num_returns="dynamic").remote(1)))
    assert ray.get(refs[0]) == 0
    with pytest.raises(LookupError):
        ray.get(refs[1])


def test_what_does_not_yield_says_so(ray):
    for actor, method in ((Plain.remote(), "value"), (Loop.remote(), "ping")):
        (ref,) = getattr(actor, method).options(num_returns="streaming").remote()
        with pytest.raises(ValueError, match=f"{method}.*has to return a generator"):
            ray.get(ref)


def test_threads_side_by_side(ray, gate):
    actor = Plain.options(max_concurrency=2).remote()
    held = actor.gated.remote(gate)
    next(held)
    assert values_of(actor.steps.remote(3)) == [1, 2, 3]
    gate.open()
    assert len(list(held)) == 1


def test_more_threads_wait_for_readers_than_have_a_place_to_wait(ray, tally):
    actor = Plain.options(max_concurrency=20).remote()
    method = actor.tallied.options(_generator_backpressure_num_objects=1)
    generators = [method.remote(tally, 3) for _ in range(20)]
    helpers.wait_until(lambda: tally.lines().count("0") == 20)
    for generator in reversed(generators):
        assert values_of(generator) == [0, 1, 2]


# ---- in an event loop ------------------------------------------------------------------------


def test_async_generators(ray):
    actor = Loop.remote()
    assert values_of(actor.steps.remote(50)) == list(range(50))
    assert values_of(actor.plain_steps.remote(50)) == list(range(50))
    held = actor.until_set.remote()
    assert ray.get(next(held)) == "waiting"
    assert ray.get(actor.ping.remote()) == "pong"
    ray.get(actor.set.remote())
    assert ray.get(next(held)) == "set"


@pytest.mark.parametrize("method", ["tallied", "plain_tallied"])
def test_waiting_for_readers_holds_up_nobody(ray, tally, method):
    actor = Loop.remote()
    bounded = getattr(actor, method).options(_generator_backpressure_num_objects=1)
    # More than an executor has threads; and read in another order.
    generators = [bounded.remote(tally, 3) for _ in range(60)]
    helpers.wait_until(lambda: tally.lines().count("0") == 60)
    assert ray.get(actor.ping.remote(), timeout=20) == "pong"
    for generator in reversed(generators):
        assert values_of(generator) == [0, 1, 2]


def test_one_that_reads_its_own(ray):
    actor = Loop.remote()
    assert values_of(actor.of_self.remote(actor, 20)) == list(range(20))


def test_async_in_and_out(ray):
    actor = Loop.remote()

    async def main():
        return [await ref async for ref in actor.steps.remote(20)]

    assert asyncio.run(main()) == list(range(20))


# ---- deaths --------------------------------------------------------------------------------------


def test_killed_in_the_middle(ray, gate):
    actor = Plain.remote()
    generator = actor.gated.remote(gate)
    pid = ray.get(next(generator))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(exceptions.ActorDiedError, match=f"pid={pid}"):
        ray.get(next(generator))
    assert list(generator) == []
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(generator.completed())


def test_ray_kill_ends_a_stream_that_waits_for_its_reader(ray, tally):
    actor = Plain.remote()
    method = actor.tallied.options(_generator_backpressure_num_objects=1)
    generator = method.remote(tally, 10)
    next(generator)
    helpers.wait_until(lambda: len(tally) == 2)
    ray.kill(actor)
    refs = list(generator)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(refs[-1])
    assert ray.get(refs[:-1]) == [1]


def test_calls_of_a_dead_actor(ray):
    actor = Plain.remote()
    ray.get(actor.value.remote())
    ray.kill(actor)
    helpers.wait_until(lambda: _fails(actor.value.remote()))
    (ref,) = actor.steps.remote(3)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(ref)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(ray.get(actor.split.remote(3)))


def _fails(ref):
    try:
        pyray.get(ref)
    except exceptions.ActorDiedError:
        return True
    return False


def test_a_call_that_has_not_begun(ray, gate):
    actor = Plain.remote()
    held = actor.gated.remote(gate)
    queued = actor.steps.remote(3)
    os.kill(ray.get(next(held)), signal.SIGKILL)
    (ref,) = queued
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(ref)


def test_exit_actor_in_the_middle(ray):
    actor = Plain.remote()
    *good, last = actor.leaves.remote(2)
    assert ray.get(good) == [0, 1]
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(last)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_restarted_actor_goes_on_where_it_was(ray, tally, concurrency):
    @ray.remote(max_restarts=1, max_task_retries=1, max_concurrency=concurrency)
    class Dies:
        def steps(self, tally, n):
            tally.add("begun")
            attempt = len(tally)
            for i in range(n):
                if i == 3 and attempt == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield (i, attempt)

    actor = Dies.remote()
    found = values_of(actor.steps.remote(tally, 6))
    assert found == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_a_restarted_actor_without_retries(ray):
    @ray.remote(max_restarts=1)
    class Dies:
        def steps(self, n):
            yield from range(n)
            os.kill(os.getpid(), signal.SIGKILL)

        def ping(self):
            return "pong"

    actor = Dies.remote()
    *good, last = actor.steps.remote(2)
    assert ray.get(good) == [0, 1]
    with pytest.raises(exceptions.ActorUnavailableError):
        ray.get(last)
    assert ray.get(actor.ping.remote()) == "pong"


def test_a_caller_that_dies(ray, tally):
    """The actor is told at its next yield, and goes on with the next call."""
    actor = Plain.remote()

    @ray.remote(max_retries=0)
    def reads_and_dies(actor, tally):
        method = actor.tallied.options(_generator_backpressure_num_objects=2)
        generator = method.remote(tally, 1000)
        next(generator)
        helpers.wait_until(lambda: len(tally) == 3)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(reads_and_dies.remote(actor, tally))
    helpers.wait_until(lambda: "closed" in tally.lines())
    assert len(tally) <= 5
    assert values_of(actor.steps.remote(2)) == [1, 2]


def test_called_from_many_threads(ray):
    actor = Plain.options(max_concurrency=4).remote()
    found = []

    def read():
        found.append(len(values_of(actor.steps.remote(100))))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [100] * 6


# ---- cancelled -----------------------------------------------------------------------------------


def test_cancelled_while_it_waits_for_its_reader(actor, tally):
    method = actor.tallied.options(_generator_backpressure_num_objects=2)
    generator = method.remote(tally, 1000)
    helpers.wait_until(lambda: len(tally) == 2)
    pyray.cancel(generator)
    *good, last = generator
    with pytest.raises(exceptions.TaskCancelledError):
        pyray.get(last)
    # The tally comes before the yield: the second value may just not have been passed on.
    assert pyray.get(good) in ([0], [0, 1])
    helpers.wait_until(lambda: tally.lines()[-1] == "closed", what="the generator's end")
    assert values_of(actor.tallied.remote(tally, 2)) == [0, 1]


def test_cancelled_at_a_yield(actor, tally):
    generator = actor.tallied.remote(tally, 10**9)
    helpers.wait_until(generator.next_ready)
    pyray.cancel(generator)
    generator.completed().future().exception(20)
    *good, last = generator
    with pytest.raises(exceptions.TaskCancelledError):
        pyray.get(last)
    assert pyray.get(good[:10]) == list(range(min(10, len(good))))


def test_cancelled_once_in_a_loop(ray, tally, gate):
    # Asked for while the loop is busy: by the time the call could notice, its task is not cancelled
    # yet. What the generator awaits as it cleans up is not to be cancelled too.
    generator = Loop.remote().cleans_up.remote(tally, gate)
    helpers.wait_until(lambda: len(tally) == 1)
    pyray.cancel(generator)
    gate.open()
    *_, last = generator
    with pytest.raises(exceptions.TaskCancelledError):
        pyray.get(last)
    assert tally.lines()[-1] == "closed"


def test_cancelled_in_a_loop_though_it_yields_on(ray, tally):
    generator = Loop.remote().stubborn.remote(tally)
    pyray.get(next(generator))
    pyray.cancel(generator)
    *_, last = generator
    with pytest.raises(exceptions.TaskCancelledError):
        pyray.get(last)
    assert len(tally) == 1
