"""Workers and actors that are killed, or stopped, again and again while others need them."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import fault_helpers as h
import helpers
import numpy as np
import pytest
from storm_helpers import Baseline, Killer, Slowest, pool_pids, sizes, stopped, worker_pids
from storm_tasks import submit

import pyray as ray


@pytest.fixture
def baseline() -> Baseline:
    ray.init(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False)
    return Baseline()


# ---- tasks -------------------------------------------------------------------------------------


@sizes(
    600,
    short={"tasks": 300, "every": 0.1, "kills": 8, "seed": 1},
    full={"tasks": 20_000, "every": 0.2, "kills": 200, "seed": 3},
)
def test_kill_storm(baseline, figures, size):
    begun = time.monotonic()
    with Killer(size.every, worker_pids, seed=size.seed) as killed:
        refs, want = submit(size.tasks, size.seed)
        for ref, value in zip(refs, want, strict=True):
            assert ray.get(ref, timeout=60) == value
    took = time.monotonic() - begun
    del refs, ref
    back = baseline.assert_back(5.0)
    assert len(killed) >= size.kills
    figures(tasks=size.tasks, kills=len(killed), seconds=took, back_to_baseline_s=back)


# ---- actors ------------------------------------------------------------------------------------


@sizes(
    300,
    short={"actors": 6, "calls": 100, "every": 0.15, "kills": 3},
    full={"actors": 16, "calls": 300, "every": 2.0, "kills": 25},
)
def test_actor_restarts(baseline, figures, size, tally):
    """Each call is answered, though it may have run more than once."""

    @ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
    class Keeper:
        def pid(self):
            return os.getpid()

        def work(self, who, i):
            tally.add(f"{who} {i}")
            time.sleep(0.005)
            return who, i

    actors = [Keeper.remote() for _ in range(size.actors)]
    ray.get([a.pid.remote() for a in actors], timeout=30)

    def victims() -> list[int]:
        return [w["pid"] for w in h.workers() if w["dedicated"]]

    slowest = Slowest()
    rounds = 0
    with Killer(size.every, victims) as killed:
        # Again and again, since 300 calls do not take so many kills; in the last round too.
        while len(killed) < size.kills:
            calls = [
                (who, i, actors[who].work.remote(who, i))
                for i in range(rounds * size.calls, (rounds + 1) * size.calls)
                for who in range(size.actors)
            ]
            for who, i, ref in calls:
                with slowest.timed():
                    assert ray.get(ref, timeout=30) == (who, i)
            rounds += 1
    ran = tally.lines()
    assert len(set(ran)) == rounds * size.calls * size.actors
    again = len(ran) - len(set(ran))
    assert again <= len(killed)  # one call at a time: a death can repeat one at most
    del actors, calls, ref
    back = baseline.assert_back(10.0, room=(16 + 8 * size.actors) * h.UNIT)
    figures(
        calls=len(set(ran)),
        kills=len(killed),
        run_twice=again,
        slowest_answer_s=slowest.seconds,
        back_to_baseline_s=back,
    )


# ---- borrowers ---------------------------------------------------------------------------------

TEN_MB = 10_000_000


@ray.remote(max_retries=-1)
def add_up(block, box, i):
    """Reads one block as an argument and borrows another by its id; makes a third."""
    borrowed = ray.get(box[0])
    time.sleep(0.01)
    assert (block[:8] == borrowed[:8]).all()
    return np.full(1000, int(block[i % len(block)]) + int(borrowed[-1]), np.int64)


@ray.remote(max_retries=-1)
def copy_of(block):
    return block + 1


@sizes(
    600,
    short={"blocks": 40, "every": 0.4, "kills": 3, "store": 300 << 20},
    full={"blocks": 1000, "every": 1.0, "kills": 10, "store": 1 << 30},
)
def test_borrowers_under_kills(figures, size):
    """Blocks that come and go through a store that holds a tenth of them, and their readers die."""
    ray.init(num_cpus=2, object_store_memory=size.store, log_to_driver=False)
    baseline = Baseline()
    rng = random.Random(4)
    begun = time.monotonic()
    window: list[tuple[int, Any, Any]] = []
    room = size.store // TEN_MB // 4
    most = 0

    def check() -> None:
        value, total, copied = window.pop(0)
        got = ray.get(total, timeout=60)
        assert (got == 2 * value).all()
        got = ray.get(copied, timeout=60)
        assert got.nbytes == TEN_MB
        assert (got == value + 1).all()

    with Killer(size.every, pool_pids, seed=5) as killed:
        i = 0
        while i < size.blocks or len(killed) < size.kills:
            value = rng.randrange(250)
            ref = ray.put(np.full(TEN_MB, value, np.uint8))
            window.append((value, add_up.remote(ref, [ref], i), copy_of.remote(ref)))
            most = max(most, h.used())
            del ref
            i += 1
            while len(window) > room:
                check()
        while window:
            check()
    took = time.monotonic() - begun
    back = baseline.assert_back(5.0)
    figures(
        blocks=2 * i,
        kills=len(killed),
        seconds=took,
        most_in_store_mb=most / 1e6,
        back_to_baseline_s=back,
    )


# ---- stopped, not dead -------------------------------------------------------------------------


@sizes(
    200,
    short={"seconds": 0.4, "times": 5},
    full={"seconds": 10.0, "times": 10},
)
def test_stopped_not_dead(baseline, figures, size, tally):
    """A worker that does not run for long is not taken for dead, and holds up nobody else."""

    @ray.remote(max_retries=0)
    def once(i):
        tally.add(i)
        time.sleep(0.002)
        return i

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

    actors = [Counter.remote() for _ in range(2)]
    calls = [0, 0]
    ray.get([a.add.remote() for a in actors])
    rng = random.Random(6)
    slowest = Slowest()
    done = 0
    waiting: dict[Any, int] = {}
    for _ in range(size.times):
        before = worker_pids()
        victim = rng.choice(before)
        with stopped(victim, 0.0):
            end = time.monotonic() + size.seconds
            while time.monotonic() < end:
                with slowest.timed():
                    # What the stopped one had begun waits; whatever else there is goes on.
                    waiting |= {once.remote(done + k): done + k for k in range(20)}
                    done += 20
                    ready, rest = ray.wait(list(waiting), num_returns=len(waiting) - 1, timeout=20)
                    assert len(rest) <= 1, len(rest)
                for ref in ready:
                    assert ray.get(ref) == waiting.pop(ref)
            assert helpers.process_state(victim)[0] == "T"
        assert victim in worker_pids()
        for k, actor in enumerate(actors):
            calls[k] += 1
            assert ray.get(actor.add.remote(), timeout=20) == calls[k] + 1  # its state is there
    for ref, value in waiting.items():
        assert ray.get(ref, timeout=20) == value
    assert sorted(tally.lines(), key=int) == [str(i) for i in range(done)]  # none ran twice
    del actors, actor, waiting, ready, rest, ref
    back = baseline.assert_back(10.0, room=32 * h.UNIT)
    figures(
        stops=size.times,
        tasks=done,
        slowest_round_of_20_s=slowest.seconds,
        back_to_baseline_s=back,
    )
