"""Ray's samples."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import actors, objects, scaling, tasks
from benchmarks.harness import Sample, Settings, micros_each, millis, per_second, timed
from benchmarks.peer import Samples, share_of_forked_loops
from benchmarks.sessions import BATCH, WORKERS, nothing, nothing_of


def _drain(wait: Callable[[list[Any]], Any], left: list[Any]) -> None:
    while left:
        _, left = wait(left)


@contextlib.contextmanager
def samples(settings: Settings, once: dict[str, float]) -> Iterator[Samples]:
    """Samples by benchmark; what happens once, start and end, goes into `once`."""
    import ray  # type: ignore[import-not-found, unused-ignore]

    large = objects.largest_megabytes(settings) * objects.MEGABYTE
    start = time.perf_counter()
    ray.init(
        num_cpus=WORKERS,
        object_store_memory=2 * large + 64 * objects.MEGABYTE,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        task = ray.remote(nothing)
        following = ray.remote(nothing_of)
        total = ray.remote(objects.sum_of_sample)
        work = ray.remote(scaling.work)
        ray.get(task.remote())
        once["init"] = (time.perf_counter() - start) * 1e3

        @ray.remote
        def submitting(batches: int) -> None:
            for _ in range(batches):
                ray.get([task.remote() for _ in range(BATCH)])

        def sync() -> None:
            ray.get(task.remote())

        def batch() -> None:
            ray.get([task.remote() for _ in range(BATCH)])

        def nested() -> None:
            ray.get([submitting.remote(1) for _ in range(WORKERS)])

        def chain() -> None:
            ref = following.remote(None)
            for _ in range(BATCH - 1):
                ref = following.remote(ref)
            ray.get(ref)

        def wait() -> None:
            _drain(ray.wait, [task.remote() for _ in range(BATCH)])

        def wait_done() -> float:
            left = [task.remote() for _ in range(BATCH)]
            ray.get(left)
            return timed(lambda: _drain(ray.wait, left)) * 1e3

        def get_of(value: Any, times: int = 1) -> Sample:
            ref = ray.put(value)
            return micros_each(lambda: ray.get(ref), times)

        def put_of(megabytes: float) -> Sample:
            array = np.ones(round(megabytes * objects.MEGABYTE) // 8)
            ray.put(array)
            return millis(lambda: ray.put(array))

        def get_array(megabytes: float) -> Sample:
            return get_of(np.ones(round(megabytes * objects.MEGABYTE) // 8), 10)

        def get_ids() -> Sample:
            ids = [ray.put(i) for i in range(10_000)]
            ref = ray.put(ids)
            return lambda: (timed(lambda: ray.get(ref)) * 1e3, ids)[0]

        def get_list() -> Sample:
            ref = ray.put(objects.thousand_arrays())
            return millis(lambda: ray.get(ref))

        def share() -> Sample:
            array = np.ones(100 * objects.MEGABYTE // 8)

            def spread() -> None:
                ref = ray.put(array)
                ray.get([total.remote(ref) for _ in range(8)])

            spread()
            return millis(spread)

        def speed_up(micros: float) -> Sample:
            def run(turns: int, count: int) -> None:
                ray.get([work.remote(turns) for _ in range(count)])

            return share_of_forked_loops(settings, micros, run)

        def asyncio_batch() -> Callable[[], None]:
            return actors.together(ray.remote(actors.AsyncCounter).remote(), ray.get)

        arrays = objects.thousand_arrays()
        actor = ray.remote(actors.Counter).remote()
        found: Samples = {
            "sync": lambda: micros_each(sync, 100),
            "sync-idle": lambda: tasks.after_idleness(sync),
            "async": lambda: per_second(batch, BATCH),
            "nested": lambda: per_second(nested, WORKERS * BATCH),
            "actor-sync": lambda: micros_each(actors.one_by_one(actor, ray.get), 100),
            "actor-async": lambda: per_second(actors.together(actor, ray.get), BATCH),
            "actor-asyncio": lambda: per_second(asyncio_batch(), BATCH),
            "chain": lambda: micros_each(chain, 1, BATCH),
            "wait": lambda: millis(wait),
            "wait-done": lambda: wait_done,
            "put-small": lambda: micros_each(lambda: ray.put(7), 200),
            "get-small": lambda: get_of(7, 200),
            "list-put": lambda: millis(lambda: ray.put(arrays)),
            "list-get": get_list,
            "ids-get": get_ids,
            "put-100": lambda: put_of(100),
            "put-large": lambda: put_of(large / objects.MEGABYTE),
            "get-100": lambda: get_array(100),
            "get-large": lambda: get_array(large / objects.MEGABYTE),
            "share": share,
            "scale-100": lambda: speed_up(100),
            "scale-5": lambda: speed_up(5),
        }
        nested()  # the workers that replace blocked ones start once
        yield found
    finally:
        once["shutdown"] = timed(ray.shutdown) * 1e3
