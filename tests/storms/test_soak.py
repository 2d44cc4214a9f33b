"""Ten minutes of everything at once, and at the end nothing has grown.

``make test-soak``; ``PYRAY_SOAK_SECONDS`` says how long. The ordinary suite soaks for some seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import time
from collections.abc import Callable
from typing import Any

import fault_helpers as h
import helpers
import numpy as np
import pytest
from soak_work import (
    Counter,
    Loop,
    block,
    compute,
    dies,
    fails,
    fill,
    items,
    naps,
    total,
    tree,
)
from storm_helpers import Baseline, Killer, worker_pids

import pyray as ray
from pyray._core import store
from pyray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    OwnerDiedError,
    TaskCancelledError,
    WorkerCrashedError,
)

SECONDS = float(os.environ.get("PYRAY_SOAK_SECONDS", "600"))
# A killer works in the first part of each round, and things are counted when it is over.
ROUND_SECONDS = 5.0
# What the errors take that the node keeps of the 512 actors that died last: 2 KB each, at most.
# Early on there have not been so many yet.
REMEMBERED = 64 * h.UNIT
# What a process may have grown by since the first quarter, whatever the length.
GROWTH = 6 << 20


def some_tasks(rng: random.Random) -> None:
    numbers = [rng.randrange(5000) for _ in range(200)]
    refs = [compute.remote(i) for i in numbers]
    assert ray.get(refs, timeout=60) == [sum(range(i % 1000)) for i in numbers]


def some_blocks(rng: random.Random) -> None:
    n = rng.choice([10, 1000, 100_000, 1_000_000])
    made = [block.remote(i, n) for i in range(5)]
    sums = [total.remote(ref) for ref in made]
    assert ray.get(sums, timeout=60) == [i * n for i in range(5)]
    kept = ray.put({"blocks": made, "own": np.arange(n)})
    assert len(ray.get(ray.get(kept)["blocks"][4], timeout=60)) == n


def some_nesting(rng: random.Random) -> None:
    depth = rng.randrange(1, 6)
    assert ray.get(tree.remote(depth), timeout=60) == 2**depth


def some_errors(rng: random.Random) -> None:
    refs = [fails.remote(i) for i in range(5)]
    for i, ref in enumerate(refs):
        with pytest.raises((ValueError, WorkerCrashedError)) as caught:
            ray.get(ref, timeout=60)
        assert str(i) in str(caught.value) or isinstance(caught.value, WorkerCrashedError)
    with pytest.raises(WorkerCrashedError):
        ray.get(dies.remote(rng.choice(["kill", "_exit", "segfault", "exit"])), timeout=60)


def some_actors(rng: random.Random) -> None:
    actors = [rng.choice([Counter.remote("x"), Loop.remote()]) for _ in range(3)]
    calls = [(i, actors[i % 3].add.remote(i)) for i in range(60)]
    for i, ref in calls:
        assert ray.get(ref, timeout=60) == i + 1
    if rng.random() < 0.3:
        ray.kill(actors[0])
        with pytest.raises(ActorDiedError):
            ray.get(actors[0].add.remote(1), timeout=60)


def some_items(rng: random.Random) -> None:
    n = rng.randrange(1, 30)
    stop = rng.choice([n, n // 2])
    for i, ref in enumerate(items.remote(n)):
        assert ray.get(ref, timeout=60)[0] == i
        if i == stop:
            break


def some_cancels(rng: random.Random) -> None:
    refs = [naps.remote(0.002) for _ in range(40)]
    victims = set(rng.sample(range(40), 6))
    for i in victims:
        ray.cancel(refs[i], force=rng.random() < 0.3)
    for i, ref in enumerate(refs):
        try:
            assert ray.get(ref, timeout=60) == 0.002
        except TaskCancelledError:
            assert i in victims


def some_waiting(rng: random.Random) -> None:
    ref = naps.remote(0.02)
    with contextlib.suppress(GetTimeoutError):
        ray.get(ref, timeout=0.001)
    ready, rest = ray.wait([ref, compute.remote(5)], num_returns=2, timeout=60)
    assert len(ready) == 2
    assert not rest

    async def several() -> Any:
        return await asyncio.gather(*[compute.remote(i) for i in range(20)])

    assert len(asyncio.run(several())) == 20


def some_shapes(rng: random.Random) -> None:
    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=60)
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
    refs = [compute.options(scheduling_strategy=strategy).remote(3) for _ in range(5)]
    refs += [compute.options(num_cpus=2).remote(3), compute.options(num_cpus=0.5).remote(3)]
    assert ray.get(refs[:5], timeout=60) == [3] * 5
    ray.util.remove_placement_group(group)
    assert ray.get(refs[5:], timeout=60) == [3, 3]


def some_shared_arrays(rng: random.Random) -> None:
    array = ray.shared.zeros(10_000)
    ray.get([fill.remote(array[:5000], 1), fill.remote(array[5000:], 2)], timeout=60)
    assert ray.get(array.seal(timeout=60)).sum() == 15_000


WORK: list[Callable[[random.Random], None]] = [
    some_tasks, some_blocks, some_nesting, some_errors, some_actors, some_items, some_cancels,
    some_waiting, some_shapes, some_shared_arrays,
]  # fmt: skip


def counts(baseline: Baseline) -> dict[str, int]:
    """What is not to grow, once everybody is at rest."""
    gc.collect()
    h.assert_whole(20)
    helpers.wait_until(lambda: baseline.quiet(), 30, "a quiet session")
    workers = worker_pids()
    return {
        **baseline.now(),
        "chunks": store.object_stats()["chunks"],
        "driver_bytes": helpers.resident(),
        "node_bytes": helpers.resident(baseline.node),
        "most_worker_bytes": max(helpers.resident(pid) for pid in workers),
    }


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3.0, id="short"),
        pytest.param(
            SECONDS, id="full", marks=[pytest.mark.soak, pytest.mark.seconds(SECONDS * 1.5 + 120)]
        ),
    ],
)
def test_soak(figures, seconds):
    ray.init(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False)
    naps.remote(0.1).future().result(20)  # the thread that resolves such is there for good
    baseline = Baseline()
    rng = random.Random(16)
    end = time.monotonic() + seconds
    taken: list[dict[str, int]] = []
    done = kills = 0
    while time.monotonic() < end:
        until = min(end, time.monotonic() + ROUND_SECONDS)
        with Killer(0.5, worker_pids, seed=done) as killed:
            while time.monotonic() < until:
                work = rng.choice(WORK)
                try:
                    work(rng)
                except OwnerDiedError:
                    # Not an answer that is wrong: who had submitted it was killed. A new one.
                    assert killed.struck
                done += 1
        kills += len(killed)
        taken.append(counts(baseline))
    early = taken[len(taken) // 4]
    late = taken[-1]
    rows = {name: (early[name], late[name]) for name in early}
    assert late["store"] <= early["store"] + 16 * h.UNIT + REMEMBERED, rows
    assert late["chunks"] <= early["chunks"] + 64, rows
    for name in ("processes", "node_fds", "node_threads", "driver_fds", "driver_threads"):
        assert late[name] <= early[name], (name, rows)
    for name in ("driver_bytes", "node_bytes"):
        assert late[name] <= early[name] + GROWTH, (name, [t[name] for t in taken])
    # One that has done every kind of work has twice the memory of one that has not, and who is the
    # eldest changes with each kill.
    name = "most_worker_bytes"
    assert late[name] <= early[name] + 3 * GROWTH, (name, [t[name] for t in taken])
    baseline.assert_back(10.0, room=32 * h.UNIT + REMEMBERED)
    figures(
        seconds=seconds,
        rounds_of_work=done,
        kills=kills,
        **{
            f"{name}_grew_kb": (late[name] - early[name]) // 1024
            for name in late
            if "_bytes" in name
        },
        store_grew_kb=(late["store"] - early["store"]) // 1024,
        record_chunks=f"{early['chunks']}..{late['chunks']}",
    )
