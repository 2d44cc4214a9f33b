"""Pool: deaths, initializers that fail, terminate, shutdown. Nothing hangs, and nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

import helpers
import pytest

import pyray
from pyray.exceptions import RayActorError, RayError
from pyray.util.multiprocessing import Pool, PoolTerminatedError
from pyray.util.multiprocessing import pool as pool_module  # noqa: F401  (its path in Ray)


def pool_threads():
    return [t for t in threading.enumerate() if t.name.startswith("pyray-pool")]


def get_pid(_=None):
    return os.getpid()


# ---- deaths


def test_a_process_that_dies_fails_its_call_and_is_replaced(ray):
    with Pool(1) as pool:
        first = pool.apply(get_pid)
        for death in (lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), sys.exit):
            with pytest.raises(RayActorError):
                pool.apply(death)  # with the standard pool it would wait for ever
            assert pool.apply(get_pid) != first


def test_only_the_chunk_of_the_process_that_died_fails(ray):
    def die_at_5(x):
        if x == 5:
            os._exit(1)
        return x

    with Pool(2) as pool:
        got = []
        results = pool.imap(die_at_5, range(10))
        for _ in range(10):
            try:
                got.append(next(results))
            except RayActorError:
                got.append("died")
        assert got == [0, 1, 2, 3, 4, "died", 6, 7, 8, 9]
        with pytest.raises(RayActorError):
            pool.map(die_at_5, range(10), chunksize=2)


def test_a_death_elsewhere_that_a_call_meets_is_its_own_error(ray):
    @pyray.remote(num_cpus=0)
    class Other:
        def die(self):
            os._exit(1)

    other = Other.remote()
    with Pool(1) as pool:
        first = pool.apply(get_pid)
        with pytest.raises(RayActorError):
            pool.apply(lambda: pyray.get(other.die.remote()))
        assert pool.apply(get_pid) == first


# ---- initializers


def test_an_initializer_runs_once_in_each_process(ray, tally):
    with Pool(3, tally.add, ("begun",)) as pool:
        helpers.wait_until(lambda: len(tally) == 3, what="three initializers")
        pool.map(abs, range(20), chunksize=1)
        assert len(tally) == 3


def test_an_initializer_that_raises(ray, tally):
    def begin():
        tally.add()
        raise OSError(7, "cannot begin")

    with Pool(2, begin) as pool:
        for call in (
            lambda: pool.apply(abs, (1,)),
            lambda: pool.map(abs, [1, 2]),
            lambda: next(pool.imap(abs, [1, 2])),
            lambda: next(pool.imap(abs, iter([1, 2]))),
        ):
            with pytest.raises(OSError, match="cannot begin") as raised:
                call()
            assert raised.value.errno == 7
        assert 1 <= len(tally) <= 2  # the standard pool would try for ever
        pool.close()
        pool.join()


def test_an_initializer_that_ends_the_process(ray):
    with Pool(1, os._exit, (1,)) as pool:
        with pytest.raises(RayActorError):
            pool.apply(abs, (1,))


def test_an_initializer_that_cannot_be_sent(ray):
    with pytest.raises(TypeError, match="lock"):
        Pool(1, print, (threading.Lock(),))


# ---- terminate and close


def test_terminate_ends_what_runs_and_what_waits(ray, gate):
    pool = Pool(2)
    seen = []
    results = [pool.apply_async(gate.wait, error_callback=seen.append) for _ in range(4)]
    mapped = pool.map_async(abs, range(10))
    items = pool.imap(abs, range(3))
    endless = pool.imap(abs, iter(range(10**9)))
    pool.terminate()
    pool.join()
    for result in (*results, mapped):
        assert result.ready() and not result.successful()
        with pytest.raises(PoolTerminatedError):
            result.get()
    for iterator in (items, endless):
        with pytest.raises(PoolTerminatedError):
            list(iterator)
        with pytest.raises(StopIteration):
            next(iterator)
    assert not seen
    pool.terminate()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(abs, (1,))
    helpers.wait_until(lambda: not pool_threads(), what="the pool's threads to end")


def test_the_context_manager_terminates(ray, gate):
    with Pool(1) as pool:
        pid = pool.apply(get_pid)
        result = pool.apply_async(gate.wait)
    with pytest.raises(PoolTerminatedError):
        result.get()
    helpers.wait_until(lambda: not helpers.alive(pid), what="the process to end")


def test_terminate_in_the_middle_of_many_calls(ray):
    for _ in range(10):
        pool = Pool(2)
        results = [pool.apply_async(abs, (-i,)) for i in range(200)]
        results[20].wait()
        pool.terminate()
        for i, result in enumerate(results):
            try:
                assert result.get(20) == i
            except PoolTerminatedError:
                continue


def test_close_and_join_wait_for_all_that_was_asked(ray, tally):
    pool = Pool(2)
    pid = pool.apply(get_pid)
    results = [pool.apply_async(tally.add) for _ in range(20)]
    unused = pool.imap(tally.add, iter(range(20)))
    seen = []
    pool.map_async(tally.add, range(20), callback=seen.append)
    pool.close()
    pool.join()
    assert len(tally) == 60
    assert all(r.ready() for r in results)
    assert len(seen) == 1
    assert not pool_threads()
    assert list(unused) == [None] * 20
    helpers.wait_until(lambda: not helpers.alive(pid), what="the process to end")
    pool.join()


def test_join_waits_for_callbacks(ray):
    seen = []
    release = threading.Event()

    def slow(value):
        release.wait(20)
        seen.append(value)

    pool = Pool(1)
    pool.apply_async(abs, (-1,), callback=slow)
    pool.close()
    threading.Timer(0.1, release.set).start()
    pool.join()
    assert seen == [1]


def test_a_pool_that_is_forgotten_leaves_nothing(ray):
    pool = Pool(2)
    pid = pool.apply(get_pid)
    del pool
    gc.collect()
    helpers.wait_until(lambda: not helpers.alive(pid), what="the process to end")
    helpers.wait_until(lambda: not pool_threads(), what="the pool's threads to end")


def test_a_result_outlives_its_pool(ray, gate):
    result = Pool(1).apply_async(gate.wait)
    gc.collect()
    gate.open()
    assert result.get(20) is None


# ---- the session's end


def test_shutdown_while_calls_run(ray, gate):
    pool = Pool(2)
    items = pool.imap(abs, iter(range(10**9)))
    next(items)
    results = [pool.apply_async(gate.wait) for _ in range(4)]
    ray.shutdown()
    for result in results:
        with pytest.raises(RayError):
            result.get(20)
    with pytest.raises(RayError):
        for _ in items:
            pass
    with pytest.raises(RayError):
        pool.apply(abs, (1,))
    pool.close()
    pool.join()
    helpers.wait_until(lambda: not pool_threads(), 5, "the pool's threads to end")
    assert not pyray.is_initialized()  # nothing of it has begun another


@pytest.mark.parametrize("call", ["apply", "map", "imap", "close", "terminate"])
def test_a_pool_of_a_session_that_has_ended(ray, call):
    pool = Pool(2)
    pool.apply(abs, (1,))
    ray.shutdown()
    if call == "close":
        pool.close()
        pool.join()
    elif call == "terminate":
        pool.terminate()
        pool.join()
    else:
        arguments = (abs, (1,)) if call == "apply" else (abs, range(100))
        with pytest.raises(RayError):
            list(getattr(pool, call)(*arguments))
    assert not pyray.is_initialized()


def test_an_interrupt_leaves_the_pool_usable(ray, gate):
    with Pool(2) as pool:
        main = threading.main_thread().ident
        timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pool.apply(gate.wait)
        timer.join()
        gate.open()
        assert pool.map(abs, [-1, -2]) == [1, 2]


def test_calls_from_many_threads(ray):
    def work(number):
        got.append(pool.map(lambda x: x + number, range(20), chunksize=3))

    got = []
    with Pool(2) as pool:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == [[x + n for x in range(20)] for n in range(8)]


def test_the_state_of_a_script(tmp_path):
    """Functions of __main__ are pickled; what the initializer sets is seen by all of them."""
    script = """
from pyray.util.multiprocessing import Pool
table, calls = None, 0

def load(n):
    global table
    table = {i: i * i for i in range(n)}

def look_up(i):
    return table[i]

def count(i):
    global calls
    calls += len(table)
    return calls

class Looker:
    def __call__(self, i):
        return helper(i)

def helper(i):
    return table[i]

with Pool(1, load, (10,)) as pool:
    print(pool.map(look_up, [1, 2, 3]))
    print(pool.map(lambda i: table[i] + 1, [1, 2, 3]))
    print(pool.map(Looker(), [4]))
    print(pool.map(count, [1, 2], chunksize=1), table)
"""
    out = helpers.run_script(tmp_path / "script.py", script).stdout.splitlines()
    assert out == ["[1, 4, 9]", "[2, 5, 10]", "[16]", "[10, 20] None"]
