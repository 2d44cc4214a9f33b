"""Generators: how far they run ahead, what becomes of what nobody reads, and reading in a loop."""

from __future__ import annotations

import asyncio
import gc
import time

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions
from pyray._core import records, store

MIB = 1 << 20


@pyray.remote
def count(n):
    yield from range(n)


@pyray.remote
def tallied(tally, n, size=0):
    """Notes each value when it is asked for, and the end."""
    try:
        for i in range(n):
            tally.add(i)
            yield np.full(size, i % 256, np.uint8) if size else i
        tally.add("all")
    except GeneratorExit:
        tally.add("closed")
        raise


def ahead(n):
    return tallied.options(_generator_backpressure_num_objects=n)


def settled(tally):
    """How far it has come when it has stopped going on."""
    size = -1

    def same():
        nonlocal size
        before, size = size, len(tally)
        time.sleep(0.05)
        return before == size

    helpers.wait_until(same)
    return size


def used():
    return store.object_stats()["used"]


def live():
    """(objects, tasks): records in use."""
    store.object_stats()  # sweeps
    return records.live_records()


@pytest.fixture
def nothing_kept(ray):
    """Afterwards the store is as full as it was, and there are as many records."""

    @ray.remote
    def nothing():
        pass

    ray.get([nothing.remote() for _ in range(8)])
    gc.collect()
    before, records_before = used(), live()
    yield
    gc.collect()
    helpers.wait_until(lambda: used() <= before + 8 * 16384, what="the store to be as empty")
    # Definitions of functions of the test stay.
    helpers.wait_until(lambda: sum(live()) <= sum(records_before) + 4, what="the records to go")


# ---- backpressure --------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 5])
def test_it_runs_so_far_ahead_and_no_further(ray, tally, window):
    generator = ahead(window).remote(tally, 12)
    helpers.wait_until(lambda: len(tally) >= window)
    assert settled(tally) == window
    for taken in range(1, 4):
        assert ray.get(next(generator)) == taken - 1
        helpers.wait_until(lambda taken=taken: len(tally) >= window + taken)
    assert settled(tally) == window + 3
    assert [ray.get(ref) for ref in generator] == list(range(3, 12))
    assert tally.lines()[-1] == "all"


@pytest.mark.parametrize("window", [None, -1])
def test_without_a_window_it_does_not_wait(ray, tally, window):
    generator = ahead(window).remote(tally, 50)
    ray.get(generator.completed())
    assert len(tally) == 51
    assert len(list(generator)) == 50


def test_a_window_given_with_the_function(ray, tally):
    @ray.remote(_generator_backpressure_num_objects=2, num_returns="streaming")
    def f(tally):
        for i in range(10):
            tally.add()
            yield i

    generator = f.remote(tally)
    helpers.wait_until(lambda: len(tally) >= 2)
    assert settled(tally) == 2
    assert len(list(generator)) == 10


def test_while_it_waits_others_have_its_cpu(ray1, tally):
    generator = ahead(1).remote(tally, 3)
    next(generator)
    helpers.wait_until(lambda: len(tally) == 2)

    @ray1.remote
    def other():
        return "ran"

    assert ray1.get(other.remote(), timeout=20) == "ran"
    assert len(tally) == 2
    assert len(list(generator)) == 2


def test_a_stream_of_ten_times_the_store(ray, tally):
    generator = ahead(4).remote(tally, 40, 64 * MIB)
    total = 0
    for i, ref in enumerate(generator):
        array = ray.get(ref)
        assert array[0] == array[-1] == i
        total += array.nbytes
    assert total == 40 * 64 * MIB


def test_a_store_that_is_full_is_an_error(ray_in_memory, tally):
    ray = ray_in_memory
    generator = tallied.remote(tally, 40, 64 * MIB)
    with pytest.raises(exceptions.ObjectStoreFullError):
        ray.get(generator.completed(), timeout=30)
    *good, last = generator
    assert 2 <= len(good) <= 4
    assert [int(ray.get(ref)[0]) for ref in good] == list(range(len(good)))
    with pytest.raises(exceptions.ObjectStoreFullError):
        ray.get(last)


# ---- what nobody reads -------------------------------------------------------------------------


