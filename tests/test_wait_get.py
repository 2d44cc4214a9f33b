"""get and wait: one, many, in time and too late."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pyray import exceptions


@pytest.fixture
def stuck(ray, gate):
    """A function whose calls wait for the gate, and take no CPU."""

    @ray.remote(num_cpus=0)
    def call(x=None):
        gate.wait()
        return x

    return call


def test_get_one_a_list_and_in_order(ray):
    f = ray.remote(lambda x: x)
    refs = [f.remote(i) for i in range(100)]
    assert ray.get(refs[3]) == 3
    assert ray.get(refs) == list(range(100))
    assert ray.get(refs[::-1]) == list(range(99, -1, -1))
    assert ray.get([refs[1], refs[1]]) == [1, 1]
    assert ray.get(tuple(refs[:2])) == [0, 1]
    assert ray.get([]) == []


def test_get_returns_nested_values_in_order(ray):
    value = [[1, [2, (3, [4])]], {"b": [5], "a": (6,)}, ((),)]
    f = ray.remote(lambda x: x)
    assert ray.get(f.remote(value)) == value
    assert list(ray.get(ray.put(value))[1]) == ["b", "a"]
    assert ray.get([ray.put(v) for v in value]) == value


def test_get_of_something_else(ray):
    for bad in (1, None, "x", {"a": 1}, b"x" * 20):
        with pytest.raises(TypeError, match="ObjectID"):
            ray.get(bad)
        with pytest.raises(TypeError, match="item 1"):
            ray.get([ray.put(1), bad])
        with pytest.raises(TypeError, match="ObjectID"):
            ray.wait(bad)
        with pytest.raises(TypeError, match="item 1"):
            ray.wait([ray.put(1), bad])


def test_get_timeouts(ray, gate, stuck):
    ref, there = stuck.remote(1), ray.put(0)
    for refs in (ref, [ref], [there, ref]):
        for timeout in (0, 0.0, 0.05):
            start = time.monotonic()
            with pytest.raises(exceptions.GetTimeoutError) as caught:
                ray.get(refs, timeout=timeout)
            assert isinstance(caught.value, TimeoutError)
            assert timeout <= time.monotonic() - start < timeout + 1
    with pytest.raises(TimeoutError, match="1 of 2"):
        ray.get([there, ref], timeout=0)
    assert ray.get(there, timeout=0) == 0
    gate.open()
    assert ray.get([there, ref], timeout=20) == [0, 1]
    assert ray.get(ref, timeout=0) == 1


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (float("nan"), ValueError), ("x", TypeError), ([], TypeError)],
)
def test_bad_timeouts(ray, gate, stuck, timeout, error):
    ref = stuck.remote()
    for call in (ray.get, lambda r, timeout: ray.wait([r], timeout=timeout)):
        with pytest.raises(error, match="timeout"):
            call(ref, timeout=timeout)
    with pytest.raises(error, match="timeout"):
        ray.get([ref], timeout=timeout)
    with pytest.raises(error, match="timeout"):
        ray.get(ray.put(1), timeout=timeout)
    gate.open()
    assert ray.get(ref, timeout=float("inf")) is None


def test_an_error_in_a_list_is_raised_while_others_still_run(ray, gate, stuck):
    @ray.remote
    def bad():
        raise KeyError("early")

    refs = [stuck.remote(1), stuck.remote(2), bad.remote(), stuck.remote(3)]
    with pytest.raises(KeyError, match="early"):
        ray.get(refs, timeout=20)
    assert not gate.is_open()
    assert ray.wait(refs, num_returns=4, timeout=0) == ([refs[2]], [refs[0], refs[1], refs[3]])
    gate.open()
    with pytest.raises(KeyError):
        ray.get(refs)
    assert ray.get([refs[0], refs[1], refs[3]]) == [1, 2, 3]


def test_an_error_can_be_got_again_and_again(ray):
    @ray.remote
    def bad():
        raise ValueError("x")

    ref = bad.remote()
    errors = []
    for _ in range(3):
        with pytest.raises(ValueError, match="x") as caught:
            ray.get(ref)
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3


# ---- wait --------------------------------------------------------------------------------------


def test_wait_keeps_the_order_and_the_number(ray):
    refs = [ray.put(i) for i in range(10)]
    assert ray.wait(refs) == (refs[:1], refs[1:])
    assert ray.wait(refs, num_returns=4) == (refs[:4], refs[4:])
    assert ray.wait(refs[::-1], num_returns=3) == (refs[:6:-1], refs[6::-1])
    assert ray.wait(refs, num_returns=10) == (refs, [])
    assert ray.wait(tuple(refs), num_returns=1, timeout=0, fetch_local=False)[0] == refs[:1]


def test_wait_returns_what_is_there_in_the_order_of_the_list(ray, gate, stuck):
    slow = [stuck.remote(i) for i in range(3)]
    quick = [ray.put(i) for i in range(3)]
    refs = [slow[0], quick[2], slow[1], quick[0], slow[2], quick[1]]
    assert ray.wait(refs, num_returns=2) == (
        [quick[2], quick[0]],
        [slow[0], slow[1], slow[2], quick[1]],
    )
    ready, rest = ray.wait(refs, num_returns=5, timeout=0.02)
    assert (ready, rest) == ([quick[2], quick[0], quick[1]], slow)
    gate.open()
    assert ray.wait(refs, num_returns=6, timeout=20) == (refs, [])


def test_wait_timeouts(ray, gate, stuck):
    ref = stuck.remote()
    for timeout in (0, 0.05):
        start = time.monotonic()
        assert ray.wait([ref], timeout=timeout) == ([], [ref])
        assert timeout <= time.monotonic() - start < timeout + 1
    gate.open()
    assert ray.wait([ref], timeout=None) == ([ref], [])


def test_bad_numbers_to_wait_for(ray):
    cases = [
        (0, ValueError),
        (3, ValueError),
        (-1, ValueError),
        (1.0, TypeError),
        (True, TypeError),
    ]
    for number, error in cases:
        with pytest.raises(error, match="num_returns"):
            ray.wait([ray.put(1), ray.put(2)], num_returns=number)


def test_wait_refuses_duplicates_and_a_single_id(ray):
    ref = ray.put(1)
    with pytest.raises(ValueError, match="twice"):
        ray.wait([ref, ray.put(2), ref])
    assert ray.wait([]) == ([], [])
    with pytest.raises(TypeError, match="single"):
        ray.wait(ref)


def test_wait_does_not_raise_the_errors_of_tasks(ray):
    @ray.remote
    def bad():
        raise ValueError

    refs = [bad.remote(), bad.remote()]
    assert ray.wait(refs, num_returns=2, timeout=20) == (refs, [])


def test_wait_one_by_one_over_a_thousand(ray):
    f = ray.remote(lambda i: i)
    refs = [f.remote(i) for i in range(1000)]
    got = []
    while refs:
        (ready,), refs = ray.wait(refs)
        got.append(ray.get(ready))
    assert sorted(got) == list(range(1000))


def test_wait_and_get_in_a_task(ray, gate, stuck):
    @ray.remote
    def f(box):
        nothing = ray.wait(box, timeout=0)
        try:
            ray.get(box[0], timeout=0.01)
        except exceptions.GetTimeoutError:
            gate.open()
        return nothing, ray.wait(box, num_returns=2), ray.get(box)

    box = [stuck.remote(1), stuck.remote(2)]
    assert ray.get(f.remote(box)) == (([], box), (box, []), [1, 2])


# ---- threads -----------------------------------------------------------------------------------


def test_twenty_threads_wait_for_different_things(ray, gate, stuck):
    refs = [stuck.remote(i) for i in range(4)]
    got = {}
    started = threading.Barrier(21)

    def run(i):
        started.wait()
        if i % 3 == 0:
            got[i] = ray.get(refs[i % 4], timeout=20)
        elif i % 3 == 1:
            got[i] = sum(ray.get(refs, timeout=20))
        else:
            got[i] = len(ray.wait(refs, num_returns=4, timeout=20)[0])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(20)]
    for t in threads:
        t.start()
    started.wait()
    ray.wait(refs, timeout=0.05)
    gate.open()
    for t in threads:
        t.join(20)
    assert got == {i: (i % 4, 6, 4)[i % 3] for i in range(20)}


def test_a_thread_that_times_out_does_not_disturb_others(ray, gate, stuck):
    refs = [stuck.remote(i) for i in range(2)]
    got = []
    thread = threading.Thread(target=lambda: got.append(ray.get(refs, timeout=20)))
    thread.start()
    for _ in range(50):
        with pytest.raises(exceptions.GetTimeoutError):
            ray.get(refs, timeout=0.001)
    gate.open()
    thread.join(20)
    assert got == [[0, 1]]


def test_the_gil_is_free_during_a_wait(ray, gate, stuck):
    """Another thread runs, opens the gate and thereby ends the wait."""
    thread = threading.Timer(0.05, gate.open)
    thread.start()
    assert ray.get(stuck.remote(np.arange(3)), timeout=20).tolist() == [0, 1, 2]
    thread.join()


def test_the_list_may_change_during_the_wait(ray, gate, stuck):
    refs = [stuck.remote(i) for i in range(3)]

    def meddle():
        refs.clear()
        gate.open()

    thread = threading.Timer(0.05, meddle)
    thread.start()
    assert ray.get(refs, timeout=20) == [0, 1, 2]
    thread.join()
