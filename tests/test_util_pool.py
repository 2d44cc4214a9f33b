"""Pool gives the standard library's answers: the same calls go through both."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import sys
import threading
import time

import helpers
import pytest

import pyray
from pyray.util.multiprocessing import Pool, TimeoutError

# The standard pool forks, beside the watchdog; again and again with maxtasksperchild.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

# ---- what the calls call: the standard pool wants functions that can be imported


def square(x):
    return x * x


def add(a, b=0, *, c=0):
    return a + b + c


class OddError(Exception):
    """Cannot be made from its own args."""

    def __init__(self, text, number):
        super().__init__(text)
        self.number = number


def fail_at_3(x):
    if x == 3:
        raise ValueError("three", x)
    return x


def raise_key_error(*args):
    raise KeyError("k")


def items_until_3():
    yield 1
    yield 2
    raise OSError(5, "no more items")


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def get_pid(_=None):
    return os.getpid()


state = 0


def set_state(value):
    global state
    state = value


def get_state(x):
    return state + x


def count_up(_):
    global state
    state += 1
    return state


class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n

    def add(self, x):
        return x + self.n


def standard_pool(*args, **kwargs):
    return multiprocessing.get_context("fork").Pool(*args, **kwargs)


def outcome(call, pool):
    try:
        return call(pool)
    except Exception as error:
        return type(error), error.args


def all_of(iterator):
    """Results and errors of an iterator that goes on after errors."""
    got = []
    while True:
        try:
            got.append(next(iterator))
        except StopIteration:
            return got
        except Exception as error:
            got.append((type(error), error.args))


@pytest.fixture
def both():
    """Has a call go through both pools and compares; the standard one is forked first."""
    pools = [standard_pool(2)]
    pyray.init(num_cpus=2, object_store_memory=256 << 20)
    pools.append(Pool(2))

    def same(call):
        expected, ours = (outcome(call, pool) for pool in pools)
        assert ours == expected
        return expected

    yield same
    while pools:
        pools.pop().terminate()  # the standard one's pipes are closed when nothing refers to it


def test_apply(both):
    assert both(lambda p: p.apply(add, (1, 2))) == 3
    assert both(lambda p: p.apply(add, [1], {"c": 4})) == 5
    both(lambda p: p.apply(add, args=(1,), kwds={"b": 4}))
    both(lambda p: p.apply(add))
    both(lambda p: p.apply(raise_key_error))
    both(lambda p: p.apply(int, ("x",)))
    both(lambda p: p.apply_async(add, (1, 2)).get())
    both(lambda p: p.apply_async(add, (1, 2)).get(timeout=30))
    both(lambda p: p.apply(Adder(3), (4,)))
    both(lambda p: p.apply(Adder(3).add, (4,)))


def test_map_and_starmap(both):
    for items in ([], [1], range(10), (x for x in range(10)), "abc", {1: 2}):
        items = list(items) if not isinstance(items, (list, range, str, dict)) else items
        both(lambda p, items=items: p.map(str, items))
    for chunksize in (None, 1, 3, 100):
        both(lambda p, n=chunksize: p.map(square, range(10), chunksize=n))
        both(lambda p, n=chunksize: p.map(square, iter(range(10)), n))
        both(lambda p, n=chunksize: p.starmap(add, [(1, 2), (3,)] * 5, n))
        both(lambda p, n=chunksize: p.map(fail_at_3, [1, 2, 3, 4], n))
        both(lambda p, n=chunksize: p.map_async(fail_at_3, [1, 2, 4], chunksize=n).get())
        both(lambda p, n=chunksize: p.starmap_async(add, [(1, 2)], n).get(30))
    both(lambda p: p.starmap(add, [1, 2]))
    both(lambda p: p.map(square, 5))
    both(lambda p: p.map(square, items_until_3()))
    both(lambda p: p.starmap(raise_key_error, [(1,), (2,)]))


def test_imap(both):
    for chunksize in (1, 3, 100):
        for items in (range(10), [], (x for x in range(10))):
            items = list(items)
            both(lambda p, i=items, n=chunksize: list(p.imap(square, i, n)))
            both(lambda p, i=items, n=chunksize: list(p.imap(square, iter(i), chunksize=n)))
            both(lambda p, i=items, n=chunksize: sorted(p.imap_unordered(square, i, n)))
            both(lambda p, i=items, n=chunksize: sorted(p.imap_unordered(square, iter(i), n)))
    both(lambda p: all_of(p.imap(fail_at_3, [1, 2, 3, 4, 5])))
    both(lambda p: all_of(p.imap(fail_at_3, iter([1, 2, 3, 4, 5]))))
    both(lambda p: sorted(map(repr, all_of(p.imap_unordered(fail_at_3, [1, 2, 3, 4])))))
    both(lambda p: all_of(p.imap(square, items_until_3())))
    both(lambda p: p.imap(square, [1]).next(timeout=30))
    both(lambda p: p.imap(square, [1], chunksize=0))
    both(lambda p: p.imap(square, [1], chunksize=-1))


def test_results(both):
    def times_out(pool):
        result = pool.apply_async(sleep, (0.3,))
        seen = [result.ready(), outcome(lambda _: result.get(timeout=0.01), None)]
        result.wait(0.01)
        seen.append(outcome(lambda _: result.successful(), None)[0])
        return [*seen, result.get(), result.ready(), result.successful(), result.get(0)]

    assert both(times_out)[1][0] is TimeoutError is multiprocessing.TimeoutError

    def fails(pool):
        result = pool.apply_async(raise_key_error)
        result.wait(30)
        answers = [outcome(lambda _: result.get(0), None) for _ in range(2)]
        return [result.ready(), result.successful(), *answers]

    both(fails)

    def imap_times_out(pool):
        results = pool.imap(sleep, [0.3])
        return outcome(lambda _: results.next(timeout=0.01), None), results.next(30)

    both(imap_times_out)
    both(lambda p: p.map_async(square, []).ready())


def test_callbacks(both):
    def calls(pool):
        seen = []
        threads = set()

        def note(label):
            def noted(value):
                threads.add(threading.current_thread() is threading.main_thread())
                seen.append((label, repr(value)))

            return noted

        kinds = {"callback": note("ok"), "error_callback": note("error")}
        # When get() returns, the callback has been called.
        for result in (
            lambda: pool.apply_async(add, (1, 2), **kinds),
            lambda: pool.apply_async(raise_key_error, **kinds),
            lambda: pool.map_async(square, [1, 2, 3], 1, **kinds),
            lambda: pool.map_async(fail_at_3, [3, 3, 4], 1, **kinds),
            lambda: pool.starmap_async(add, [(1, 2)], **kinds),
            lambda: pool.map_async(square, [], **kinds),
        ):
            outcome(lambda _, result=result: result().get(), None)
        assert threads == {False}
        return seen

    assert both(calls) == [
        ("ok", "3"),
        ("error", "KeyError('k')"),
        ("ok", "[1, 4, 9]"),
        ("error", "ValueError('three', 3)"),
        ("ok", "[3]"),
    ]


def test_what_cannot_be_sent_is_told_by_the_result(both):
    lock = threading.Lock()

    def is_type_error(pool):
        result = pool.apply_async(id, (lock,))
        return issubclass(outcome(lambda _: result.get(), None)[0], TypeError)

    assert both(is_type_error)
    assert both(lambda p: p.map(square, [1, 2])) == [1, 4]


def test_after_close(both):
    def closed(pool):
        pending = pool.apply_async(sleep, (0.1,))
        still_running = outcome(lambda p: p.join(), pool)
        pool.close()
        refused = [
            outcome(call, pool)
            for call in (
                lambda p: p.apply(add, (1,)),
                lambda p: p.apply_async(add, (1,)),
                lambda p: p.map(square, [1]),
                lambda p: p.map(square, []),
                lambda p: p.imap(square, [1]),
                lambda p: p.imap_unordered(square, [1]),
                lambda p: p.starmap(add, [(1,)]),
                lambda p: p.__enter__(),
            )
        ]
        pool.close()
        pool.join()
        return still_running, refused, pending.ready(), pending.get()

    expected = both(closed)
    assert expected[0] == (ValueError, ("Pool is still running",))
    assert set(expected[1]) == {(ValueError, ("Pool not running",))}


def test_state_that_an_initializer_makes():
    standard = standard_pool(1, set_state, (10,))
    pyray.init(num_cpus=2)
    for pool in (standard, Pool(1, set_state, (10,))):
        with pool:
            assert pool.map(get_state, [1, 2]) == [11, 12]
            assert pool.map(count_up, range(3)) == [11, 12, 13]  # kept between calls
            pool.close()
            pool.join()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": -1}, ValueError),
        ({"processes": 1, "initializer": 3}, TypeError),
        ({"processes": 1, "maxtasksperchild": 0}, ValueError),
        ({"processes": 1, "maxtasksperchild": -1}, ValueError),
    ],
)
def test_bad_arguments(arguments, error):
    for make in (standard_pool, Pool):
        with pytest.raises(error):
            make(**arguments)


def test_processes_of_their_own_that_last():
    standard = standard_pool(2)
    pyray.init(num_cpus=2)
    for pool in (standard, Pool(2)):
        with pool:
            pids = set(pool.map(get_pid, range(50), chunksize=1))
            assert pids and len(pids) <= 2 and os.getpid() not in pids
            assert set(pool.map(get_pid, range(50), chunksize=1)) <= pids or len(pids) < 2
            pool.close()
            pool.join()


def test_maxtasksperchild():
    standard = standard_pool(1, maxtasksperchild=2)
    pyray.init(num_cpus=2)
    for pool in (standard, Pool(1, maxtasksperchild=2)):
        with pool:
            pids = [pool.apply(get_pid) for _ in range(5)]
            assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]
            pids = pool.map(get_pid, range(6), chunksize=3)  # a chunk counts once
            assert [pids.count(pid) for pid in dict.fromkeys(pids)][-1] == 3
            pool.close()
            pool.join()


# ---- where ours does more


def test_lambdas_and_local_functions(ray):
    local = [3]

    def add_local(x):
        return x + local[0]

    with Pool(2) as pool:
        assert pool.map(lambda x: x + 1, range(10)) == list(range(1, 11))
        assert pool.map(add_local, [1]) == [4]
        assert list(pool.imap(add_local, iter([1, 2]))) == [4, 5]
        assert pool.apply(add_local, (1,)) == 4
        assert pool.starmap(lambda a, b: a * b, [(2, 3)]) == [6]


def test_an_exception_with_a_constructor_of_its_own(ray):
    def fail():
        raise OddError("text", 3)

    with Pool(1) as pool:
        with pytest.raises(OddError, match="^text$") as raised:
            pool.apply(fail)  # the standard pool would wait for ever
    assert type(raised.value) is OddError and raised.value.number == 3
    assert "in fail" in str(raised.value.__cause__)


def test_a_result_that_cannot_be_sent(ray):
    with Pool(1) as pool:
        with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="lock"):
            pool.apply(threading.Lock)
        assert pool.apply(abs, (-1,)) == 1


def test_more_processes_than_cpus(ray1, gate, tally):
    def meet(_):
        tally.add()
        gate.wait()

    with Pool(3) as pool:
        result = pool.map_async(meet, range(3), chunksize=1)
        helpers.wait_until(lambda: len(tally) == 3, what="three calls at once")
        gate.open()
        result.get()


def test_a_call_that_waits_for_a_later_one(ray, gate):
    """No call may stand behind another while a process is free."""
    with Pool(2) as pool:
        blocked = pool.apply_async(gate.wait)
        for i in range(20):
            assert pool.apply(abs, (-i,)) == i
        gate.open()
        blocked.get()


def test_items_without_end_are_taken_as_they_are_needed(ray):
    taken = []

    def items():
        for i in range(sys.maxsize):
            taken.append(i)
            yield i

    with Pool(2) as pool:
        results = pool.imap(sleep_a_bit, items())
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert len(taken) < 100


def sleep_a_bit(x):
    time.sleep(0.01)
    return x


def test_items_that_depend_on_results(ray):
    """The standard pool allows it: items are taken in another thread than results are told in."""
    results = []
    arrived = threading.Semaphore(0)

    def items():
        for i in range(5):
            if i:
                assert arrived.acquire(timeout=20)
            yield i

    with Pool(2) as pool:
        for result in pool.imap(square, items()):
            results.append(result)
            arrived.release()
    assert results == [0, 1, 4, 9, 16]


def test_a_callback_that_makes_calls_and_one_that_raises(ray, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_value))
    seen = []
    with Pool(1) as pool:
        pool.apply_async(abs, (-1,), callback=lambda x: seen.append(pool.apply(abs, (-2,)))).get()
        assert seen == [2]  # with the standard pool it would wait for ever
        result = pool.apply_async(abs, (-1,), callback=lambda x: 1 // 0)
        assert result.get(20) == 1
        assert [type(e) for e in reported] == [ZeroDivisionError]
        assert pool.apply(abs, (-3,)) == 3


def test_named_arguments_under_both_names(ray):
    with Pool(1) as pool:
        assert pool.apply(int, ("ff",), kwargs={"base": 16}) == 255
        assert pool.apply_async(int, ("ff",), kwds={"base": 16}).get() == 255


def test_the_pool_in_a_task_leaves_its_cpu_to_others(ray1):
    @pyray.remote
    def inner(x):
        return x + 1

    @pyray.remote
    def outer():
        with Pool(2) as pool:
            return pool.map(lambda x: pyray.get(inner.remote(x)), [1, 2])

    assert ray1.get(outer.remote()) == [2, 3]


def test_options_of_the_actors(ray):
    with Pool(1, ray_remote_args={"num_cpus": 2}) as pool:
        assert pool.apply(abs, (-1,)) == 1
        assert ray.available_resources().get("CPU", 0) == 0
    with pytest.raises(TypeError):
        Pool(1, ray_remote_args={"no_such_option": 1})
    with pytest.raises(TypeError, match="dict"):
        Pool(1, ray_remote_args=[1])


def test_the_pool_begins_a_session():
    with Pool(3) as pool:
        assert pyray.cluster_resources()["CPU"] == 3
        assert pool.apply(abs, (-1,)) == 1


def test_as_many_processes_as_cpus(ray):
    with Pool() as pool:
        assert "pool_size=2" in repr(pool)


def test_a_pool_cannot_be_sent(ray):
    with Pool(1) as pool, pytest.raises(NotImplementedError, match="cannot be passed"):
        pool.__reduce__()


def test_bad_chunk_size(ray):
    with Pool(1) as pool:
        for size in (0, -1):
            with pytest.raises(ValueError, match="Chunksize"):
                pool.map(abs, [1], chunksize=size)  # the standard pool gives [None]
