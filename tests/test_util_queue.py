"""Queue: between the driver, tasks and actors; what is put comes out once, in order."""

from __future__ import annotations

import asyncio
import queue as standard

import numpy as np
import pytest

import pyray
from pyray.exceptions import RayActorError, SerializationError
from pyray.util.queue import Empty, Full, Queue


@pyray.remote(num_cpus=0)
def produce(queue, items):
    for item in items:
        queue.put(item)


@pyray.remote(num_cpus=0)
def consume(queue, count):
    return [queue.get() for _ in range(count)]


@pytest.fixture
def queue(ray):
    return Queue()


@pytest.fixture
def small(ray):
    return Queue(maxsize=2)


ITEMS = [0, True, None, "x", "x" * 5000, b"y" * 5000, {"a": [1, 2]}, (1, "z"), [3], {4}, 2**80]


def test_items_come_out_as_they_went_in(queue):
    for item in ITEMS:
        queue.put(item)
    got = [queue.get() for _ in ITEMS]
    assert got == ITEMS
    assert [type(x) for x in got] == [type(x) for x in ITEMS]


def test_arrays_are_handed_on_without_a_copy(queue):
    array = np.arange(100_000)
    queue.put(array)
    got = queue.get()
    assert np.array_equal(got, array)
    assert not got.flags.writeable and not got.flags.owndata


def test_an_id_comes_out_as_its_value_unless_it_is_in_a_list(queue, ray):
    ref = ray.put("value")
    queue.put(ref)
    queue.put([ref])
    assert queue.get() == "value"
    assert queue.get() == [ref]


def test_sizes(small):
    assert (small.size(), small.qsize(), len(small)) == (0, 0, 0)
    assert small.empty() and not small.full()
    small.put(1)
    small.put(2)
    assert (small.size(), len(small)) == (2, 2)
    assert small.full() and not small.empty()
    assert not Queue().full()


@pytest.mark.parametrize("options", [{"block": False}, {"timeout": 0}, {"timeout": 0.01}])
def test_empty_and_full(small, options):
    with pytest.raises(Empty) as empty:
        small.get(**options)
    assert isinstance(empty.value, standard.Empty)
    small.put(1)
    small.put(2)
    with pytest.raises(Full, match="holds 2 items, maxsize is 2") as full:
        small.put(3, **options)
    assert isinstance(full.value, standard.Full)
    assert [small.get(**options), small.get(**options)] == [1, 2]


def test_nowait(small):
    with pytest.raises(Empty):
        small.get_nowait()
    small.put_nowait(1)
    small.put_nowait(2)
    with pytest.raises(Full):
        small.put_nowait(3)
    assert small.get_nowait() == 1


def test_batches_go_in_and_out_whole_or_not_at_all(small):
    with pytest.raises(Full, match="3 more"):
        small.put_nowait_batch([1, 2, 3])
    assert small.empty()
    small.put_nowait_batch(iter([1, "x" * 5000]))
    with pytest.raises(Empty, match="holds 2 items, and 3"):
        small.get_nowait_batch(3)
    assert small.size() == 2
    assert small.get_nowait_batch(0) == []
    assert small.get_nowait_batch(2) == [1, "x" * 5000]


