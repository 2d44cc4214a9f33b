"""What a call of an actor's method costs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pyray as ray
from benchmarks import limits
from benchmarks.harness import PYRAY, Sample, Theme, at_least, at_most, micros_each, per_second
from benchmarks.sessions import BATCH, POOL, Bench, bench, nothing

THEME = Theme("actors", bench)

# What one writes by hand where there are no actors.
PIPED = "a process behind a Pipe"


class Counter:
    """An actor whose method does nothing."""

    def nothing(self) -> None:
        """The call."""


class AsyncCounter:
    """The same with an event loop."""

    async def nothing(self) -> None:
        """The call."""


def up(actor: Any) -> Any:
    """An actor that has started and answered."""
    ray.get([actor.nothing.remote() for _ in range(100)])
    return actor


def one_by_one(actor: Any, get: Callable[[Any], Any] = ray.get) -> Callable[[], None]:
    call = actor.nothing

    def sync() -> None:
        get(call.remote())

    return sync


def together(actor: Any, get: Callable[[Any], Any] = ray.get) -> Callable[[], None]:
    call = actor.nothing

    def batch() -> None:
        get([call.remote() for _ in range(BATCH)])

    return batch


def answering(connection: Connection) -> None:
    """The process behind the pipe; ends with the other side."""
    while connection.recv() is not None:
        connection.send(nothing())


class Piped:
    """A process that answers what comes through a pipe, as long as this object lives."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=answering, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def __del__(self) -> None:
        self.ours.send(None)
        self.process.join()
        self.ours.close()

    def call(self) -> None:
        self.ours.send(("nothing", ()))
        self.ours.recv()

    def batch(self) -> None:
        # A pipe takes some hundred messages; then both sides would wait for each other.
        for _ in range(BATCH // 100):
            for _ in range(100):
                self.ours.send(("nothing", ()))
            for _ in range(100):
                self.ours.recv()


@THEME.add("actor-sync", "actor call, one at a time", "µs", at_most(4))
def _sync(bench: Bench) -> dict[str, Sample]:
    piped = Piped()
    actor = up(ray.remote(Counter).remote())
    return {
        PYRAY: micros_each(one_by_one(actor), 1000),
        PIPED: micros_each(piped.call, 100),
        POOL: micros_each(lambda: bench.pool.apply(nothing), 100),
    } | limits.ping_pongs(limits.SPINNING)


@THEME.add(
    "actor-async",
    "actor calls, 1,000 at a time",
    "per s",
    at_least(1_000_000),
    higher_is_better=True,
)
def _async(bench: Bench) -> dict[str, Sample]:
    piped = Piped()
    batch = together(up(ray.remote(Counter).remote()))

    def pyray() -> None:
        for _ in range(20):
            batch()

    ours = {PYRAY: per_second(pyray, 20 * BATCH), PIPED: per_second(piped.batch, BATCH)}
    return ours | bench.batches()


@THEME.add(
    "actor-asyncio",
    "calls of an actor with async methods, 1,000 at a time",
    "per s",
    at_least(200_000),
    higher_is_better=True,
)
def _asyncio(bench: Bench) -> dict[str, Sample]:
    batch = together(up(ray.remote(AsyncCounter).remote()))

    def pyray() -> None:
        for _ in range(5):
            batch()

    return {PYRAY: per_second(pyray, 5 * BATCH)} | bench.batches()
