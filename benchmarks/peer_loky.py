"""joblib's samples, whose workers are loky's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

from benchmarks import objects, scaling, tasks
from benchmarks.harness import Sample, Settings, micros_each, millis, per_second, timed
from benchmarks.peer import Samples, share_of_forked_loops
from benchmarks.sessions import BATCH, WORKERS, nothing


@contextlib.contextmanager
def samples(settings: Settings, once: dict[str, float]) -> Iterator[Samples]:
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
            parallel(delayed(nothing)() for _ in range(BATCH))

        def speed_up(micros: float) -> Sample:
            def run(turns: int, count: int) -> None:
                parallel(delayed(scaling.work)(turns) for _ in range(count))

            return share_of_forked_loops(settings, micros, run)

        def share() -> Sample:
            array = np.ones(100 * objects.MEGABYTE // 8)
            return millis(lambda: parallel(delayed(objects.sum_of_sample)(array) for _ in range(8)))

        found: Samples = {
            "sync": lambda: micros_each(lambda: parallel([delayed(nothing)()]), 50),
            "sync-idle": lambda: tasks.after_idleness(lambda: parallel([delayed(nothing)()])),
            "async": lambda: per_second(batch, BATCH),
            "share": share,
            "scale-100": lambda: speed_up(100),
            "scale-5": lambda: speed_up(5),
        }
        yield found
    once["shutdown"] = timed(lambda: get_reusable_executor().shutdown(wait=True)) * 1e3
