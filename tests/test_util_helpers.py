"""as_completed, map_unordered, and the package pyray.util itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pyray
import pyray.util
from pyray.exceptions import GetTimeoutError
from pyray.util import as_completed, map_unordered


@pyray.remote
def square(x):
    return x * x


@pyray.remote
def fail(x):
    raise ValueError(x)


@pyray.remote
def pass_gate(gate, value):
    gate.wait()
    return value


# ---- as_completed


def test_results_come_as_they_finish_and_not_a_chunk_at_a_time(ray, gate):
    refs = [pass_gate.remote(gate, "late"), square.remote(2), square.remote(3)]
    results = as_completed(refs, chunk_size=3)
    assert sorted([next(results), next(results)]) == [4, 9]
    gate.open()
    assert list(results) == ["late"]


def test_ids_instead_of_values(ray):
    refs = [square.remote(3), fail.remote(1)]
    got = list(as_completed(refs, yield_obj_refs=True))
    assert set(got) == set(refs)
    with pytest.raises(ValueError):
        ray.get(got)


def test_an_error_is_raised_where_its_result_comes(ray):
    with pytest.raises(ValueError, match="7"):
        list(as_completed([fail.remote(7)]))


def test_as_completed_of_nothing(ray):
    assert list(as_completed([])) == []


def test_time_limit_for_the_next_result(ray, gate):
    refs = [pass_gate.remote(gate, 1)]
    with pytest.raises(GetTimeoutError, match="none of 1 calls finished within 0.01 s"):
        list(as_completed(refs, timeout=0.01))
    gate.open()
    assert list(as_completed(refs, timeout=20, fetch_local=False)) == [1]


def test_many_results_are_not_looked_for_one_by_one(ray):
    """Each look goes over all that are missing, so 20,000 looks would take minutes."""
    refs = [ray.put(i) for i in range(20_000)]
    assert sorted(as_completed(refs, chunk_size=1)) == list(range(20_000))


@pytest.mark.parametrize("size", [0, -1])
def test_bad_chunk_size(ray, size):
    with pytest.raises(ValueError, match="chunk_size"):
        as_completed([], chunk_size=size)
    with pytest.raises(ValueError, match="chunk_size"):
        map_unordered(square, [], chunk_size=size)


def test_an_id_that_is_there_twice(ray):
    ref = ray.put(1)
    with pytest.raises(ValueError):
        list(as_completed([ref, ref]))


def test_unknown_option(ray):
    with pytest.raises(TypeError, match="num_returns"):
        as_completed([], num_returns=2)


# ---- map_unordered


def test_map_unordered_gives_every_result(ray):
    assert sorted(map_unordered(square, range(300))) == [i * i for i in range(300)]
    assert sorted(map_unordered(square, range(5), backpressure_size=None)) == [0, 1, 4, 9, 16]
    assert list(map_unordered(square, [])) == []


def test_no_more_calls_than_asked_for_are_under_way(ray):
    taken = 0

    def items():
        nonlocal taken
        while True:  # without end
            taken += 1
            yield taken

    results = map_unordered(square, items(), backpressure_size=4)
    assert taken == 0
    for count in range(1, 50):
        next(results)
        assert taken <= count + 4 + 4  # under way, and finished but not yet taken


def test_map_unordered_gives_the_quick_ones_first(ray, gate):
    results = map_unordered(pass_or_square, [gate, 2, 3], backpressure_size=2)
    assert [next(results), next(results)] == [4, 9]
    gate.open()
    assert list(results) == ["late"]


@pyray.remote
def pass_or_square(x):
    if isinstance(x, int):
        return x * x
    x.wait()
    return "late"


def test_map_unordered_raises_what_a_call_raised(ray):
    with pytest.raises(ValueError, match="3"):
        list(map_unordered(fail, [3]))
    refs = list(map_unordered(fail, [3, 4], yield_obj_refs=True))
    assert len(refs) == 2


def test_map_unordered_wants_a_remote_function(ray):
    with pytest.raises(TypeError, match="remote"):
        map_unordered(abs, [1])
    with pytest.raises(ValueError, match="backpressure_size"):
        map_unordered(square, [1], backpressure_size=0)


# ---- the package


def test_every_name_of_the_package_is_there():
    for name in pyray.util.__all__:
        assert getattr(pyray.util, name) is not None


def test_modules_are_imported_when_they_are_asked_for():
    code = """
import sys, pyray.util as util
heavy = ["asyncio", "multiprocessing.pool", "numpy", "cloudpickle"]
assert not [m for m in heavy if m in sys.modules], [m for m in heavy if m in sys.modules]
assert util.queue.Queue and util.iter.from_items and util.multiprocessing.Pool
assert "multiprocessing.pool" in sys.modules
try:
    util.no_such_module
except AttributeError as error:
    assert "no_such_module" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
