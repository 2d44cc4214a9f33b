"""What a task costs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pyray as ray
from benchmarks import limits
from benchmarks.harness import (
    BUSY_SECONDS,
    PYRAY,
    Sample,
    Theme,
    at_least,
    at_least_times,
    at_most,
    at_most_times,
    micros_each,
    millis,
    per_second,
    timed,
)
from benchmarks.sessions import BATCH, EXECUTOR, POOL, WORKERS, Bench, bench, nothing, nothing_of

THEME = Theme("tasks", bench)

NESTED_BATCHES = 10
IDLE_SECONDS = 0.1
ASYNCIO = "asyncio alone"

task = ray.remote(nothing)


@ray.remote
def following(previous: Any) -> Any:
    """A link of the chain."""
    return previous


@ray.remote
def yielding(n: int) -> Iterator[int]:
    """A generator."""
    yield from range(n)


@ray.remote
def submitting(batches: int) -> None:
    """A task that submits tasks and waits for them."""
    for _ in range(batches):
        ray.get([task.remote() for _ in range(BATCH)])


def sync() -> None:
    ray.get(task.remote())


def batch() -> None:
    ray.get([task.remote() for _ in range(BATCH)])


@THEME.add("sync", "no-op task, one at a time", "µs", at_most_times(0.1, POOL), at_most(4))
def _sync(bench: Bench) -> dict[str, Sample]:
    return {
        PYRAY: micros_each(sync, 1000),
        POOL: micros_each(lambda: bench.pool.apply(nothing), 100),
        EXECUTOR: micros_each(lambda: bench.executor.submit(nothing).result(), 100),
    } | limits.ping_pongs(limits.SPINNING)


def in_a_loop(body: Callable[[], Awaitable[Any]], operations: int) -> Callable[[], float]:
    """Seconds per operation of a coroutine, without those of starting and ending its loop."""

    async def main() -> float:
        end = time.perf_counter() + BUSY_SECONDS
        while time.perf_counter() < end:
            await body()
        start = time.perf_counter()
        await body()
        return (time.perf_counter() - start) / operations

    return lambda: asyncio.run(main())


@THEME.add(
    "await",
    "no-op task, one at a time, awaited",
    "µs",
    at_most_times(0.1, EXECUTOR),
    at_most(100),
)
def _await(bench: Bench) -> dict[str, Sample]:
    async def one_by_one() -> None:
        for _ in range(1000):
            await task.remote()

    async def executor() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(100):
            await loop.run_in_executor(bench.executor, nothing)

    ours, theirs = in_a_loop(one_by_one, 1000), in_a_loop(executor, 100)
    return {PYRAY: lambda: ours() * 1e6, EXECUTOR: lambda: theirs() * 1e6}


class Nothing:
    """What is there already when it is awaited: what remains is asyncio's own share."""

    def __await__(self) -> Any:
        return None
        yield


