"""``pyray microbenchmark``: rates under the names that ``ray microbenchmark`` prints.

What counts as one operation is as there, so that the lines of both can be laid side by side. The
rows of its client are left out, since there is none here.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import pyray as ray
from pyray.util.placement_group import placement_group, remove_placement_group

BATCH = 1_000
MANY = 10_000
# How many submit at once where several do.
CLIENTS = 4
GROUPS = 100
GROUP_SECONDS = 30
MEGABYTES_8 = 10**6  # so many numbers of eight bytes


class Rate(NamedTuple):
    """Operations a second: the mean of some rounds, and its standard deviation."""

    name: str
    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.name} per second {self.mean:.2f} +- {self.deviation:.2f}"


class Row(NamedTuple):
    """A figure: `prepare` gives what is timed, which does so many operations."""

    name: str
    operations: float
    prepare: Callable[[], Callable[[], object]]


def run(
    pattern: str = "", rounds: int = 4, seconds: float = 2.0, warm_up: float = 1.0
) -> Iterator[Rate]:
    """Measure those rows whose name contains the pattern, each in a session of its own.

    Parameters
    ----------
    pattern : str, default ""
        Part of a name.
    rounds : int, default 4
        How many times each is measured.
    seconds : float, default 2.0
        How long, at least, each time.
    warm_up : float, default 1.0
        Seconds for which it runs before.

    Raises
    ------
    SessionError
        There is a session already; it would be measured too.
    """
    if ray.is_initialized():
        raise ray.exceptions.SessionError(
            "the microbenchmark begins sessions of its own, and this process is in one: "
            "call shutdown() first"
        )
    for row in ROWS:
        if pattern in row.name:
            ray.init(resources={"custom": GROUPS}, log_to_driver=False)
            try:
                yield _measure(row, rounds, seconds, warm_up)
            finally:
                ray.shutdown()


def _measure(row: Row, rounds: int, seconds: float, warm_up: float) -> Rate:
    function = row.prepare()
    calls, took = _repeat(function, warm_up, 1)
    # The clock is read some ten times a second and not after each call, which may take 0.1 µs.
    step = max(1, round(calls / took / 10))
    rates = []
    for _ in range(rounds):
        calls, took = _repeat(function, seconds, step)
        rates.append(row.operations * calls / took)
    return Rate(row.name, statistics.fmean(rates), statistics.pstdev(rates))


def _repeat(function: Callable[[], object], seconds: float, step: int) -> tuple[int, float]:
    """Call it for so long, and once at least; gives the number of calls and the seconds."""
    calls, took = 0, 0.0
    start = time.perf_counter()
    while took < seconds or not calls:
        for _ in range(step):
            function()
        calls += step
        took = time.perf_counter() - start
    return calls, took


# ---- what runs elsewhere -----------------------------------------------------------------------


@ray.remote
def value() -> bytes:
    """The small task."""
    return b"ok"


@ray.remote
def put_small_ones(count: int) -> None:
    """Small objects, dropped at once."""
    for _ in range(count):
        ray.put(0)


@ray.remote
def put_large_ones(count: int) -> None:
    """80 MB each, dropped at once."""
    for _ in range(count):
        ray.put(np.zeros(10 * MEGABYTES_8))


@ray.remote
def with_ids(count: int) -> list[Any]:
    """An object that holds ids."""
    return [ray.put(1) for _ in range(count)]


class Service:
    """An actor that answers, and submits tasks and calls when it is told to."""

    def value(self, _: object = None) -> bytes:
        return b"ok"

    def tasks(self, count: int) -> None:
        ray.get([value.remote() for _ in range(count)])

    def calls(self, services: list[Any], count: int) -> None:
        ray.get([service.value.remote() for service in services for _ in range(count)])

    def calls_with_id(self, service: Any, count: int) -> None:
        ref = ray.put(0)
        ray.get([service.value.remote(ref) for _ in range(count)])


class AsyncService:
    """The same with an event loop."""

    async def value(self, _: object = None) -> bytes:
        return b"ok"


@ray.remote
def call_in_turn(services: list[Any], count: int) -> None:
    """A task that calls actors one after the other."""
    ray.get([services[i % len(services)].value.remote() for i in range(count)])


def started(kind: type, count: int = 1, **options: Any) -> list[Any]:
    """Actors that are up."""
    actors = [ray.remote(kind).options(num_cpus=0, **options).remote() for _ in range(count)]
    ray.get([actor.value.remote() for actor in actors])
    return actors


def half_the_cpus() -> int:
    """As many actors as the rows with n of them have."""
    return max(1, (os.cpu_count() or 1) // 2)


# ---- the rows ----------------------------------------------------------------------------------


def get_small() -> Callable[[], object]:
    ref = ray.put(0)
    return lambda: ray.get(ref)


def put_from_tasks() -> Callable[[], object]:
    return lambda: ray.get([put_small_ones.remote(100) for _ in range(10)])


def put_large() -> Callable[[], object]:
    # Never written to, as there: all of its pages are the kernel's one page of zeros, in the cache.
    array = np.zeros(100 * MEGABYTES_8)
    return lambda: ray.put(array)


def put_large_from_tasks() -> Callable[[], object]:
    return lambda: ray.get([put_large_ones.remote(10) for _ in range(10)])


def get_ids() -> Callable[[], object]:
    ref = with_ids.remote(MANY)
    return lambda: ray.get(ref)


def wait_one_by_one() -> None:
    left = [value.remote() for _ in range(BATCH)]
    while left:
        _, left = ray.wait(left)


def task_batch() -> None:
    ray.get([value.remote() for _ in range(BATCH)])


def tasks_of_clients() -> Callable[[], object]:
    clients = started(Service, CLIENTS)
    return lambda: ray.get([client.tasks.remote(MANY) for client in clients])


def call(kind: type) -> Callable[[], object]:
    (actor,) = started(kind)
    return lambda: ray.get(actor.value.remote())


def call_batch(kind: type, **options: Any) -> Callable[[], object]:
    (actor,) = started(kind, **options)
    return lambda: ray.get([actor.value.remote() for _ in range(BATCH)])


def call_batch_with_values(kind: type) -> Callable[[], object]:
    (actor,) = started(kind)
    return lambda: ray.get([actor.value.remote(i) for i in range(BATCH)])


def one_to_n(kind: type) -> Callable[[], object]:
    services = started(kind, half_the_cpus())
    (client,) = started(Service)
    return lambda: ray.get(client.calls.remote(services, MANY // 2))


def n_to_n(kind: type) -> Callable[[], object]:
    services = started(kind, half_the_cpus())
    return lambda: ray.get([call_in_turn.remote(services, MANY // 2) for _ in range(CLIENTS)])


def n_to_n_with_id() -> Callable[[], object]:
    pairs = list(
        zip(started(Service, half_the_cpus()), started(Service, half_the_cpus()), strict=True)
    )
    return lambda: ray.get([a.calls_with_id.remote(b, BATCH) for a, b in pairs])


def groups() -> None:
    made = [placement_group([{"custom": 0.001}]) for _ in range(GROUPS)]
    if not all(group.wait(GROUP_SECONDS) for group in made):
        raise TimeoutError(
            f"{GROUPS} placement groups of a thousandth of a resource each were not "
            f"reserved within {GROUP_SECONDS} s"
        )
    for group in made:
        remove_placement_group(group)


N = half_the_cpus()
ROWS = [
    Row("single client get calls (Plasma Store)", 1, get_small),
    Row("single client put calls (Plasma Store)", 1, lambda: lambda: ray.put(0)),
    Row("multi client put calls (Plasma Store)", 1_000, put_from_tasks),
    Row("single client put gigabytes", 0.8, put_large),
    Row("single client tasks and get batch", 1, lambda: task_batch),
    Row("multi client put gigabytes", 8, put_large_from_tasks),
    Row("single client get object containing 10k refs", 1, get_ids),
    Row("single client wait 1k refs", 1, lambda: wait_one_by_one),
    Row("single client tasks sync", 1, lambda: lambda: ray.get(value.remote())),
    Row("single client tasks async", BATCH, lambda: task_batch),
    Row("multi client tasks async", CLIENTS * MANY, tasks_of_clients),
    Row("1:1 actor calls sync", 1, lambda: call(Service)),
    Row("1:1 actor calls async", BATCH, lambda: call_batch(Service)),
    Row("1:1 actor calls concurrent", BATCH, lambda: call_batch(Service, max_concurrency=16)),
    Row("1:n actor calls async", N * MANY // 2, lambda: one_to_n(Service)),
    Row("n:n actor calls async", CLIENTS * MANY // 2, lambda: n_to_n(Service)),
    Row("n:n actor calls with arg async", N * BATCH, n_to_n_with_id),
    Row("1:1 async-actor calls sync", 1, lambda: call(AsyncService)),
    Row("1:1 async-actor calls async", BATCH, lambda: call_batch(AsyncService)),
    Row(
        "1:1 async-actor calls with args async", BATCH, lambda: call_batch_with_values(AsyncService)
    ),
    Row("1:n async-actor calls async", N * MANY // 2, lambda: one_to_n(AsyncService)),
    Row("n:n async-actor calls async", CLIENTS * MANY // 2, lambda: n_to_n(AsyncService)),
    Row("placement group create/removal", GROUPS, lambda: groups),
]
