"""What can be done to the items of an iterator, here or in a shard."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyray as ray

__all__ = [
    "Step",
    "StepFunction",
    "batch",
    "check_count",
    "combine",
    "filtered",
    "flatten",
    "for_each",
    "shuffle",
]

StepFunction = Callable[[Iterator[Any]], Iterable[Any]]


def check_count(name: str, value: int) -> None:
    """Raise unless it is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} is 1 or more, not {value}")


class Step:
    """A step with a name for the ``repr``."""

    def __init__(self, name: str, step: StepFunction) -> None:
        self.name = name
        self.step = step

    def __call__(self, items: Iterator[Any]) -> Iterable[Any]:
        return self.step(items)


def for_each(fn: Callable[[Any], Any], concurrency: int, resources: Any) -> Step:
    if concurrency == 1 and resources is None:
        return Step(".for_each()", lambda items: map(fn, items))
    check_count("max_concurrency", concurrency)

    def in_tasks(items: Iterator[Any]) -> Iterator[Any]:
        task = ray.remote(fn).options(**(resources or {}))
        under_way = deque(task.remote(item) for item in itertools.islice(items, concurrency))
        while under_way:
            yield ray.get(under_way.popleft())
            under_way.extend(task.remote(item) for item in itertools.islice(items, 1))

    return Step(".for_each()", in_tasks)


def filtered(fn: Callable[[Any], Any]) -> Step:
    return Step(".filter()", lambda items: filter(fn, items))


def batch(n: int) -> Step:
    check_count("n", n)

    def batches(items: Iterator[Any]) -> Iterator[list[Any]]:
        while batch := list(itertools.islice(items, n)):
            yield batch

    return Step(f".batch({n})", batches)


def flatten() -> Step:
    return Step(".flatten()", itertools.chain.from_iterable)


def combine(fn: Callable[[Any], Iterable[Any]]) -> Step:
    return Step(".combine()", lambda items: itertools.chain.from_iterable(map(fn, items)))


def shuffle(name: str, size: int, seed: int | None) -> Step:
    check_count("shuffle_buffer_size", size)

    def shuffled(items: Iterator[Any]) -> Iterator[Any]:
        pick = random.Random(seed)
        buffer: list[Any] = []
        for item in items:
            buffer.append(item)
            if len(buffer) == size:
                yield buffer.pop(pick.randrange(size))
        pick.shuffle(buffer)
        yield from buffer

    text = f"shuffle_buffer_size={size}, seed={'None' if seed is None else seed}"
    return Step(f".{name}({text})", shuffled)
