"""Ray and joblib/loky, where they can be imported: measured after pyray, each by itself.

They are not interleaved with pyray's rounds, since Ray's own processes are never quite idle.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import objects, scaling, tasks
from benchmarks.harness import (
    Result,
    Sample,
    Settings,
    micros_each,
    millis,
    per_second,
    time_limit,
    timed,
)
from benchmarks.sessions import WORKERS, nothing, nothing_of

LIMIT_SECONDS = 60
ROUNDS = 3

Samples = dict[str, Callable[[], Sample]]


def run(results: list[Result], settings: Settings) -> Iterator[str]:
    """Add the peers' samples to results; yields what there is to say."""
    for name, module, peer in (("Ray", "ray", _ray), ("joblib/loky", "joblib", _loky)):
        if importlib.util.find_spec(module) is None:
            yield f"{name} is not installed here (make bench-peers installs it)"
            continue
        yield from _run(name, peer, results, settings)


def _run(name: str, peer: Any, results: list[Result], settings: Settings) -> Iterator[str]:
    once: dict[str, float] = {}
    with peer(settings, once) as samples:
        for result in results:
            benchmark = result.benchmark.name
            if benchmark not in samples:
                continue
            try:
                with time_limit(LIMIT_SECONDS):
                    sample = samples[benchmark]()
                    result.samples[name] = [sample() for _ in range(settings.pick(ROUNDS, 1))]
            except Exception as error:
                yield f"{name}, {benchmark}: {type(error).__name__}: {error}"
    for result in results:
        if result.benchmark.name in once:
            result.samples[name] = [once[result.benchmark.name]]
    yield f"{name}: measured"


def _drain(wait: Callable[[list[Any]], Any], left: list[Any]) -> None:
    while left:
        _, left = wait(left)


@contextlib.contextmanager
def _ray(settings: Settings, once: dict[str, float]) -> Iterator[Samples]:
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
                ray.get([task.remote() for _ in range(tasks.BATCH)])

        def sync() -> None:
            ray.get(task.remote())

        def batch() -> None:
            ray.get([task.remote() for _ in range(tasks.BATCH)])

        def nested() -> None:
            ray.get([submitting.remote(1) for _ in range(WORKERS)])

        def chain() -> None:
            ref = following.remote(None)
            for _ in range(tasks.BATCH - 1):
                ref = following.remote(ref)
            ray.get(ref)

        def wait() -> None:
            _drain(ray.wait, [task.remote() for _ in range(tasks.BATCH)])

        def wait_done() -> float:
            left = [task.remote() for _ in range(tasks.BATCH)]
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
            count = settings.pick(10_000, 2_000)
            turns = scaling.turns_for(micros * 1e-6)

            def serial() -> None:
                for _ in range(count):
                    scaling.work(turns)

            def parallel() -> None:
                ray.get([work.remote(turns) for _ in range(count)])

            return lambda: timed(serial) / timed(parallel)

        arrays = objects.thousand_arrays()
        samples: Samples = {
            "sync": lambda: micros_each(sync, 100),
            "sync-idle": lambda: tasks.after_idleness(sync),
            "async": lambda: per_second(batch, tasks.BATCH),
            "nested": lambda: per_second(nested, WORKERS * tasks.BATCH),
            "chain": lambda: micros_each(chain, 1, tasks.BATCH),
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
        yield samples
    finally:
        once["shutdown"] = timed(ray.shutdown) * 1e3


@contextlib.contextmanager
def _loky(settings: Settings, once: dict[str, float]) -> Iterator[Samples]:
    import joblib  # type: ignore[import-not-found, unused-ignore]
    from joblib.externals.loky import (  # type: ignore[import-not-found, unused-ignore]
        get_reusable_executor,
    )

    start = time.perf_counter()
    with joblib.Parallel(n_jobs=WORKERS, backend="loky", batch_size=1) as parallel:
        delayed = joblib.delayed
        parallel([delayed(nothing)()])
        once["init"] = (time.perf_counter() - start) * 1e3

        def batch() -> None:
            parallel(delayed(nothing)() for _ in range(tasks.BATCH))

        def speed_up(micros: float) -> Sample:
            count = settings.pick(10_000, 2_000)
            turns = scaling.turns_for(micros * 1e-6)

            def serial() -> None:
                for _ in range(count):
                    scaling.work(turns)

            def together() -> None:
                parallel(delayed(scaling.work)(turns) for _ in range(count))

            return lambda: timed(serial) / timed(together)

        samples: Samples = {
            "sync": lambda: micros_each(lambda: parallel([delayed(nothing)()]), 50),
            "sync-idle": lambda: tasks.after_idleness(lambda: parallel([delayed(nothing)()])),
            "async": lambda: per_second(batch, tasks.BATCH),
            "scale-100": lambda: speed_up(100),
            "scale-5": lambda: speed_up(5),
        }
        yield samples
    once["shutdown"] = timed(lambda: get_reusable_executor().shutdown(wait=True)) * 1e3
