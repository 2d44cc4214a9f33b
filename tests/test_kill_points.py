"""A process is killed, or stopped, at each named step of the core: see pyray/_core/points.h.

A few times each here; a hundred times in `make test-storm`. The steps of the hottest paths are
there in builds with PYRAY_KILL_POINTS=1 or PYRAY_DEBUG=1 only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fault_helpers as h
import point_helpers as p
import pytest
from fault_drivers import GONE
from helpers import patience

import pyray as ray
from pyray._core import points

# Those of spilling need another session: see test_spilling_faults.py.
NAMES = tuple(name for name in points.NAMES if not name.startswith("spill"))
# So many steps to a session.
GROUPS = 6
# What a session holds at most once all is done: slabs of those that are alive.
UNITS = 24
# Deaths at each step in a storm.
DEATHS = int(os.environ.get("PYRAY_STORM_DEATHS", "100"))
# What an actor comes by.
OF_ACTORS = (
    "block claimed",
    "run half claimed",
    "payload written",
    "sealed",
    "results sealed",
    "hold set",
    "hold cleared",
    "freeing",
    "block freed",
    "record freed",
    "claimed",
    "running",
    "event half written",
)
OF_DRIVERS = ("payload written", "hold cleared", "freeing", "awaited", "call entered", "submitted")
OF_NODES = ("hold set", "hold cleared", "sealed", "freeing", "task taken", "event half written")
OF_ACTORS, OF_DRIVERS, OF_NODES = (
    tuple(name for name in some if name in points.NAMES)
    for some in (OF_ACTORS, OF_DRIVERS, OF_NODES)
)


@pytest.fixture
def actor() -> Iterator[Any]:
    """A session that has worked, and an actor in it."""
    ray.init(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False)
    made = p.Adder.remote()
    p.some_work(1, made)
    yield made
    p.kept.clear()


def kill_at(name: str, role: str, times: int, actor: Any) -> float:
    """Kill a process at a step, again and again; the longest that others were kept waiting."""
    chance = random.Random(f"{name} {role}")
    worst = 0.0
    seldom = max(1, times // 10)  # in a storm not each time, which would take hours
    for i in range(times):
        count = chance.choice((1, 1, 2, 3, 5))
        try:
            pid = p.until_hit(name, role, count, actor)
            h.wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), what="the death")
            worst = max(worst, p.usable())
            if (i + 1) % seldom == 0:
                p.some_work(i, actor)
                p.sound()
        except BaseException as error:
            error.add_note(f"{role} killed at {name!r}, the {count}th time; round {i}")
            raise
    assert worst < patience(p.USABLE), f"{name}: others were kept waiting for {worst:.2f} s"
    return worst


def balanced(defined: bool) -> None:
    """Nothing of all that is left, but for what has been published for good."""
    p.kept.clear()
    if not defined:
        h.wait_until(lambda: p.sound().used <= UNITS * h.UNIT, what="an empty store")
    h.assert_whole()


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_worker_killed(group: int, actor: Any) -> None:
    names = NAMES[group::GROUPS]
    for name in names:
        kill_at(name, "worker", 1, actor)
    balanced(any(name.startswith("definition") for name in names))


@pytest.mark.storm
@pytest.mark.seconds(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_worker_killed_often(name: str, actor: Any) -> None:
    worst = kill_at(name, "worker", DEATHS, actor)
    balanced(name.startswith("definition"))
    print(f"{DEATHS} workers killed at {name!r}: others waited {worst:.3f} s at most")


def test_an_actor_killed(actor: Any) -> None:
    for name in OF_ACTORS:
        kill_at(name, "actor", 2, actor)
    balanced(False)


@pytest.mark.storm
@pytest.mark.seconds(600)
@pytest.mark.parametrize("name", OF_ACTORS)
def test_an_actor_killed_often(name: str, actor: Any) -> None:
    worst = kill_at(name, "actor", DEATHS, actor)
    balanced(False)
    print(f"{DEATHS} actors killed at {name!r}: others waited {worst:.3f} s at most")


def stop_at(name: str, times: int, actor: Any) -> float:
    """Stop a worker at a step while others work, and have it go on after that."""
    worst = 0.0
    for i in range(times):
        failed: list[BaseException] = []
        done = threading.Event()

        def work(i: int = i, failed: list[BaseException] = failed, done: Any = done) -> None:
            try:
                for n in itertools.count(i):  # what is done depends on the number
                    if points.victim() or done.is_set():
                        break
                    p.some_work(n, actor, name)
            except BaseException as error:
                failed.append(error)

        points.arm(name, "worker", 1, signal.SIGSTOP)
        thread = threading.Thread(target=work)
        thread.start()
        try:
            h.wait_until(lambda failed=failed: points.victim() or failed, what=f"{name!r}")
            worst = max(worst, p.usable())
        finally:
            done.set()
            points.disarm()
            pid = points.victim()
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGCONT)
            thread.join(30)
        assert not failed, f"{name}: {failed}"
        p.sound()
    assert worst < patience(p.USABLE), f"{name}: others were kept waiting for {worst:.2f} s"
    return worst


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_worker_stopped(group: int, actor: Any) -> None:
    for name in NAMES[group::GROUPS]:
        stop_at(name, 1, actor)


def test_cancel_of_a_task_whose_worker_stands_still_at_its_end() -> None:
    ray.init(num_cpus=2, log_to_driver=False)

    @ray.remote(num_returns=2)
    def two() -> tuple[int, int]:
        return 1, 2

    points.arm("ending", "worker", 1, signal.SIGSTOP)
    refs = two.remote()
    h.wait_until(lambda: points.victim(), what="a worker to stop")
    try:
        ray.cancel(refs[0])
        assert ray.available_resources()  # the node goes on
        assert ray.get(refs) == [1, 2]
    finally:
        points.disarm()
        os.kill(points.victim(), signal.SIGCONT)


@pytest.mark.storm
@pytest.mark.seconds(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_worker_stopped_often(name: str, actor: Any) -> None:
    worst = stop_at(name, 20, actor)
    print(f"20 workers stopped at {name!r}: others waited {worst:.3f} s at most")


SCRIPT = """
sys.path.insert(0, {tests!r})
import point_helpers as p
from pyray._core import points
begin(object_store_memory=256 << 20)
actor = p.Adder.remote()
p.some_work(1, actor)
say(armed=1)
points.arm({name!r}, "driver", {count})
while True:
    p.some_work(2, actor)
