"""pyray's session and the pools of the standard library, side by side, both with two workers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyray as ray
from benchmarks.harness import Sample, Settings, per_second

WORKERS = 2
POOL = "multiprocessing.Pool"
EXECUTOR = "ProcessPoolExecutor"


BATCH = 1000


def nothing() -> None:
    """The task that does nothing."""


def nothing_of(_: Any) -> None:
    """The task that does nothing with an argument."""


@dataclass
class Bench:
    """What benchmarks are handed: the settings, and pools whose workers are up."""

    settings: Settings
    pool: Any
    executor: concurrent.futures.ProcessPoolExecutor

    @property
    def many(self) -> int:
        """How many tasks are many."""
        return self.settings.pick(10_000, 2_000)

    def batches(self) -> dict[str, Sample]:
        """Tasks a second that the pools reach when they are handed 1,000 at a time."""

        def of_pool() -> None:
            for result in [self.pool.apply_async(nothing) for _ in range(BATCH)]:
                result.get()

        def of_executor() -> None:
            for future in [self.executor.submit(nothing) for _ in range(BATCH)]:
                future.result()

        return {POOL: per_second(of_pool, BATCH), EXECUTOR: per_second(of_executor, BATCH)}


@contextlib.contextmanager
def bench(settings: Settings) -> Iterator[Bench]:
    """A session of pyray's and two pools, all ended and gone at the end."""
    fork = multiprocessing.get_context("fork")
    with contextlib.ExitStack() as stack:
        # Python 3.12 warns of forks in a process with threads; the second pool is one.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = stack.enter_context(fork.Pool(WORKERS))
        executor = stack.enter_context(
            concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=fork)
        )
        # Before pyray's session, so that the pools' workers hold nothing of it.
        list(executor.map(nothing_of, range(100)))
        pool.map(nothing_of, range(100))
        stack.enter_context(session())
        yield Bench(settings, pool, executor)
        pool.close()
        pool.join()


@contextlib.contextmanager
def session(**options: Any) -> Iterator[None]:
    """A session of pyray's whose workers have run a task."""
    ray.init(num_cpus=WORKERS, **options)
    try:
        task = ray.remote(nothing)
        ray.get([task.remote() for _ in range(100)])
        yield
    finally:
        ray.shutdown()
