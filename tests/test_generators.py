"""Generators: what a task yields reaches its caller one object at a time."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time

import helpers
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyray
from pyray import exceptions
from pyray.util import state


@pyray.remote
def count(n, start=0):
    yield from range(start, start + n)


@pyray.remote
def fails_after(n):
    yield from range(n)
    raise LookupError("on purpose")


@pyray.remote
def each(values):
    yield from values


def values_of(generator):
    return [pyray.get(ref) for ref in generator]


# ---- what comes out ------------------------------------------------------------------------


def test_values_come_in_order_and_then_it_ends(ray):
    generator = count.remote(5)
    assert isinstance(generator, ray.ObjectRefGenerator)
    refs = list(generator)
    assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
    assert ray.get(refs) == [0, 1, 2, 3, 4]
    assert len(set(refs)) == len({ref.hex() for ref in refs}) == 5
    assert list(generator) == []
    with pytest.raises(StopIteration):
        next(generator)


def test_one_that_yields_nothing(ray):
    assert list(count.remote(0)) == []


def test_a_value_is_there_before_the_next_is_made(ray, gate):
    @ray.remote
    def waits(gate):
        yield "first"
        gate.wait()
        yield "second"

    generator = waits.remote(gate)
    assert ray.get(next(generator)) == "first"
    assert not generator.next_ready()
    gate.open()
    assert ray.get(next(generator)) == "second"


def test_all_sorts_of_values(ray):
    values = [None, 1, "x" * 40, "y" * 500, b"z" * 5000, [1, [2]], {"a": (1,)}, {3, 4}, count]
    out = values_of(each.remote(values))
    assert out[:-1] == values[:-1]
    assert values_of(out[-1].remote(2)) == [0, 1]


def test_arrays_are_views_that_outlive_the_generator(ray):
    @ray.remote
    def arrays(n):
        for i in range(n):
            yield np.full(100_000, i)

    found = values_of(arrays.remote(5))
    gc.collect()
    assert [int(a.sum()) for a in found] == [i * 100_000 for i in range(5)]
    assert not found[0].flags.writeable


def test_ids_inside_what_is_yielded(ray):
    @ray.remote
    def nested(n):
        for i in range(n):
            yield [ray.put(i), ray.put([ray.put(i)])]

    generator = nested.remote(20)
    ray.get(generator.completed())
    found = values_of(generator)
    assert [ray.get(a) for a, _ in found] == list(range(20))
    assert [ray.get(ray.get(b)[0]) for _, b in found] == list(range(20))


def test_an_id_that_is_yielded_stays_one(ray):
    ref = ray.put("inside")
    (out,) = each.remote([ref])
    assert ray.get(out) == ref


def test_refs_can_be_passed_on(ray):
    @ray.remote
    def add(a, b):
        return a + b

    generator = count.remote(4, 10)
    assert ray.get(add.remote(next(generator), next(generator))) == 21

    @ray.remote
    def read(refs):
        return ray.get(refs)

    assert ray.get(read.remote(list(generator))) == [12, 13]


def test_many_at_once_and_nested(ray):
    @ray.remote
    def outer(n):
        for ref in count.remote(n):
            yield ray.get(ref) * 10

    generators = [outer.remote(n) for n in range(12)]
    assert [values_of(g) for g in generators] == [[10 * i for i in range(n)] for n in range(12)]


def test_more_than_a_chunk_of_records(ray):
    generator = count.remote(3000)
    ray.get(generator.completed())
    assert sum(values_of(generator)) == 3000 * 2999 // 2


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 80), st.integers(900, 1200), st.integers(0, 300_000))),
    read=st.integers(0, 40),
    window=st.one_of(st.none(), st.integers(1, 4)),
    fails=st.booleans(),
)
def test_any_sequence_of_sizes(ray, sizes, read, window, fails):
    @ray.remote
    def blobs(sizes, fails):
        for i, size in enumerate(sizes):
            yield bytes([i % 256]) * size
        if fails:
            raise LookupError("the end")

    f = blobs.options(_generator_backpressure_num_objects=window)
    generator = f.remote(sizes, fails)
    refs = [ref for _, ref in zip(range(read), generator, strict=False)]
    expected = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    if fails and read > len(sizes):
        with pytest.raises(LookupError):
            ray.get(refs.pop())
    assert ray.get(refs) == expected[:read]
    if read != len(sizes):
        assert generator.is_finished() == (read > len(sizes))


# ---- errors ------------------------------------------------------------------------------------


def test_an_exception_is_the_last_item(ray):
    generator = fails_after.remote(2)
    refs = list(generator)
    assert ray.get(refs[:2]) == [0, 1]
    with pytest.raises(LookupError, match="on purpose") as caught:
        ray.get(refs[2])
    assert isinstance(caught.value, exceptions.TaskError)
    assert "fails_after" in str(caught.value)
    assert len(refs) == 3
    with pytest.raises(LookupError):
        ray.get(generator.completed())
    with pytest.raises(StopIteration):
        next(generator)


def test_an_exception_before_the_first_value(ray):
    (ref,) = fails_after.remote(0)
    with pytest.raises(LookupError):
        ray.get(ref)


def test_a_value_that_cannot_be_stored_ends_it(ray, tally):
    @ray.remote
    def yields_lock(tally):
        try:
            yield 1
            yield threading.Lock()
            tally.add("went on")
        finally:
            tally.add("closed")

    first, second = yields_lock.remote(tally)
    assert ray.get(first) == 1
    with pytest.raises(TypeError, match="lock"):
        ray.get(second)
    assert tally.lines() == ["closed"]


def test_arguments_that_failed(ray):
    @ray.remote
    def fails():
        raise LookupError("upstream")

    (ref,) = count.remote(fails.remote())
    with pytest.raises(LookupError, match="upstream"):
        ray.get(ref)


def test_what_does_not_yield_says_so(ray):
    @ray.remote(num_returns="streaming")
    def plain():
        return [1, 2]

    (ref,) = plain.remote()
    with pytest.raises(ValueError, match="plain .*has to return a generator.*list"):
        ray.get(ref)
    with pytest.raises(ValueError, match="plain .*has to return a generator.*list"):
        ray.get(plain.options(num_returns="dynamic").remote())


def test_an_iterator_is_as_good_as_a_generator(ray):
    @ray.remote(num_returns="streaming")
    def backwards(n):
        return map(abs, range(-n, 0))

    assert values_of(backwards.remote(4)) == [4, 3, 2, 1]


def test_sys_exit_in_the_middle(ray):
    @ray.remote(max_retries=0)
    def leaves():
        yield os.getpid()
        raise SystemExit(3)

    first, last = leaves.remote()
    assert ray.get(first) > 0
    with pytest.raises(exceptions.WorkerCrashedError, match="sys.exit"):
        ray.get(last)


def test_retry_exceptions_goes_on_where_it_was(ray, tally):
    @ray.remote(max_retries=2, retry_exceptions=[LookupError])
    def shaky(tally):
        tally.add("begun")
        attempt = len(tally)
        yield "a"
        yield ("b", attempt)
        if attempt < 3:
            raise LookupError
        yield ("c", attempt)

    assert values_of(shaky.remote(tally)) == ["a", ("b", 1), ("c", 3)]
    assert len(tally) == 3


def test_retry_exceptions_that_run_out(ray, tally):
    @ray.remote(max_retries=1, retry_exceptions=True)
    def shaky(tally):
        tally.add()
        yield 1
        raise LookupError

    first, second = shaky.remote(tally)
    assert ray.get(first) == 1
    with pytest.raises(LookupError):
        ray.get(second)
    assert len(tally) == 2


# ---- what can be asked of it -----------------------------------------------------------------


def test_next_ready_is_finished_and_completed(ray, gate):
    @ray.remote
    def waits(gate):
        yield 1
        gate.wait()

    generator = waits.remote(gate)
    done = generator.completed()
    helpers.wait_until(generator.next_ready)
    assert not generator.is_finished()
    next(generator)
    assert not generator.next_ready()
    assert not generator.is_finished()
    assert ray.wait([done], timeout=0) == ([], [done])
    gate.open()
    assert ray.get(done) is None
    assert generator.is_finished()
    assert not generator.next_ready()


def test_next_with_a_time_limit(ray, gate):
    @ray.remote
    def waits(gate):
        yield 1
        gate.wait()
        yield 2

    generator = waits.remote(gate)
    assert ray.get(generator._next_sync(20)) == 1
    start = time.monotonic()
    assert generator._next_sync(0.05) is None
    assert 0.04 < time.monotonic() - start < 5
    assert generator._next_sync(0) is None
    gate.open()
    assert ray.get(generator._next_sync()) == 2
    with pytest.raises(StopIteration):
        generator._next_sync(20)


def test_wait_takes_generators(ray, gate):
    @ray.remote
    def waits(gate):
        gate.wait()
        yield 1

    slow, quick, ref = waits.remote(gate), count.remote(2), ray.put(1)
    assert ray.wait([slow, ref], timeout=5) == ([ref], [slow])
    assert ray.wait([slow, quick], timeout=5) == ([quick], [slow])
    assert ray.wait([slow], timeout=0) == ([], [slow])
    next(quick)
    assert ray.wait([slow, quick], timeout=5) == ([quick], [slow])
    gate.open()
    ready, rest = ray.wait([slow, quick, ref], num_returns=3, timeout=20)
    assert (ready, rest) == ([slow, quick, ref], [])
    assert values_of(slow) == [1]
    assert values_of(quick) == [1]
    # One that is finished has nothing to wait for.
    assert ray.wait([slow, quick], num_returns=2, timeout=0) == ([slow, quick], [])


def test_wait_takes_a_generator_once(ray):
    generator = count.remote(1)
    with pytest.raises(ValueError, match="once"):
        ray.wait([generator, generator], num_returns=2)


def test_get_of_a_generator_is_the_generator(ray):
    generator = count.remote(3)
    assert ray.get(generator) is generator
    with pytest.raises(TypeError, match="iterate over it"):
        ray.get([generator])


def test_it_cannot_be_passed_on(ray):
    generator = count.remote(1)
    for use in (ray.put, pickle.dumps, count.remote, lambda g: count.remote([g])):
        with pytest.raises(TypeError, match="cannot be passed to a task or stored"):
            use(generator)
    with pytest.raises(TypeError, match="calling a remote generator"):
        ray.ObjectRefGenerator()


def test_its_task_and_objects_are_listed(ray, gate):
    @ray.remote
    def waits(gate):
        yield 1
        yield "x" * 100_000
        gate.wait()

    generator = waits.remote(gate)
    task = generator.completed().task_id()
    first = next(generator)
    helpers.wait_until(generator.next_ready)
    assert first.task_id() == task
    assert state.get_task(task).state == "RUNNING"
    listed = {o.object_id: o for o in state.list_objects()}
    assert listed[first.hex()].object_size > 0
    # One that nobody has taken is there, and the stream's own end is not yet; no more than that.
    assert sorted(o.object_size > 90_000 for o in listed.values()) == [False, False, True]
    gate.open()
    ray.get(generator.completed())
    helpers.wait_until(lambda: state.get_task(task).state == "FINISHED")
    second = next(generator)
    assert {o.object_id for o in state.list_objects()} >= {first.hex(), second.hex()}


def test_threads_share_one(ray):
    generator = count.remote(2000)
    found: list[list[int]] = [[] for _ in range(4)]

    def read(mine):
        for ref in generator:
            mine.append(ray.get(ref))

    threads = [threading.Thread(target=read, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(x for mine in found for x in mine) == list(range(2000))
    assert all(mine == sorted(mine) for mine in found)


def test_after_the_session(ray):
    generator = count.remote(10)
    next(generator)
    ray.shutdown()
    with pytest.raises(exceptions.SessionError):
        next(generator)
    ray.init(num_cpus=1)
    with pytest.raises(exceptions.SessionError):
        next(generator)
    with pytest.raises(exceptions.SessionError):
        ray.wait([generator])


def test_shutdown_while_it_yields_and_is_waited_for(ray, gate):
    @ray.remote
    def slow(gate):
        yield 1
        gate.wait()

    generator = slow.remote(gate)
    next(generator)
    caught = []

    def read():
        try:
            next(generator)
        except exceptions.SessionError as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    endless = count.options(_generator_backpressure_num_objects=1).remote(10**9)
    next(endless)
    ray.shutdown()
    thread.join(20)
    assert len(caught) == 1


# ---- dynamic, and a number of returns ----------------------------------------------------------


def test_dynamic_is_one_ref_to_all(ray):
    @ray.remote(num_returns="dynamic")
    def split(n):
        yield from range(n)

    ref = split.remote(3)
    assert isinstance(ref, ray.ObjectRef)
    refs = ray.get(ref)
    assert isinstance(refs, ray.DynamicObjectRefGenerator)
    assert len(refs) == 3
    assert ray.get(list(refs)) == [0, 1, 2]
    assert ray.get(list(refs)) == [0, 1, 2]

    @ray.remote
    def total(refs):
        return sum(ray.get(ref) for ref in refs)

    assert ray.get(total.remote(ref)) == 3
    assert ray.get(total.remote(count.options(num_returns="dynamic").remote(5))) == 10


def test_an_exception_is_the_last_of_dynamic(ray):
    refs = list(ray.get(fails_after.options(num_returns="dynamic").remote(2)))
    assert ray.get(refs[:2]) == [0, 1]
    with pytest.raises(LookupError):
        ray.get(refs[2])


def test_dynamic_is_run_again(ray, tally):
    @ray.remote(num_returns="dynamic", retry_exceptions=True, max_retries=1)
    def shaky(tally):
        tally.add()
        yield len(tally)
        if len(tally) == 1:
            raise LookupError

    assert ray.get(list(ray.get(shaky.remote(tally)))) == [2]


def test_a_number_of_returns(ray, gate):
    @ray.remote(num_returns=3)
    def three(gate, n):
        for i in range(n):
            yield i
            if i == 1:
                gate.wait()

    refs = three.remote(gate, 3)
    assert ray.get(refs[0], timeout=20) == 0
    gate.open()
    assert ray.get(refs) == [0, 1, 2]
    a, b, c = three.remote(gate, 2)
    assert ray.get([a, b]) == [0, 1]
    with pytest.raises(ValueError, match="was to yield 3 values .*but yielded 2"):
        ray.get(c)
    a, b, c = three.remote(gate, 4)
    assert ray.get([a, b]) == [0, 1]
    with pytest.raises(ValueError, match="went on after"):
        ray.get(c)
    a, b, c = fails_after.options(num_returns=3).remote(2)
    assert ray.get([a, b]) == [0, 1]
    with pytest.raises(LookupError):
        ray.get(c)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["stream", "", 1.5, True, -1, 70000, [1]])
def test_num_returns_that_is_no_such_thing(value):
    with pytest.raises((TypeError, ValueError), match="num_returns"):
        count.options(num_returns=value)
    with pytest.raises((TypeError, ValueError), match="num_returns"):
        pyray.method(num_returns=value)


@pytest.mark.parametrize("value", [0, -2, 1.5, "2", True])
def test_windows_that_are_none(value):
    name = "_generator_backpressure_num_objects"
    with pytest.raises((TypeError, ValueError), match=name):
        count.options(**{name: value})
    with pytest.raises((TypeError, ValueError), match=name):
        pyray.method(**{name: value})


def test_async_functions_cannot_be_tasks():
    async def coroutine():
        return 1

    async def generator():
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(ValueError, match="async function.*actor"):
            pyray.remote(function)
        with pytest.raises(ValueError, match="async function.*actor"):
            pyray.remote(num_cpus=1)(function)


# ---- local_mode ----------------------------------------------------------------------------------


def test_local_mode():
    pyray.init(local_mode=True)
    generator = count.remote(3)
    assert generator.next_ready()
    assert pyray.wait([generator], timeout=0) == ([generator], [])
    assert values_of(generator) == [0, 1, 2]
    assert generator.is_finished()
    assert pyray.get(generator.completed()) is None
    refs = list(fails_after.remote(1))
    assert pyray.get(refs[0]) == 0
    with pytest.raises(LookupError):
        pyray.get(refs[1])
    assert pyray.get(list(pyray.get(count.options(num_returns="dynamic").remote(2)))) == [0, 1]

    @pyray.remote
    class Actor:
        def plain(self, n):
            yield from range(n)

        async def coroutine(self, n):
            for i in range(n):
                yield i

    actor = Actor.remote()
    assert values_of(actor.plain.remote(3)) == [0, 1, 2]
    assert values_of(actor.coroutine.remote(3)) == [0, 1, 2]
