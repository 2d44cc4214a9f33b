"""pyray.util with local_mode: everything in one process, one after the other."""

from __future__ import annotations

import os

import pytest

import pyray
from pyray.util import ActorPool, as_completed, map_unordered
from pyray.util import iter as par
from pyray.util.multiprocessing import Pool
from pyray.util.queue import Empty, Full, Queue


@pytest.fixture(autouse=True)
def local():
    pyray.init(local_mode=True, num_cpus=2)


@pyray.remote
class Doubler:
    def double(self, x):
        return 2 * x


@pyray.remote
def get_pid(_=None):
    return os.getpid()


def test_helpers():
    assert list(map_unordered(get_pid, range(3))) == [os.getpid()] * 3
    assert list(as_completed([get_pid.remote()])) == [os.getpid()]


def test_actor_pool():
    pool = ActorPool([Doubler.remote(), Doubler.remote()])
    assert list(pool.map(lambda a, x: a.double.remote(x), range(5))) == [0, 2, 4, 6, 8]


def test_queue():
    queue = Queue(maxsize=2)
    queue.put(1)
    queue.put("x" * 5000)
    with pytest.raises(Full):
        queue.put_nowait(3)
    assert [queue.get(), queue.get(timeout=1)] == [1, "x" * 5000]
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    queue.shutdown()


def test_pool():
    with Pool(2, str, ("begun",), maxtasksperchild=3) as pool:
        assert pool.map(lambda x: os.getpid(), range(10)) == [os.getpid()] * 10
        assert list(pool.imap(abs, iter([-1, 2]))) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            pool.apply(lambda: 1 // 0)
        pool.close()
        pool.join()


def test_parallel_iterator():
    it = par.from_range(6).for_each(lambda x: x + 1)
    assert list(it.gather_sync()) == [1, 4, 2, 5, 3, 6]
    assert sorted(it.gather_async()) == [1, 2, 3, 4, 5, 6]
