"""Whether short tasks on two workers finish as soon as two processes could finish the work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pyray as ray
from benchmarks.harness import PYRAY, Sample, Theme, at_least, at_least_times, timed
from benchmarks.sessions import POOL, WORKERS, Bench, bench

THEME = Theme("scaling", bench)

FORKED = "two bare forked loops"


def work(turns: int) -> None:
    """Pure Python, for as long as so many turns of a loop last."""
    for _ in range(turns):
        pass


task = ray.remote(work)


def turns_for(seconds: float) -> int:
    """How many turns last so long when nothing disturbs."""
    turns = 100_000
    best = min(timed(lambda: work(turns)) for _ in range(20))
    return max(1, round(turns * seconds / best))


def forked_loops(count: int, turns: int) -> None:
    """The work in two processes that share nothing."""
    children = []
    for _ in range(WORKERS):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(count // WORKERS):
                    work(turns)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def speed_ups(bench: Bench, micros: float) -> dict[str, Sample]:
    """Speed-ups over the serial loop of the same round."""
    count = bench.many
    turns = turns_for(micros * 1e-6)
    serial_seconds = 0.0

    def serial() -> None:
        for _ in range(count):
            work(turns)

    def pyray() -> None:
        ray.get([task.remote(turns) for _ in range(count)])

    def pool() -> None:
        bench.pool.map(work, [turns] * count, chunksize=1)

    def first(function: Callable[[], Any]) -> Sample:
        def sample() -> float:
            nonlocal serial_seconds
            serial_seconds = timed(serial)
            return serial_seconds / timed(function)

        return sample

    def other(function: Callable[[], Any]) -> Sample:
        return lambda: serial_seconds / timed(function)

    pyray()
    time.sleep(0.05)
    return {
        PYRAY: first(pyray),
        FORKED: other(lambda: forked_loops(count, turns)),
        POOL: other(pool),
    }


@THEME.add(
    "scale-100",
    "speed-up, {bench.many:,} tasks of 100 µs on 2 workers",
    "×",
    at_least_times(0.95, FORKED),
    higher_is_better=True,
    rounds=5,
)
def _scale_100(bench: Bench) -> dict[str, Sample]:
    return speed_ups(bench, 100)


@THEME.add(
    "scale-5",
    "speed-up, {bench.many:,} tasks of 5 µs on 2 workers",
    "×",
    at_least(1),
    at_least_times(0.7, FORKED),
    higher_is_better=True,
    rounds=11,
    quick_rounds=5,
)
def _scale_5(bench: Bench) -> dict[str, Sample]:
    return speed_ups(bench, 5)
