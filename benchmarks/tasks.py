"""What a task costs."""

from __future__ import annotations

import time
from typing import Any

import pyray as ray
from benchmarks import limits
from benchmarks.harness import (
    PYRAY,
    Sample,
    Theme,
    at_least,
    at_most,
    at_most_times,
    micros_each,
    millis,
    per_second,
    timed,
)
from benchmarks.sessions import EXECUTOR, POOL, WORKERS, Bench, bench, nothing, nothing_of

THEME = Theme("tasks", bench)

BATCH = 1000
NESTED_BATCHES = 10
IDLE_SECONDS = 0.1

task = ray.remote(nothing)


@ray.remote
def following(previous: Any) -> Any:
    """A link of the chain."""
    return previous


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


def after_idleness(function: Any) -> Sample:
    """Microseconds of a call that everybody has slept before."""

    def sample() -> float:
        time.sleep(IDLE_SECONDS)
        return timed(function) * 1e6

    return sample


@THEME.add(
    "sync-idle",
    "the same after 100 ms of idleness",
    "µs",
    at_most_times(2, limits.PARKED),
    rounds=15,
    quick_rounds=5,
)
def _sync_idle(bench: Bench) -> dict[str, Sample]:
    parked = limits.ping_pongs(limits.PARKED)
    return {
        PYRAY: after_idleness(sync),
        **parked,
        POOL: after_idleness(lambda: bench.pool.apply(nothing)),
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
    pool, executor = bench.pool, bench.executor

    def pyray() -> None:
        for _ in range(20):
            batch()

    def pool_batch() -> None:
        for result in [pool.apply_async(nothing) for _ in range(BATCH)]:
            result.get()

    def executor_batch() -> None:
        for future in [executor.submit(nothing) for _ in range(BATCH)]:
            future.result()

    return {
        PYRAY: per_second(pyray, 20 * BATCH),
        POOL: per_second(pool_batch, BATCH),
        EXECUTOR: per_second(executor_batch, BATCH),
    }


@THEME.add(
    "nested",
    "the same, submitted by 2 tasks at once",
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
    }


@THEME.add("wait", "wait one by one for 1,000 tasks, in all", "ms", at_most(5))
def _wait(bench: Bench) -> dict[str, Sample]:
    def pyray() -> None:
        left = [task.remote() for _ in range(BATCH)]
        while left:
            _, left = ray.wait(left)

    def unordered() -> None:
        for _ in bench.pool.imap_unordered(nothing_of, range(BATCH)):
            pass

    return {PYRAY: millis(pyray), POOL: millis(unordered)}


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
