"""Code of a user's, for test_typing.py: `valid` is checked and run, `wrong` is checked only.

A comment ``# error`` marks a line in which each checker has to find an error, ``# error: mypy`` one
in which mypy alone does; there may be no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, assert_type

import numpy as np

import pyray as ray
from pyray import ActorClass, ActorHandle, ActorProxy, ObjectRef, RemoteFunction


@ray.remote
def show(x: int, y: float = 1.0, *, unit: str = "") -> str:
    return f"{x * y}{unit}"


@ray.remote(num_cpus=1, max_retries=0)
def total(*xs: int) -> int:
    return sum(xs)


@ray.remote
def ten(
    a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int, j: str
) -> tuple[int, str]:
    return a + b + c + d + e + f + g + h + i, j


@ray.remote
def nothing() -> None:
    return None


@ray.remote(num_returns=2)
def pair() -> tuple[int, str]:
    return 1, "one"


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    @ray.method
    def add(self, by: int, times: int = 1) -> int:
        self.n += by * times
        return self.n

    @ray.method
    async def later(self, by: int) -> str:
        return str(self.add(by))

    @ray.method(concurrency_group=None)
    def label(self, text: str) -> str:
        return f"{text} {self.n}"

    def untyped(self) -> int:
        return self.n


RemoteCounter = ray.remote(Counter)


@ray.remote
def fill(part: np.ndarray[Any, np.dtype[Any]], value: float) -> None:
    part[...] = value


def apply(f: RemoteFunction[Callable[[int], str]], x: int) -> ObjectRef[str]:
    return f.remote(x)


def shown_by_class(of: ActorClass[Counter]) -> int:
    handle: ActorHandle[Counter] = of.remote()
    value: int = ray.get(handle.untyped.remote())
    return value


def in_shared_memory() -> ray.shared.SharedArray:
    grid = ray.shared.zeros((4, 2), dtype="f4", order="F")
    assert_type(grid, ray.shared.SharedArray)
    assert_type(fill.remote(grid[:2], 1.5), ObjectRef[None])
    assert_type(fill.remote(grid, 1.5), ObjectRef[None])
    assert_type(grid.sealed, bool)
    assert_type(grid.seal(timeout=None), ObjectRef[np.ndarray[Any, np.dtype[Any]]])
    assert_type(ray.get(grid.seal()), np.ndarray[Any, np.dtype[Any]])
    ray.shared.full(3, 2.5)
    return ray.shared.empty_like(grid, shape=(2, np.int64(2)))


async def from_a_coroutine() -> tuple[str, int]:
    ref = show.remote(2)
    text, number = await asyncio.gather(ref, total.remote(1, 2))
    assert_type(text, str)
    assert_type(number, int)
    assert_type(await ref, str)
    assert_type(ref.future(), Future[str])
    assert_type(await asyncio.wrap_future(ref.future()), str)
    return text, number


def valid() -> list[Any]:
    """Gives (value, type) of what the assertions say the type of."""
    seen: list[Any] = []
    ref = show.remote(1)
    assert_type(ref, ObjectRef[str])
    assert_type(show.remote(1, 2.0, unit="m"), ObjectRef[str])
    assert_type(show.remote(x=1, y=2.0), ObjectRef[str])
    assert_type(show.remote(ray.put(1)), ObjectRef[str])
    assert_type(show.remote(ray.put(1), ray.put(2.5)), ObjectRef[str])
    assert_type(show.remote(total.remote(1, 2), 2.5), ObjectRef[str])
    assert_type(show.options(num_cpus=1).remote(1), ObjectRef[str])
    assert_type(total.remote(), ObjectRef[int])
    assert_type(total.remote(1, ray.put(2), 3), ObjectRef[int])
    many = ten.remote(1, 2, 3, 4, 5, 6, 7, 8, 9, ray.put("x"))
    assert_type(many, ObjectRef[tuple[int, str]])
    assert_type(nothing.remote(), ObjectRef[None])
    one, _ = pair.remote()

    value = ray.get(ref)
    assert_type(value, str)
    seen.append((value, str))
    values = ray.get([ref, ref], timeout=30)
    assert_type(values, list[str])
    seen.append((values[0], str))
    seen.append((ray.get(one), int))
    assert_type(ray.get(ref, writable=True), str)
    seen.append((ray.get(many), tuple))
    put = ray.put({"a": [1]})
    assert_type(put, ObjectRef[dict[str, list[int]]])
    assert_type(ray.get(put), dict[str, list[int]])
    ready, rest = ray.wait([ref, show.remote(2)], num_returns=2)
    assert_type(ready, list[ObjectRef[str]])
    assert_type(rest, list[ObjectRef[str]])
    seen.append((ray.get(apply(show, 1)), str))

    assert_type(RemoteCounter, ActorClass[Counter])
    counter: ActorProxy[Counter] = RemoteCounter.options(num_cpus=0).remote(start=1)
    assert_type(counter.add.remote(1, times=2), ObjectRef[int])
    assert_type(counter.add.remote(ray.put(1)), ObjectRef[int])
    assert_type(counter.later.remote(1), ObjectRef[str])
    assert_type(counter.label.remote("n"), ObjectRef[str])
    seen.append((ray.get(counter.add.remote(1)), int))
    seen.append((ray.get(counter.label.remote("n")), str))
    handle = RemoteCounter.remote()
    seen.append((ray.get(handle.untyped.remote()), int))
    seen.append((ray.get(handle.add.options(num_returns=1).remote(1)), int))
    seen.append((shown_by_class(RemoteCounter), int))
    seen.append((in_shared_memory(), ray.shared.SharedArray))
    return seen


def of_generators() -> None:
    @ray.remote
    def numbers(n: int) -> Iterator[int]:
        yield from range(n)

    for ref in numbers.remote(ray.put(3)):
        assert_type(ref, ObjectRef[int])


def wrong() -> None:
    show(1)  # error
    show.remote()  # error
    show.remote("1")  # error
    show.remote(ray.put(["1"]))  # error
    show.remote(1, "2")  # error
    show.remote(1, 2.0, "m")  # error
    show.remote(1, unit=3)  # error
    show.remote(1, units="m")  # error
    total.remote(1, "2")  # error
    ten.remote(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)  # error
    number: int = ray.get(show.remote(1))  # error
    more: list[int] = ray.get([show.remote(1)])  # error
    ray.get(3)  # error
    ray.get([3])  # error
    ray.wait(show.remote(1))  # error
    apply(total, "x")  # error
    counter: ActorProxy[Counter] = RemoteCounter.remote()
    counter.add.remote("1")  # error
    counter.add.remote()  # error
    counter.label.remote(1)  # error
    counter.nothing_such.remote()  # error
    grid = ray.shared.zeros("4")  # error
    grid.seal(timeout="1")  # error
    grid.sealed = True  # error
    fill.remote(3, 1.5)  # error
    ray.shared.ones(4)  # error
    print(number, more)
