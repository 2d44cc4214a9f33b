"""Whether short tasks on two workers finish as soon as two processes could finish the work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pyray as ray
from benchmarks.harness import PYRAY, Sample, Theme, at_least, at_least_times, timed
from benchmarks.sessions import EXECUTOR, POOL, WORKERS, Bench, bench

THEME = Theme("scaling", bench)

FORKED = "two bare forked loops"
SERIAL = "the serial loop"


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


def shares(bench: Bench, micros: float) -> dict[str, Sample]:
    """Speed-ups as shares of what the forked loops of the same round reach."""
    count = bench.many
    turns = turns_for(micros * 1e-6)
    bare_seconds = 0.0

    def serial() -> None:
        for _ in range(count):
            work(turns)

    def pyray() -> None:
        ray.get([task.remote(turns) for _ in range(count)])

    def pool() -> None:
        bench.pool.map(work, [turns] * count, chunksize=1)

    def executor() -> None:
        for _ in bench.executor.map(work, [turns] * count):
            pass

    def first() -> float:
        nonlocal bare_seconds
        bare_seconds = timed(lambda: forked_loops(count, turns))
        return bare_seconds / timed(pyray)

    def other(function: Callable[[], Any]) -> Sample:
        return lambda: bare_seconds / timed(function)

    pyray()
    time.sleep(0.05)
    return {PYRAY: first, SERIAL: other(serial), POOL: other(pool), EXECUTOR: other(executor)}


@THEME.add(
    "scale-100",
    "{bench.many:,} tasks of 100 µs: share of the speed-up of " + FORKED,
    "×",
    at_least(0.95),
    higher_is_better=True,
    rounds=5,
)
def _scale_100(bench: Bench) -> dict[str, Sample]:
    return shares(bench, 100)


@THEME.add(
    "scale-5",
    "{bench.many:,} tasks of 5 µs: the same",
    "×",
    at_least(0.7),
    at_least_times(1, SERIAL),
    higher_is_better=True,
    rounds=11,
    quick_rounds=5,
)
def _scale_5(bench: Bench) -> dict[str, Sample]:
    return shares(bench, 5)
