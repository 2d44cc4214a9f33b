"""ParallelIterator: the same items as an ordinary iterator's, from several processes."""

from __future__ import annotations

import os

import pytest

import pyray
from pyray.util import iter as par


def test_gather_in_turn(ray):
    it = par.from_range(7, num_shards=2)
    assert list(it.gather_sync()) == [0, 3, 1, 4, 2, 5, 6]
    assert list(it.gather_sync()) == [0, 3, 1, 4, 2, 5, 6]  # from the beginning
    assert list(it.batch_across_shards()) == [[0, 3], [1, 4], [2, 5], [6]]
    assert it.take(3) == [0, 3, 1]
    assert it.take(100) == [0, 3, 1, 4, 2, 5, 6]


def test_gather_as_they_come(ray):
    it = par.from_range(50, num_shards=3)
    assert sorted(it.gather_async()) == list(range(50))
    assert sorted(it.gather_async(num_async=3)) == list(range(50))
    assert sorted(it.gather_async(batch_ms=5, num_async=2)) == list(range(50))


def test_a_slow_shard_keeps_nobody_waiting(ray, gate):
    def slow():
        gate.wait()
        yield "late"

    it = par.from_iterators([slow, range(5)])
    gathered = it.gather_async()
    assert gathered.take(5) == [0, 1, 2, 3, 4]
    gate.open()
    assert list(gathered) == ["late"]


def test_sources(ray):
    assert list(par.from_items("abcde", num_shards=3).gather_sync()) == list("abcde")
    assert [list(s) for s in par.from_items("abcde").shards()] == [list("ace"), list("bd")]
    assert list(par.from_items([]).gather_sync()) == []
    it = par.from_iterators([range(2), lambda: (c for c in "xyz")], name="mine")
    assert list(it.gather_sync()) == [0, "x", 1, "y", "z"]
    assert par.from_items([1, 2, 3], num_shards=1, repeat=True).take(7) == [1, 2, 3, 1, 2, 3, 1]
    assert par.from_items([], repeat=True).take(7) == []


def test_names(ray):
    it = par.from_range(8)
    assert repr(it) == "ParallelIterator[from_range[8, shards=2]]"
    text = repr(it.for_each(abs).filter(bool).batch(2).flatten().local_shuffle(4, seed=0))
    assert text == (
        "ParallelIterator[from_range[8, shards=2].for_each().filter().batch(2).flatten()"
        ".local_shuffle(shuffle_buffer_size=4, seed=0)]"
    )
    assert repr(par.from_items([1, 2])) == "ParallelIterator[from_items[int, 2, shards=2]]"
    local = it.gather_sync().for_each(abs)
    assert repr(local) == f"LocalIterator[{it!r}.gather_sync().for_each()]"


STEPS = [
    (lambda it: it.for_each(lambda x: x * 2), [[0, 2, 4], [6, 8, 10, 12]]),
    (lambda it: it.filter(lambda x: x % 2), [[1], [3, 5]]),
    (lambda it: it.batch(2), [[[0, 1], [2]], [[3, 4], [5, 6]]]),
    (lambda it: it.batch(2).flatten(), [[0, 1, 2], [3, 4, 5, 6]]),
    (lambda it: it.combine(lambda x: [x] * x), [[1, 2, 2], [3] * 3 + [4] * 4 + [5] * 5 + [6] * 6]),
    (lambda it: it.transform(lambda xs: (x + 1 for x in xs)), [[1, 2, 3], [4, 5, 6, 7]]),
    (lambda it: it.for_each(lambda x: -x, max_concurrency=2), [[0, -1, -2], [-3, -4, -5, -6]]),
    (
        lambda it: it.for_each(lambda x: x + 1).filter(lambda x: x > 2).batch(9),
        [[[3]], [[4, 5, 6, 7]]],
    ),
]


def test_steps_in_the_shards_and_here(ray):
    two, one = par.from_range(7), par.from_range(7, num_shards=1)
    for step, shards in STEPS:
        assert [list(shard) for shard in step(two).shards()] == shards
        assert list(step(one.gather_sync())) == list(step(one).gather_sync())


def test_the_work_is_done_in_the_actors(ray):
    pids = set(par.from_range(6, num_shards=3).for_each(lambda _: os.getpid()).gather_sync())
    assert len(pids) == 3 and os.getpid() not in pids


