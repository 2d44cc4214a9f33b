"""The shards of a `ParallelIterator`: the actors' side, and reading from them."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import pyray as ray
from pyray.util.iter_steps import Step

__all__ = [
    "ParallelIteratorWorker",
    "Shard",
    "gather_as_they_come",
    "gather_in_turn",
    "read_in_order",
]


class ParallelIteratorWorker:
    """What an actor needs to be a shard; the methods are the iterator's own business.

    Parameters
    ----------
    item_generator : iterable or callable
        The items, or a function that makes an iterable of them.
    repeat : bool
        Begin again at the end, without end.

    Examples
    --------
    >>> from pyray.util.iter import ParallelIteratorWorker
    >>> worker = ParallelIteratorWorker([1, 2], repeat=False)
    >>> worker.par_iter_open("here", ())
    >>> worker.par_iter_read("here", 10, None)
    ([1, 2], True)
    """

    def __init__(self, item_generator: Any, repeat: bool) -> None:
        self._par_iter_source = item_generator
        self._par_iter_repeat = repeat
        self._par_iter_open: dict[str, Iterator[Any]] = {}

    def par_iter_open(self, key: str, steps: Iterable[Step]) -> None:
        """Begin an iteration."""
        iterator = self._par_iter_items()
        for step in steps:
            iterator = iter(step(iterator))
        self._par_iter_open[key] = iterator

    def par_iter_read(self, key: str, count: int, seconds: float | None) -> tuple[list[Any], bool]:
        """So many items, or as many as come in so many seconds; and whether they were the last."""
        iterator = self._par_iter_open.get(key)
        if iterator is None:
            return [], True  # it raised before
        items: list[Any] = []
        end = None if seconds is None else time.monotonic() + seconds
        try:
            for item in iterator:
                items.append(item)
                if len(items) == count or (end is not None and time.monotonic() >= end):
                    return items, False
        except BaseException:
            del self._par_iter_open[key]
            raise
        del self._par_iter_open[key]
        return items, True

    def par_iter_close(self, key: str) -> None:
        """Give an iteration up."""
        self._par_iter_open.pop(key, None)

    def _par_iter_items(self) -> Iterator[Any]:
        while True:
            source = self._par_iter_source
            some = False
            for item in source() if callable(source) else source:
                some = True
                yield item
            if not (self._par_iter_repeat and some):
                return


class Shard:
    """An actor, and what it does to its items."""

    def __init__(self, actor: Any, steps: tuple[Step, ...]) -> None:
        self.actor = actor
        self.steps = steps


class _Reading:
    """One iteration over one shard."""

    _numbers = itertools.count()

    def __init__(self, shard: Shard, count: int, seconds: float | None) -> None:
        self.actor = shard.actor
        self._key = f"{os.getpid()}.{next(self._numbers)}"
        self._amount = count, seconds
        self._ended = False
        # Not waited for: calls of one caller run in order, and what it raises `read` raises too.
        self._opened = self.actor.par_iter_open.remote(self._key, [s.step for s in shard.steps])

    def request(self) -> Any:
        return self.actor.par_iter_read.remote(self._key, *self._amount)

    def result(self, ref: Any) -> tuple[list[Any], bool]:
        if self._opened is not None:
            ray.get(self._opened)
            self._opened = None
        items, self._ended = ray.get(ref)
        return items, self._ended

    def close(self) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            self.actor.par_iter_close.remote(self._key)
        except ray.exceptions.RayError:
            pass  # the actor or the session has ended before


def gather_in_turn(shards: list[Shard]) -> Iterator[list[Any]]:
    """An item of each shard at a time, all of them worked out at once."""
    readings = [_Reading(shard, 1, None) for shard in shards]
    left = readings
    try:
        while left:
            got = []
            going_on = []
            asked = [(reading, reading.request()) for reading in left]
            for reading, ref in asked:
                items, ended = reading.result(ref)
                got += items
                if not ended:
                    going_on.append(reading)
            left = going_on
            if got:
                yield got
    finally:
        for reading in readings:
            reading.close()


def gather_as_they_come(shards: list[Shard], seconds: float | None, ahead: int) -> Iterator[Any]:
    count = 1 if seconds is None else 1 << 30
    readings = [_Reading(shard, count, seconds) for shard in shards]
    try:
        under_way = {r.request(): r for _ in range(ahead) for r in readings}
        while under_way:
            (ref,), _ = ray.wait(list(under_way), num_returns=1)
            reading = under_way.pop(ref)
            items, ended = reading.result(ref)
            if not ended:
                under_way[reading.request()] = reading
            del ref
            yield from items
    finally:
        for reading in readings:
            reading.close()


def read_in_order(shard: Shard, seconds: float | None, ahead: int) -> Iterator[Any]:
    reading = _Reading(shard, 1 if seconds is None else 1 << 30, seconds)
    try:
        under_way = deque(reading.request() for _ in range(ahead))
        while under_way:
            items, ended = reading.result(under_way.popleft())
            if not ended:
                under_way.append(reading.request())
            yield from items
    finally:
        reading.close()