def test_dropped_in_the_middle(ray, nothing_kept, tally, gate):
    @ray.remote
    def slow(tally, gate):
        try:
            yield np.zeros(100_000)
            yield np.zeros(100_000)
            gate.wait()
            tally.add("asked")
            yield np.zeros(100_000)
            tally.add("went on")
        finally:
            tally.add("closed")

    generator = slow.remote(tally, gate)
    next(generator)
    helpers.wait_until(generator.next_ready)
    del generator
    gate.open()
    helpers.wait_until(lambda: "closed" in tally.lines())
    assert tally.lines() == ["asked", "closed"]


def test_closed_while_it_waits_for_its_reader(ray, nothing_kept, tally):
    generator = ahead(2).remote(tally, 100, 1000)
    done = generator.completed()
    next(generator)
    helpers.wait_until(lambda: len(tally) == 3)
    generator.close()
    assert list(generator) == []
    assert generator.is_finished()
    assert ray.get(done, timeout=20) is None
    assert tally.lines() == ["0", "1", "2", "closed"]


def test_never_looked_at(ray, nothing_kept, tally):
    tallied.remote(tally, 100, 1000)
    ahead(1).remote(tally, 100, 1000)
    helpers.wait_until(lambda: tally.lines().count("closed") == 2)
    # Each got no further than the value at whose yield it was told.
    assert len(tally) <= 2 + 2 * 2 + 4


def test_dropped_when_it_is_over(ray, nothing_kept, tally):
    generator = tallied.remote(tally, 100, 20_000)
    ray.get(generator.completed())
    held = next(generator)
    generator.close()
    assert ray.get(held)[0] == 0
    assert tally.lines()[-1] == "all"


def test_dropped_before_it_starts(ray, nothing_kept, tally, gate):
    @ray.remote
    def busy(gate):
        gate.wait()

    both = [busy.remote(gate) for _ in range(2)]
    tallied.remote(tally, 100)
    gate.open()
    ray.get(both)
    helpers.wait_until(lambda: tally.lines() == ["0", "closed"])


def test_read_to_the_end_leaves_nothing(ray, nothing_kept, tally):
    for window in (None, 1, 3):
        for ref in ahead(window).remote(tally, 60, 30_000):
            assert ray.get(ref).nbytes == 30_000
    generator = count.remote(3000)
    assert len(list(generator)) == 3000


def test_errors_leave_nothing(ray, nothing_kept):
    @ray.remote(num_returns="streaming")
    def fails(n, nested):
        for _ in range(n):
            yield [ray.put(np.zeros(10_000))] if nested else np.zeros(10_000)
        raise LookupError

    for nested in (False, True):
        refs = list(fails.remote(5, nested))
        assert len(refs) == 6
        fails.remote(5, nested).completed()
        list(ray.get(fails.options(num_returns="dynamic").remote(5, nested)))


def test_many_dropped_at_all_points_leave_nothing(ray, nothing_kept, tally):
    generators = [
        ahead(window).remote(tally, 30, 5000) for window in (None, 1, 2, 7) for _ in range(4)
    ]
    for i, generator in enumerate(generators):
        for _, _ref in zip(range(7 * i % 31), generator, strict=False):
            pass
    del generator, _ref
    generators.clear()
    helpers.wait_until(lambda: sum(x in ("all", "closed") for x in tally.lines()) == 16)


def test_reading_does_not_pile_up_records(ray1):
    def read():
        return sum(1 for _ in count.remote(20_000))

    # As many at once as there can be, however late we read.
    generator = count.remote(20_000)
    assert ray1.get(generator.completed(), timeout=20) is None
    assert sum(1 for _ in generator) == 20_000
    before = store.object_stats()["chunks"]
    assert read() == read() == 20_000
    # What was freed is used again: a chunk is 512 records.
    assert store.object_stats()["chunks"] < before + 60


# ---- in an event loop ------------------------------------------------------------------------


def test_async_for(ray):
    async def read(n):
        return [await ref async for ref in count.remote(n)]

    async def several():
        return await asyncio.gather(*[read(n) for n in range(8)])

    assert asyncio.run(read(100)) == list(range(100))
    assert asyncio.run(several()) == [list(range(n)) for n in range(8)]


