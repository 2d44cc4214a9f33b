"""ActorPool: calls go to whichever actor is free."""

from __future__ import annotations

import pytest

import pyray
from pyray.util import ActorPool


@pyray.remote
class Worker:
    def double(self, x):
        return 2 * x

    def fail(self, x):
        raise ValueError(x)

    def pass_gate(self, gate, value):
        gate.wait()
        return value

    def pair(self, x):
        return x, -x


def double(actor, x):
    return actor.double.remote(x)


def fail_at_3(actor, x):
    return actor.fail.remote(x) if x == 3 else actor.double.remote(x)


@pytest.fixture
def actors(ray):
    return [Worker.remote() for _ in range(2)]


def test_map_keeps_the_order(actors):
    pool = ActorPool(actors)
    assert list(pool.map(double, range(20))) == [2 * i for i in range(20)]
    assert not pool.has_next() and pool.has_free()
    assert list(pool.map(double, [])) == []


def test_map_unordered_gives_all(actors):
    pool = ActorPool(actors)
    assert sorted(pool.map_unordered(double, range(20))) == [2 * i for i in range(20)]


def test_unordered_results_come_as_they_finish(actors, gate):
    pool = ActorPool(actors)
    pool.submit(lambda a, v: a.pass_gate.remote(gate, v), "late")
    pool.submit(double, 1)
    pool.submit(double, 2)
    assert pool.get_next_unordered() == 2
    assert pool.get_next_unordered() == 4
    gate.open()
    assert pool.get_next_unordered() == "late"


def test_ordered_results_after_unordered_ones(actors, gate):
    """In Ray an error."""
    pool = ActorPool(actors)
    pool.submit(lambda a, v: a.pass_gate.remote(gate, v), "first")
    pool.submit(double, 1)
    pool.submit(double, 2)
    assert pool.get_next_unordered() == 2
    gate.open()
    assert [pool.get_next(), pool.get_next()] == ["first", 4]


def test_map_forgets_what_was_submitted_before(actors, gate):
    pool = ActorPool(actors)
    for i in range(5):
        pool.submit(fail_at_3, i)
    assert list(pool.map(double, [10, 11, 12])) == [20, 22, 24]
    assert not pool.has_next()


def test_nothing_to_get(actors):
    pool = ActorPool(actors)
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


@pytest.mark.parametrize("take", [ActorPool.get_next, ActorPool.get_next_unordered])
def test_time_limit(actors, gate, take):
    pool = ActorPool(actors[:1])
    pool.submit(lambda a, v: a.pass_gate.remote(gate, v), 1)
    pool.submit(double, 2)
    with pytest.raises(TimeoutError, match=r"within 0\.01 s$"):
        take(pool, timeout=0.01)
    assert pool.has_next()
    with pytest.raises(TimeoutError, match="ignored"):
        take(pool, timeout=0.01, ignore_if_timedout=True)
    gate.open()
    assert take(pool, timeout=20) == 4
    assert not pool.has_next()


def test_an_error_is_raised_for_its_own_result_only(actors):
    pool = ActorPool(actors)
    for i in range(6):
        pool.submit(fail_at_3, i)
    assert [pool.get_next() for _ in range(3)] == [0, 2, 4]
    with pytest.raises(ValueError, match="3"):
        pool.get_next()
    assert [pool.get_next() for _ in range(2)] == [8, 10]
    assert pool.has_free()


def test_a_function_that_raises(actors):
    pool = ActorPool(actors[:1])
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda a, v: 1 // v, 0)
    assert pool.has_free() and not pool.has_next()
    pool.submit(double, 1)
    pool.submit(lambda a, v: 1 // v, 0)  # called once an actor is free
    pool.submit(double, 2)
    assert pool.get_next() == 2
    with pytest.raises(ZeroDivisionError):
        pool.get_next()
    assert pool.get_next() == 4


def test_a_function_that_forgets_remote(actors):
    with pytest.raises(TypeError, match="ObjectRef"):
        ActorPool(actors).submit(lambda a, v: v, 1)


def test_calls_with_several_results(actors):
    pool = ActorPool(actors)

    def pair(actor, x):
        return actor.pair.options(num_returns=2).remote(x)

    assert list(pool.map(pair, [1, 2, 3])) == [[1, -1], [2, -2], [3, -3]]
    assert sorted(pool.map_unordered(pair, [1, 2])) == [[1, -1], [2, -2]]
    pool.submit(pair, 4)
    assert pool.get_next(timeout=20) == [4, -4]


def test_actors_leave_and_join(actors):
    pool = ActorPool(actors[:1])
    assert pool.has_free()
    assert pool.pop_idle() == actors[0]
    assert not pool.has_free() and pool.pop_idle() is None
    pool.submit(double, 1)
    with pytest.raises(ValueError, match="push"):
        pool.get_next()
    with pytest.raises(ValueError, match="push"):
        pool.get_next_unordered()
    pool.push(actors[1])
    assert pool.pop_idle() is None
    assert pool.get_next() == 2
    for actor in actors[1:]:
        with pytest.raises(ValueError, match="already belongs"):
            pool.push(actor)
    pool.submit(double, 3)
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(actors[1])  # busy
    assert pool.get_next() == 6