def test_shuffling(ray):
    it = par.from_range(100, num_shards=2)
    shuffled = it.local_shuffle(10, seed=1)
    first, second = ([list(shard) for shard in shuffled.shards()] for _ in range(2))
    assert first == second
    assert sorted(first[0]) == list(range(50)) != first[0]
    local = list(it.gather_sync().shuffle(200))
    assert sorted(local) == list(range(100)) != local


def test_shards(ray):
    it = par.from_range(8, num_shards=4)
    assert it.num_shards() == 4
    assert list(it.get_shard(3)) == [6, 7]
    assert list(it.get_shard(3, batch_ms=1, num_async=2)) == [6, 7]
    assert it.select_shards([1, 2]).take(9) == [2, 4, 3, 5]
    for index in (4, -1):
        with pytest.raises(ValueError, match="out of range"):
            it.get_shard(index)


def test_shards_in_tasks(ray):
    @ray.remote(num_cpus=0)
    def add_up(shard):
        return sum(shard)

    it = par.from_range(10, num_shards=2)
    assert ray.get([add_up.remote(shard) for shard in it.shards()]) == [10, 35]


def test_union(ray):
    both = par.from_range(4).for_each(lambda x: -x).union(par.from_items(["a", "b", "c"]))
    assert both.num_shards() == 4
    assert list(both.gather_sync()) == [0, -2, "a", "b", -1, -3, "c"]
    with pytest.raises(TypeError, match="ParallelIterator"):
        both.union([1])
    it = par.from_range(3, num_shards=1)
    assert list(it.gather_sync().union(it.gather_sync())) == [0, 0, 1, 1, 2, 2]


def test_two_iterations_side_by_side(ray):
    it = par.from_range(6)
    one, two = it.gather_sync(), it.gather_sync()
    assert one.take(2) == [0, 3]
    assert list(two) == [0, 3, 1, 4, 2, 5]
    assert list(one) == [1, 4, 2, 5]


def test_duplicate(ray):
    one, two = par.from_range(3, num_shards=1).gather_sync().duplicate(2)
    assert one.take(2) == [0, 1]
    assert list(two) == [0, 1, 2]
    assert list(one) == [2]


def test_show(ray, capsys):
    par.from_range(4).show(3)
    assert capsys.readouterr().out == "0\n2\n1\n"


def test_an_error_ends_the_iteration(ray):
    it = par.from_range(4, num_shards=1).for_each(lambda x: 1 // (x - 1))
    gathered = it.gather_sync()
    assert next(gathered) == -1
    with pytest.raises(ZeroDivisionError):
        next(gathered)
    with pytest.raises(StopIteration):
        next(gathered)
    with pytest.raises(ZeroDivisionError):
        list(it.gather_async())


def test_an_iteration_given_up_is_forgotten_in_the_shards(ray):
    it = par.from_items(range(10), num_shards=1, repeat=True)
    actor = it._shards[0].actor

    def open_there():
        return ray.get(actor.__ray_call__.remote(lambda self: len(self._par_iter_open)))

    gathered = it.gather_sync()
    gathered.take(3)
    assert open_there() == 1
    del gathered
    assert open_there() == 0
    it.take(2)
    assert open_there() == 0


def test_actors_of_ones_own(ray):
    @ray.remote(num_cpus=0)
    class Source(par.ParallelIteratorWorker):
        def __init__(self, start):
            super().__init__(lambda: range(start, start + 3), repeat=False)

        def hello(self):
            return "hello"

    actors = [Source.remote(0), Source.remote(10)]
    it = par.from_actors(actors)
    assert list(it.for_each(lambda x: x + 1).gather_sync()) == [1, 11, 2, 12, 3, 13]
    assert ray.get(actors[0].hello.remote()) == "hello"


def test_it_cannot_be_gone_through_itself(ray):
    with pytest.raises(TypeError, match="gather_sync"):
        iter(par.from_range(1))


def test_bad_numbers(ray):
    it = par.from_range(4)
    for make in (
        lambda: par.from_range(4, num_shards=0),
        lambda: par.from_items([1], num_shards=-1),
        lambda: it.batch(0),
        lambda: it.local_shuffle(0),
        lambda: it.gather_async(num_async=0),
        lambda: it.gather_async(batch_ms=-1),
        lambda: it.for_each(abs, max_concurrency=0),
    ):
        with pytest.raises(ValueError):
            make()


def test_after_the_session_has_ended(ray):
    it = par.from_range(4)
    started = it.gather_sync()
    next(started)
    ray.shutdown()
    for gathered in (started, it.gather_sync()):
        with pytest.raises(pyray.exceptions.RayError):
            list(gathered)
    assert not ray.is_initialized()