@THEME.add(
    "gather",
    "no-op tasks, 1,000 at a time, gathered",
    "per s",
    at_least_times(0.6, ASYNCIO),
    higher_is_better=True,
)
def _gather(bench: Bench) -> dict[str, Sample]:
    async def gathered(make: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.gather(*(make() for _ in range(BATCH)))

    async def executor() -> None:
        loop = asyncio.get_running_loop()
        await gathered(lambda: loop.run_in_executor(bench.executor, nothing))

    ours = in_a_loop(lambda: gathered(task.remote), BATCH)
    alone = in_a_loop(lambda: gathered(Nothing), BATCH)
    theirs = in_a_loop(executor, BATCH)
    return {
        PYRAY: lambda: 1 / ours(),
        ASYNCIO: lambda: 1 / alone(),
        EXECUTOR: lambda: 1 / theirs(),
    }


def after_idleness(function: Any) -> Sample:
    """Microseconds of a call that everybody has slept before."""

    def sample() -> float:
        time.sleep(IDLE_SECONDS)
        return timed(function) * 1e6

    return sample


@THEME.add(
    "sync-idle",
    "no-op task after 100 ms of idleness",
    "µs",
    at_most_times(2, limits.PARKED),
    at_most_times(2, limits.RESTED),
    rounds=15,
    quick_rounds=5,
)
def _sync_idle(bench: Bench) -> dict[str, Sample]:
    parked = limits.ping_pongs(limits.PARKED, limits.RESTED)
    return {
        PYRAY: after_idleness(sync),
        **parked,
        POOL: after_idleness(lambda: bench.pool.apply(nothing)),
        EXECUTOR: after_idleness(lambda: bench.executor.submit(nothing).result()),
    }


@THEME.add(
    "async",
    "no-op tasks, 1,000 at a time",
    "per s",
    at_least(200_000),
    at_least(1_000_000),
    higher_is_better=True,
)
def _async(bench: Bench) -> dict[str, Sample]:
    def pyray() -> None:
        for _ in range(20):
            batch()

    return {PYRAY: per_second(pyray, 20 * BATCH)} | bench.batches()


@THEME.add(
    "nested",
    "no-op tasks, submitted by 2 tasks at once",
    "per s",
    at_least(700_000),
    higher_is_better=True,
)
def _nested(bench: Bench) -> dict[str, Sample]:
    def pyray() -> None:
        ray.get([submitting.remote(NESTED_BATCHES) for _ in range(WORKERS)])

    pyray()  # the workers that replace blocked ones start once
    return {PYRAY: per_second(pyray, WORKERS * NESTED_BATCHES * BATCH)}


@THEME.add("chain", "chain of 1,000 tasks, each link", "µs", at_most(2))
def _chain(bench: Bench) -> dict[str, Sample]:
    def pyray() -> None:
        ref = following.remote(None)
        for _ in range(BATCH - 1):
            ref = following.remote(ref)
        ray.get(ref)

    return {
        PYRAY: micros_each(pyray, 5, BATCH),
        POOL: micros_each(lambda: bench.pool.apply(nothing_of, (None,)), 100),
        EXECUTOR: micros_each(lambda: bench.executor.submit(nothing_of, None).result(), 100),
    }


@THEME.add("stream", "a generator's values, each", "µs", at_most_times(0.2, POOL), at_most(4))
def _stream(bench: Bench) -> dict[str, Sample]:
    def pyray() -> None:
        for ref in yielding.remote(BATCH):
            ray.get(ref)

    def unordered() -> None:
        for _ in bench.pool.imap(nothing_of, range(BATCH)):
            pass

    return {PYRAY: micros_each(pyray, 20, BATCH), POOL: micros_each(unordered, 1, BATCH)}


@THEME.add("stream-turns", "the same, each made only when it is asked for", "µs", at_most(100))
def _stream_turns(bench: Bench) -> dict[str, Sample]:
    one_ahead = yielding.options(_generator_backpressure_num_objects=1)

    def pyray() -> None:
        for ref in one_ahead.remote(BATCH):
            ray.get(ref)

    return {PYRAY: micros_each(pyray, 1, BATCH)}


@THEME.add("wait", "wait one by one for 1,000 tasks, in all", "ms", at_most(5))
def _wait(bench: Bench) -> dict[str, Sample]:
    def pyray() -> None:
        left = [task.remote() for _ in range(BATCH)]
        while left:
            _, left = ray.wait(left)

    def unordered() -> None:
        for _ in bench.pool.imap_unordered(nothing_of, range(BATCH)):
            pass

    def completed() -> None:
        futures = [bench.executor.submit(nothing) for _ in range(BATCH)]
        for _ in concurrent.futures.as_completed(futures):
            pass

    return {PYRAY: millis(pyray), POOL: millis(unordered), EXECUTOR: millis(completed)}


@THEME.add("wait-done", "wait one by one for 1,000 results that are there", "ms", at_most(5))
def _wait_done(bench: Bench) -> dict[str, Sample]:
    def sample() -> float:
        left = [task.remote() for _ in range(BATCH)]
        ray.get(left)

        def drain() -> None:
            rest = left
            while rest:
                _, rest = ray.wait(rest)

        return timed(drain) * 1e3

    return {PYRAY: sample}