"""


def driver_killed_at(name: str, count: int, driver: Callable[..., Any]) -> None:
    tests = os.path.dirname(os.path.abspath(__file__))
    d = driver(SCRIPT.format(tests=tests, name=name, count=count))
    d.said("armed")
    d.process.wait(20)
    assert d.process.returncode == -signal.SIGKILL
    d.assert_gone()


@pytest.mark.parametrize("name", OF_DRIVERS)
def test_a_driver_killed(name: str, driver: Callable[..., Any]) -> None:
    driver_killed_at(name, 3, driver)


def node_killed_at(name: str) -> None:
    ray.init(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False)
    actor = p.Adder.remote()
    p.some_work(1, actor)
    points.arm(name, "node")
    end = time.monotonic() + p.SECONDS
    began = 0.0
    died = False
    while not died and time.monotonic() < end:
        began = time.monotonic()
        try:
            ray.kill(actor)
            actor = p.Adder.remote()
            p.some_work(2, actor)
        except (ray.exceptions.NodeDiedError, ray.exceptions.SessionError):
            died = True
    assert died, f"the node did not come to {name!r}"
    assert time.monotonic() - began < patience(GONE)
    ray.shutdown()


@pytest.mark.parametrize("name", OF_NODES)
def test_a_node_killed(name: str) -> None:
    node_killed_at(name)
    ray.init(num_cpus=1, object_store_memory=64 << 20)
    assert p.usable() < patience(5)


def test_points_are_named_once_and_can_be_disarmed(ray1: Any) -> None:
    assert len(set(points.NAMES)) == len(points.NAMES) >= 15
    points.arm("claimed", count=1000)
    assert ray.get([h.double.remote(i) for i in range(10)]) == list(range(0, 20, 2))
    assert points.passes_left() <= 990 and points.victim() == 0
    points.disarm()
    with pytest.raises(ValueError, match="no step of this build"):
        points.arm("no such step")
    with pytest.raises(KeyError):
        points.arm("claimed", "nobody")
