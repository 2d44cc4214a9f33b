"""Dask distributed's samples."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import actors, objects, scaling, tasks
from benchmarks.harness import Sample, Settings, micros_each, millis, per_second
from benchmarks.peer import Samples, share_of_forked_loops
from benchmarks.sessions import BATCH, WORKERS, nothing, nothing_of


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """A client of a cluster on this machine: a process with one thread for each worker."""
    from distributed import (  # type: ignore[import-not-found, unused-ignore]
        Client,
        LocalCluster,
    )

    with LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,  # a heartbeat during the end is an error to it
    ) as local:
        with Client(local) as client:
            yield client


@contextlib.contextmanager
def samples(settings: Settings, once: dict[str, float]) -> Iterator[Samples]:
    """Samples by benchmark; what happens once, start and end, goes into `once`."""
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(cluster())
        client.submit(nothing, pure=False).result()
        once["init"] = (time.perf_counter() - start) * 1e3
        yield _found(client, settings)
        start = time.perf_counter()
    once["shutdown"] = (time.perf_counter() - start) * 1e3


def _found(client: Any, settings: Settings) -> Samples:
    from distributed import as_completed

    def submit(function: Any, *arguments: Any) -> Any:
        # Pure functions of the same arguments would run once.
        return client.submit(function, *arguments, pure=False)

    def get(futures: Any) -> Any:
        return [f.result() for f in futures] if isinstance(futures, list) else futures.result()

    def sync() -> None:
        submit(nothing).result()

    def batch() -> None:
        client.gather([submit(nothing) for _ in range(BATCH)])

    def chain() -> None:
        future = submit(nothing_of, None)
        for _ in range(BATCH - 1):
            future = submit(nothing_of, future)
        future.result()

    def drain() -> None:
        for _ in as_completed([submit(nothing) for _ in range(BATCH)]):
            pass

    def share() -> Sample:
        array = np.ones(100 * objects.MEGABYTE // 8)

        def spread() -> None:
            future = client.scatter(array, hash=False)
            client.gather([submit(objects.sum_of_sample, future) for _ in range(8)])

        return millis(spread)

    def speed_up(micros: float) -> Sample:
        def run(turns: int, count: int) -> None:
            client.gather([submit(scaling.work, turns) for _ in range(count)])

        return share_of_forked_loops(settings, micros, run)

    class OneCall:
        """Makes Dask's `actor.method(...)` look like `actor.method.remote(...)`."""

        def __init__(self, actor: Any) -> None:
            self.nothing = self
            self.remote = actor.nothing

    def actor(kind: type) -> OneCall:
        return OneCall(client.submit(kind, actor=True).result())

    return {
        "sync": lambda: micros_each(sync, 50),
        "sync-idle": lambda: tasks.after_idleness(sync),
        "async": lambda: per_second(batch, BATCH),
        "actor-sync": lambda: micros_each(actors.one_by_one(actor(actors.Counter), get), 50),
        "actor-async": lambda: per_second(actors.together(actor(actors.Counter), get), BATCH),
        "chain": lambda: micros_each(chain, 1, BATCH),
        "wait": lambda: millis(drain),
        "share": share,
        "scale-100": lambda: speed_up(100),
        "scale-5": lambda: speed_up(5),
    }