def test_bad_arguments(queue):
    with pytest.raises(ValueError, match="timeout"):
        queue.get(timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        queue.put(1, timeout=-0.1)
    with pytest.raises(TypeError, match="items"):
        queue.put_nowait_batch(1)
    with pytest.raises(TypeError, match="num_items"):
        queue.get_nowait_batch("1")
    with pytest.raises(ValueError, match="num_items"):
        queue.get_nowait_batch(-1)
    with pytest.raises(TypeError, match="maxsize"):
        Queue("1")
    with pytest.raises(TypeError, match="actor_options"):
        Queue(1, actor_options=[])
    with pytest.raises(SerializationError):
        queue.put(x for x in "generator")
    assert queue.empty()


def test_get_waits_for_put_and_put_for_get(small, ray, gate):
    consumer = consume.remote(small, 20)
    producer = produce.remote(small, list(range(20)))
    assert ray.get([consumer, producer]) == [list(range(20)), None]
    assert small.empty()


def test_many_producers_and_consumers_lose_and_double_nothing(small, ray):
    consumers = [consume.remote(small, 25) for _ in range(4)]
    producers = [produce.remote(small, [(p, i) for i in range(20)]) for p in range(5)]
    got = ray.get(consumers)
    ray.get(producers)
    assert sorted(item for part in got for item in part) == [
        (p, i) for p in range(5) for i in range(20)
    ]
    for part in got:
        for p in range(5):
            own = [i for q, i in part if q == p]
            assert own == sorted(own)  # each producer's in order


def test_a_queue_in_a_queue(queue):
    queue.put(queue)
    queue.get().put("through the copy")
    assert queue.get() == "through the copy"


def test_what_a_task_puts_outlives_the_task(queue, ray):
    @ray.remote(max_calls=1)
    def put_and_end():
        queue.put(np.arange(50_000))
        queue.put({"a": 1})

    ray.get(put_and_end.remote())
    assert queue.get().sum() == sum(range(50_000))
    assert queue.get() == {"a": 1}


def test_the_options_of_its_actor(ray):
    queue = Queue(actor_options={"name": "the queue", "num_cpus": 1})
    assert ray.get_actor("the queue") == queue.actor
    queue.put(1)
    assert queue.get() == 1


# ---- in coroutines


def test_async(small):
    async def main():
        await small.put_async(1)
        await small.put_async("x" * 5000)
        with pytest.raises(Full):
            await small.put_async(3, timeout=0.01)
        with pytest.raises(Full):
            await small.put_async(3, block=False)
        assert await small.get_async() == 1
        assert await small.get_async(timeout=20) == "x" * 5000
        with pytest.raises(Empty):
            await small.get_async(timeout=0.01)
        with pytest.raises(Empty):
            await small.get_async(block=False)
        with pytest.raises(ValueError, match="timeout"):
            await small.get_async(timeout=-1)

        async def take():
            return [await small.get_async() for _ in range(10)]

        async def add():
            for i in range(10):
                await small.put_async(i)

        taken, _ = await asyncio.gather(take(), add())
        assert taken == list(range(10))

    asyncio.run(main())


def test_waiting_callers_are_not_limited_to_rays_thousand(queue, ray):
    async def main():
        gets = [asyncio.ensure_future(queue.get_async()) for _ in range(1200)]
        await asyncio.gather(*(queue.put_async(i) for i in range(1200)))
        return await asyncio.gather(*gets)

    assert sorted(asyncio.run(main())) == list(range(1200))


def test_a_cancelled_get_takes_no_item(queue):
    async def main():
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(queue.get_async(), 0.01)
        await queue.put_async("kept")
        return await queue.get_async()

    assert asyncio.run(main()) == "kept"


def test_a_get_that_is_cancelled_while_an_item_comes_loses_nothing(queue):
    async def main():
        got = []
        for i in range(100):
            task = asyncio.ensure_future(queue.get_async())
            await asyncio.sleep(0)
            await queue.put_async(i)
            task.cancel()
            try:
                got.append(await task)
            except asyncio.CancelledError:
                continue
        while len(got) < 100:
            got.append(await queue.get_async(timeout=20))
        return got

    assert sorted(asyncio.run(main())) == list(range(100))


def test_a_cancelled_put_adds_nothing_later(small):
    async def main():
        await small.put_async(1)
        await small.put_async(2)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(small.put_async("late"), 0.05)
        # The one that was cancelled stood before this.
        waiting = asyncio.ensure_future(small.put_async(3))
        got = [await small.get_async() for _ in range(3)]
        await waiting
        return got

    assert asyncio.run(main()) == [1, 2, 3]
    assert small.empty()


# ---- the end


@pytest.mark.parametrize("force", [False, True])
def test_shutdown(ray, force):
    queue = Queue()
    copy = ray.get(ray.put(queue))
    waiting = consume.remote(queue, 1)
    queue.put("taken")
    assert ray.get(waiting) == ["taken"]
    waiting = consume.remote(queue, 1)
    queue.shutdown(force=force)
    assert queue.actor is None
    with pytest.raises(RayActorError):
        ray.get(waiting)
    with pytest.raises(RayActorError):
        queue.put(1)
    with pytest.raises(RayActorError):
        queue.size()
    with pytest.raises(RayActorError):
        copy.put(1)
    queue.shutdown()  # again


def test_after_the_session_has_ended(ray):
    queue = Queue()
    ray.shutdown()
    with pytest.raises(pyray.exceptions.RayError):
        queue.put(1)
    assert not ray.is_initialized()
