"""What objects cost: small ones, large ones, many in one."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import pyray as ray
from benchmarks import limits
from benchmarks.harness import (
    PYRAY,
    Sample,
    Settings,
    Theme,
    at_most,
    at_most_times,
    available_memory,
    micros_each,
    millis,
    timed,
    times_as_fast,
)
from benchmarks.sessions import EXECUTOR, POOL, WORKERS, bench, session

MEGABYTE = 10**6
MEMCPY = "memcpy"
UNTOUCHED = "memcpy to untouched shared pages"
PICKLE = "pickle 5"
COPY = "get and copy"


@dataclass
class Large:
    """What the benchmarks are handed: arrays that have been written to, and a pool."""

    settings: Settings
    hundred: np.ndarray
    largest: np.ndarray
    pool: Any
    executor: Any

    @property
    def size(self) -> str:
        """Of the largest."""
        return f"{self.largest.nbytes / MEGABYTE:g} MB"


def largest_megabytes(settings: Settings) -> int:
    """800, or less where that, its copies and the store would not fit."""
    if settings.quick:
        return 200
    room = available_memory() // 5
    return next((size for size in (800, 400) if size * MEGABYTE <= room), 200)


@contextlib.contextmanager
def arrays(settings: Settings) -> Iterator[Large]:
    size = largest_megabytes(settings)
    with bench(settings) as both:
        ray.shutdown()  # the benchmarks here begin sessions of their own size
        largest = np.ones(size * MEGABYTE // 8)
        hundred = largest[: 100 * MEGABYTE // 8]
        yield Large(settings, hundred, largest, both.pool, both.executor)


THEME = Theme("objects", bench)
LARGE = Theme("large-objects", arrays)


# ---- small -------------------------------------------------------------------------------------


@THEME.add("put-small", "put of an int, dropped at once", "µs", at_most(1))
def _put_small(bench: Any) -> dict[str, Sample]:
    return {
        PYRAY: micros_each(lambda: ray.put(7), 20_000),
        PICKLE: micros_each(lambda: pickle.dumps(7, 5), 20_000),
    }


@THEME.add("get-small", "get of an int", "µs", at_most(0.4))
def _get_small(bench: Any) -> dict[str, Sample]:
    ref = ray.put(7)
    data = pickle.dumps(7, 5)
    return {
        PYRAY: micros_each(lambda: ray.get(ref), 20_000),
        PICKLE: micros_each(lambda: pickle.loads(data), 20_000),
    }


# ---- many in one -------------------------------------------------------------------------------


def thousand_arrays() -> list[np.ndarray]:
    return [np.full(1000, float(i)) for i in range(1000)]


@THEME.add("list-put", "put of a list of 1,000 arrays of 8 KB", "ms", at_most(2))
def _list_put(bench: Any) -> dict[str, Sample]:
    arrays = thousand_arrays()
    return {
        PYRAY: millis(lambda: ray.put(arrays)),
        PICKLE: millis(lambda: pickle.dumps(arrays, 5)),
    }


@THEME.add("list-get", "get of that list", "ms", at_most(0.4))
def _list_get(bench: Any) -> dict[str, Sample]:
    arrays = thousand_arrays()
    ref = ray.put(arrays)
    data = pickle.dumps(arrays, 5)
    return {
        PYRAY: millis(lambda: ray.get(ref)),
        PICKLE: millis(lambda: pickle.loads(data)),
    }


@THEME.add("ids-get", "get of an object that holds 10,000 ids", "ms", at_most(3))
def _ids_get(bench: Any) -> dict[str, Sample]:
    ids = [ray.put(i) for i in range(10_000)]
    ref = ray.put(ids)
    data = pickle.dumps([i.binary() for i in ids], 5)

    def sample() -> float:
        assert ids  # they live as long as the sample
        return timed(lambda: ray.get(ref)) * 1e3

    return {PYRAY: sample, f"{PICKLE}, as bytes": millis(lambda: pickle.loads(data))}


# ---- large -------------------------------------------------------------------------------------


def first_put(array: np.ndarray) -> Sample:
    """Milliseconds of the first put in a session."""

    def sample() -> float:
        with session(object_store_memory=array.nbytes + 64 * MEGABYTE):
            return timed(lambda: ray.put(array)) * 1e3

    return sample


def warm_put(array: np.ndarray) -> Sample:
    """Milliseconds of a put into memory that a dropped object has left."""

    def sample() -> float:
        ray.put(array)
        return timed(lambda: ray.put(array)) * 1e3

    return sample


def warm_session(array: np.ndarray) -> None:
    """From here on, and to the end of the theme, a session that has ample room for the array."""
    ray.shutdown()
    ray.init(num_cpus=WORKERS, object_store_memory=2 * array.nbytes + 64 * MEGABYTE)


@LARGE.add(
    "put-100-first",
    "first put of 100 MB in a session",
    "ms",
    times_as_fast(2, UNTOUCHED),
    rounds=5,
)
def _put_100_first(bench: Large) -> dict[str, Sample]:
    array = bench.hundred
    return {PYRAY: first_put(array), UNTOUCHED: limits.copy_to_untouched_shared(array)}


@LARGE.add(
    "put-large-first",
    "first put of {bench.size} in a session",
    "ms",
    times_as_fast(2, UNTOUCHED),
    rounds=3,
)
def _put_large_first(bench: Large) -> dict[str, Sample]:
    array = bench.largest
    return {PYRAY: first_put(array), UNTOUCHED: limits.copy_to_untouched_shared(array)}


@LARGE.add("put-100", "put of 100 MB, warm", "ms", times_as_fast(1.7, MEMCPY), rounds=7)
def _put_100(bench: Large) -> dict[str, Sample]:
    warm_session(bench.hundred)
    return {PYRAY: warm_put(bench.hundred), MEMCPY: limits.copy_to_warm(bench.hundred)}


@LARGE.add("put-large", "put of {bench.size}, warm", "ms", times_as_fast(1.7, MEMCPY), rounds=5)
def _put_large(bench: Large) -> dict[str, Sample]:
    warm_session(bench.largest)
    return {PYRAY: warm_put(bench.largest), MEMCPY: limits.copy_to_warm(bench.largest)}


@LARGE.add("get-100", "get of 100 MB", "µs", rounds=7)
def _get_100(bench: Large) -> dict[str, Sample]:
    warm_session(bench.hundred)
    ref = ray.put(bench.hundred)
    data = pickle.dumps(bench.hundred, 5)
    return {
        PYRAY: micros_each(lambda: ray.get(ref), 1000),
        PICKLE: micros_each(lambda: pickle.loads(data), 1),
    }


@LARGE.add(
    "get-writable-100",
    "get of 100 MB, writable, and touch a page of it",
    "µs",
    at_most_times(0.01, COPY),
    rounds=7,
)
def _get_writable_100(bench: Large) -> dict[str, Sample]:
    warm_session(bench.hundred)
    ref = ray.put(bench.hundred)

    def touch(array: np.ndarray) -> None:
        array[array.size // 2] = 1.0

    return {
        PYRAY: micros_each(lambda: touch(ray.get(ref, writable=True)), 200),
        COPY: micros_each(lambda: touch(ray.get(ref).copy()), 1),
    }


@LARGE.add("get-large", "get of {bench.size}", "µs", rounds=7)
def _get_large(bench: Large) -> dict[str, Sample]:
    warm_session(bench.largest)
    ref = ray.put(bench.largest)
    return {PYRAY: micros_each(lambda: ray.get(ref), 1000)}


def sum_of_sample(array: np.ndarray) -> float:
    """The sum of every 1,000th number."""
    return float(array[::1000].sum())


@LARGE.add("share", "put 100 MB, sum a sample in 8 tasks", "ms", at_most(20), rounds=3)
def _share(bench: Large) -> dict[str, Sample]:
    warm_session(bench.hundred)
    task = ray.remote(sum_of_sample)
    ray.get([task.remote(np.ones(1)) for _ in range(100)])  # numpy is imported by then

    def pyray() -> None:
        ref = ray.put(bench.hundred)
        ray.get([task.remote(ref) for _ in range(8)])

    def pool() -> None:
        bench.pool.map(sum_of_sample, [bench.hundred] * 8, chunksize=1)

    def executor() -> None:
        list(bench.executor.map(sum_of_sample, [bench.hundred] * 8))

    for _ in range(2):
        pyray()
    references = {POOL: millis(pool), EXECUTOR: millis(executor)}
    if bench.settings.quick:
        references = {}
    return {PYRAY: millis(pyray), **references}
