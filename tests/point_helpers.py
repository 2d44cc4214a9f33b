"""What the tests of kill points run: work that comes by every step of the core, and checks it.

Imported by workers too, so no pytest in here.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import Any

import fault_helpers as h
import numpy as np
from helpers import patience

import pyray as ray
from pyray import accounting
from pyray._core import points

# Work that is done again until the armed process has come by; and how long that may take.
SECONDS = 8.0
# What a death, or a stop, may keep others from.
USABLE = 1.0


@ray.remote(max_retries=-1)
def echo(x: Any, *more: Any) -> Any:
    return x


@ray.remote(max_retries=-1, num_returns=3)
def three(i: int) -> Any:
    return i, b"%d" % i * 2000, np.full(5000, i)


@ray.remote(max_retries=-1, num_returns="streaming")
def stream(n: int) -> Any:
    for i in range(n):
        yield np.full(100 * (i + 1), i)


@ray.remote(max_retries=-1)
def fan(n: int) -> int:
    refs = [echo.remote(i) for i in range(n)]
    late = [echo.remote(r, b"x" * 300) for r in refs]
    return sum(ray.get(late))


@ray.remote(max_retries=-1)
def puts(i: int) -> Any:
    blocks = [ray.put(bytes([i % 251]) * n) for n in (500, 5000, 50_000)]
    del blocks[0]
    return blocks


@ray.remote(max_retries=-1)
def array(i: int) -> Any:
    made = ray.shared.empty(4000)
    made[:] = i
    return made


@ray.remote(max_retries=-1)
def large(i: int) -> Any:
    return np.full(1_500_000, i)


@ray.remote(max_retries=-1)
def define(i: int) -> int:
    return _define(i)


def _define(i: int) -> int:
    def inner(x: int) -> int:
        return x + i

    return int(ray.get(ray.remote(inner).options(max_retries=-1).remote(1)))


# By value: a definition of its own each time.
_define.__module__ = "__main__"


@ray.remote(max_retries=-1)
def owner(i: int) -> int:
    return sum(len(ray.get(ref)) for ref in ray.get(puts.remote(i)))


# In a process of its own, which has not called the actor before.
@ray.remote(max_retries=-1, max_calls=1)
def caller(actor: Any, n: int) -> int:
    return sum(ray.get([actor.add.remote(1) for _ in range(n)]))


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Adder:
    def add(self, x: int, *more: Any) -> int:
        return x

    def block(self, i: int) -> Any:
        return np.full(3000, i)

    def look_into(self, box: list[Any]) -> int:
        ray.put(b"dropped" * 500)
        return len(ray.get(box[0]))


@ray.remote(max_retries=-1)
def crowd(n: int) -> list[Any]:
    return [ray.put(i) for i in range(n)]


def some_work(i: int, actor: Any, extra: str = "") -> None:
    """A little of everything; each result is checked. `extra`: a step that needs more than that.

    What a dead worker had put, or submitted, may be lost with it: then the error says so.
    """
    refs = [echo.remote(j) for j in range(8)]
    sizes = [echo.remote(b"v" * n) for n in (10, 60, 900, 6000, 40_000)]
    made = array.remote(i)
    lots = three.remote(i)
    summed = fan.remote(5)
    chain = echo.remote(echo.remote(echo.remote(i)), refs[0], sizes[4])
    shaped = echo.options(num_cpus=0.5).remote(i)
    assert ray.get(refs, timeout=20) == list(range(8))
    assert [len(v) for v in ray.get(sizes, timeout=20)] == [10, 60, 900, 6000, 40_000]
    a, b, c = ray.get(lots, timeout=20)
    assert (a, b, c.sum()) == (i, b"%d" % i * 2000, 5000 * i)
    assert ray.get(made, timeout=20).sum() == 4000 * i
    with allowed():
        assert ray.get(summed, timeout=20) == 10
    assert ray.get(chain, timeout=20) == i
    assert ray.get(shaped, timeout=20) == i
    assert [int(ray.get(r, timeout=20)[0]) for r in stream.remote(4)] == [0, 1, 2, 3]
    with allowed():
        assert [len(v) for v in ray.get(ray.get(puts.remote(i), timeout=20), timeout=20)] == [
            5000,
            50_000,
        ]
    with allowed():
        assert ray.get(owner.remote(i), timeout=20) == 55_000
    if extra.startswith("definition"):  # which stay for good
        with allowed():
            assert ray.get(define.remote(i), timeout=20) == i + 1
    if extra in ("token handed on", "resuming chosen", "node chosen"):  # more wait than may run
        waits = [fan.remote(3) for _ in range(6)]
        parts = [echo.options(num_cpus=n).remote(i) for n in (0.5, 0.25, 0.5)]
        assert ray.get(parts, timeout=20) == [i, i, i]
        with allowed():
            assert ray.get(waits, timeout=20) == [3] * 6
    if extra.startswith("chunk"):
        with allowed():
            kept.append(ray.get(crowd.remote(700), timeout=20))
    calls = [actor.add.remote(j, refs[0]) for j in range(5)]
    blocks = [actor.block.remote(j) for j in range(2)]
    looked = actor.look_into.remote([sizes[4]])
    assert ray.get(calls, timeout=20) == list(range(5))
    assert ray.get(looked, timeout=20) == 40_000
    assert [int(v[0]) for v in ray.get(blocks, timeout=20)] == [0, 1]
    with allowed():
        assert ray.get(caller.remote(actor, 3), timeout=20) == 3
    if i % 4 == 0:
        assert ray.get(large.remote(i), timeout=20).sum() == 1_500_000 * i


# Objects that need records, until the session ends.
kept: list[Any] = []


@contextlib.contextmanager
def allowed() -> Any:
    try:
        yield
    except (ray.exceptions.ObjectLostError, ray.exceptions.TaskError) as error:
        if "died" not in str(error) and "gone" not in str(error):
            raise


def usable() -> float:
    """Seconds until tasks of both sorts have run, after a death or during a stop."""
    began = time.monotonic()
    refs = [echo.remote(i) for i in range(4)] + [echo.options(num_cpus=0.5).remote(4)]
    assert ray.get(refs, timeout=20) == [0, 1, 2, 3, 4]
    return time.monotonic() - began


def until_hit(name: str, role: str, count: int, actor: Any, number: int = signal.SIGKILL) -> int:
    """Work until a process has come to a step for the `count`-th time; its pid."""
    points.arm(name, role, count, number)
    end = time.monotonic() + patience(SECONDS)
    i = 0
    while not points.victim():
        if time.monotonic() > end:
            left = points.passes_left()
            points.disarm()
            raise AssertionError(f"no {role} came to {name!r}: {left} passes of {count} are left")
        some_work(i, actor, name)
        i += 1
    return points.victim()


def sound() -> accounting.Report:
    """The books, once everything is quiet: nobody is busy, and nothing is in hand."""
    return h.wait_until(lambda: _quiet(accounting.validate(3.0)), 5, "a quiet session")


def _quiet(report: accounting.Report) -> accounting.Report | None:
    return None if report.busy else report