def test_a_loop_goes_on_while_it_waits(ray, gate):
    @ray.remote
    def slow(gate):
        yield 1
        gate.wait()
        yield 2
        raise LookupError("at last")

    async def main():
        generator = slow.remote(gate)
        assert await (await anext(generator)) == 1
        following = asyncio.create_task(generator.__anext__())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not following.done()
        gate.open()
        assert await (await asyncio.wait_for(following, 20)) == 2
        with pytest.raises(LookupError):
            await (await anext(generator))
        with pytest.raises(StopAsyncIteration):
            await anext(generator)

    asyncio.run(main())


def test_a_cancelled_wait_loses_nothing(ray, gate):
    @ray.remote
    def slow(gate):
        gate.wait()
        yield 1
        yield 2

    async def main():
        generator = slow.remote(gate)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(generator), 0.05)
        gate.open()
        return [await ref async for ref in generator]

    assert asyncio.run(main()) == [1, 2]


def test_coroutines_share_one(ray, gate):
    @ray.remote
    def slow(gate):
        gate.wait()
        yield from range(100)

    async def read(generator):
        found = []
        async for ref in generator:
            found.append(await ref)
            await asyncio.sleep(0)
        return found

    async def main():
        generator = slow.remote(gate)
        readers = [asyncio.create_task(read(generator)) for _ in range(3)]
        await asyncio.sleep(0.01)
        gate.open()
        return await asyncio.gather(*readers)

    found = asyncio.run(main())
    assert sorted(x for mine in found for x in mine) == list(range(100))


def test_async_for_ends_with_the_session(ray, gate):
    @ray.remote
    def slow(gate):
        gate.wait()
        yield 1

    async def main():
        waiting = asyncio.create_task(slow.remote(gate).__anext__())
        await asyncio.sleep(0.05)
        ray.shutdown()
        with pytest.raises(exceptions.SessionError):
            await asyncio.wait_for(waiting, 20)

    asyncio.run(main())


# ---- cancelled -----------------------------------------------------------------------------------


def cancelled_at_last(generator):
    *good, last = generator
    with pytest.raises(exceptions.TaskCancelledError):
        pyray.get(last)
    with pytest.raises(exceptions.TaskCancelledError):
        pyray.get(generator.completed())
    return pyray.get(good)


@pytest.mark.parametrize("force", [False, True])
def test_cancelled_while_it_runs(ray, nothing_kept, tally, force):
    @ray.remote(max_retries=2)
    def slow(tally):
        try:
            tally.add("begun")
            yield 1
            time.sleep(1000)
        finally:
            tally.add("closed")

    generator = slow.remote(tally)
    helpers.wait_until(generator.next_ready)
    ray.cancel(generator, force=force)
    assert cancelled_at_last(generator) == [1]
    assert tally.lines() == (["begun"] if force else ["begun", "closed"])


@pytest.mark.parametrize("force", [False, True])
def test_cancelled_while_it_waits_for_its_reader(ray, nothing_kept, tally, force):
    generator = ahead(2).remote(tally, 100)
    helpers.wait_until(lambda: len(tally) == 2)
    ray.cancel(generator, force=force)
    assert cancelled_at_last(generator) == [0, 1]
    assert "all" not in tally.lines()


def test_cancelled_between_any_two_instructions(ray, nothing_kept, tally):
    for i in range(10):
        generator = tallied.remote(tally, 10**9)
        helpers.wait_until(generator.next_ready)
        time.sleep(0.0003 * i)
        ray.cancel(generator)
        found = cancelled_at_last(generator)
        assert found == list(range(len(found)))


def test_cancelled_before_it_starts(ray, nothing_kept, tally, gate):
    @ray.remote
    def busy(gate):
        gate.wait()

    both = [busy.remote(gate) for _ in range(2)]
    generator = tallied.remote(tally, 3)
    ray.cancel(generator)
    assert cancelled_at_last(generator) == []
    gate.open()
    ray.get(both)
    assert len(tally) == 0


@pytest.mark.parametrize("how", ["dynamic", 3])
def test_other_forms_cancelled(ray, gate, how):
    @ray.remote(num_returns=how)
    def slow(gate):
        yield 1
        gate.open()
        time.sleep(1000)

    refs = slow.remote(gate)
    ref = refs if how == "dynamic" else refs[2]
    helpers.wait_until(gate.is_open)
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref)
    if how != "dynamic":
        assert ray.get(refs[0]) == 1
