"""Shared arrays when those die who made them, write to them, or were to seal them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import Any

import numpy as np
import pytest
from fault_helpers import used
from helpers import Gate, Tally, wait_until

N = 1_000_000


def goes(ray: Any, below: int) -> None:
    wait_until(lambda: used() < below, what=f"the store to have less than {below} bytes in use")


def test_a_killed_writer_leaves_it_as_it_is(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def half(view: Any) -> None:
        view[: len(view) // 2] = 1
        os.kill(os.getpid(), signal.SIGKILL)

    before = used()
    a = ray.shared.zeros(N)
    with pytest.raises(ray.exceptions.WorkerCrashedError, match="half"):
        ray.get(half.remote(a))
    assert a.sum() == N // 2
    a[-1] = 5
    ref = a.seal()
    assert ray.get(ref).sum() == N // 2 + 5
    del a, ref
    goes(ray, before + 100_000)


def test_a_retried_writer_finds_what_its_first_attempt_wrote(ray: Any, tally: Tally) -> None:
    @ray.remote(max_retries=2)
    def add(view: Any, tally: Tally) -> None:
        tally.add()
        view += 1
        if len(tally) < 3:
            os._exit(1)

    a = ray.shared.zeros(10)
    ray.get(add.remote(a[2:4], tally))
    assert a.tolist() == [0, 0, 3, 3, *[0] * 6]
    a.seal()


class Keeper:
    def __init__(self) -> None:
        self.view: Any = None

    def keep(self, view: Any) -> None:
        self.view = view

    def add(self) -> float:
        self.view += 1
        return float(self.view.sum())

    def drop(self) -> None:
        self.view = None


def test_it_outlives_the_worker_that_made_it(ray: Any) -> None:
    keeper = ray.remote(Keeper).remote()

    @ray.remote(max_retries=0)
    def maker(keeper: Any) -> None:
        a = ray.shared.zeros(N)
        ray.get(keeper.keep.remote(a))
        os._exit(1)

    before = used()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(maker.remote(keeper))
    # Its memory is not given to others, though the process that claimed it is gone.
    others = [ray.put(np.full(N, 9.0)) for _ in range(5)]
    assert ray.get(keeper.add.remote()) == N
    assert all(ray.get(o).sum() == 9 * N for o in others)
    del others
    ray.get(keeper.drop.remote())
    goes(ray, before + 200_000)


def test_makers_that_die_leave_nothing(ray: Any) -> None:
    @ray.remote
    def write(view: Any) -> None:
        view[:] = 1

    @ray.remote(max_retries=0)
    def maker(how: int) -> None:
        arrays = [ray.shared.zeros(N // 10) for _ in range(3)]
        refs = [write.remote(a) for a in arrays]
        if how % 3 == 0:
            ray.get(refs)
        if how % 2:
            arrays[0].seal(timeout=10)
        os.kill(os.getpid(), signal.SIGKILL)

    before = used()
    refs = [maker.remote(i) for i in range(12)]
    for ref in refs:
        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(ref)
    del refs, ref
    goes(ray, before + 300_000)


def test_a_queued_writer_of_a_dead_task_does_not_run(ray: Any, tally: Tally, gate: Gate) -> None:
    """What the dead process held for it is gone; nothing else may be written to instead."""

    @ray.remote(max_retries=0)
    def write(view: Any, tally: Tally) -> None:
        tally.add()
        view[:] = 1

    @ray.remote(max_retries=0)
    def maker(gate: Gate, tally: Tally) -> None:
        a = ray.shared.zeros(N)
        for _ in range(20):
            write.options(num_cpus=2).remote(a, tally)  # never while this one runs
        gate.open()
        os._exit(1)

    before = used()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(maker.remote(gate, tally))
    goes(ray, before + 200_000)
    assert len(tally) == 0


def test_a_full_store_says_so_and_recovers(ray_in_memory: Any) -> None:
    ray = ray_in_memory
    room = int(ray.cluster_resources()["object_store_memory"])
    with pytest.raises(ray.exceptions.ObjectStoreFullError, match=str(room)):
        ray.shared.empty(room, "u1")
    half = room // 2 + 1_000_000
    # Untouched: this takes address space only.
    a = ray.shared.empty(half, "u1")
    with pytest.raises(ray.exceptions.ObjectStoreFullError):
        ray.shared.empty(half, "u1")
    a[0] = 3
    del a
    assert ray.shared.empty(half, "u1").nbytes == half


@pytest.mark.slow
@pytest.mark.seconds(150)
def test_a_storm(ray: Any) -> None:
    """Arrays made, filled in parts, sealed, returned and dropped while workers are killed."""
    import pyray.api

    @ray.remote(max_retries=-1)
    def fill(view: Any, value: int) -> None:
        view[:] = value

    @ray.remote(max_retries=-1)
    def make(value: int) -> Any:
        a = ray.shared.empty((8, 10_000))
        ray.get([fill.remote(a[i], value + i) for i in range(8)])
        return a

    rng = random.Random(5)
    before = used()
    end = time.monotonic() + 60
    kills = rounds = 0
    while time.monotonic() < end:
        a = ray.shared.empty((20, 10_000))
        refs = [fill.remote(a[i], i) for i in range(20)]
        made = [make.remote(100 * i) for i in range(4)]
        for _ in range(rng.randrange(3)):
            pid = rng.choice(pyray.api.processes()[2:])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        ray.get(refs)
        whole = ray.get(a.seal(timeout=20))
        assert (whole == np.arange(20)[:, None]).all()
        for i, value in enumerate(ray.get(made)):
            assert (value == np.arange(8)[:, None] + 100 * i).all()
        del a, refs, made, whole, value
        rounds += 1
    assert rounds > 10
    assert kills > 10
    goes(ray, before + 1_000_000)
