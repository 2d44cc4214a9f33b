"""Iterators in several processes: shards in actors, gathered where they are used.

The part of Ray's ``ray.util.iter`` that one machine needs.  Each iteration has its own place in the
shards: two may run side by side.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyray as ray

__all__ = [
    "LocalIterator",
    "ParallelIterator",
    "ParallelIteratorWorker",
    "from_actors",
    "from_items",
    "from_iterators",
    "from_range",
]

_Step = Callable[[Iterator[Any]], Iterable[Any]]


def from_items(items: Iterable[Any], num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """Items dealt out to shards, in turn.

    Parameters
    ----------
    items : iterable
        The items.
    num_shards : int, default 2
        Number of actors.
    repeat : bool, default False
        Begin again at the end, without end.

    Examples
    --------
    >>> from pyray.util import iter
    >>> list(iter.from_items(["a", "b", "c"]).gather_sync())
    ['a', 'b', 'c']
    """
    _check_count("num_shards", num_shards)
    items = list(items)
    kind = type(items[0]).__name__ if items else "None"
    shards = [items[start::num_shards] for start in range(num_shards)]
    return from_iterators(
        shards, repeat, f"from_items[{kind}, {len(items)}, shards={num_shards}{_again(repeat)}]"
    )


def from_range(n: int, num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """The numbers from 0 to `n` - 1, a run of them for each shard.

    Parameters
    ----------
    n : int
        How many numbers.
    num_shards : int, default 2
        Number of actors.
    repeat : bool, default False
        Begin again at the end, without end.

    Examples
    --------
    >>> from pyray.util import iter
    >>> list(iter.from_range(4).gather_sync())
    [0, 2, 1, 3]
    """
    _check_count("num_shards", num_shards)
    size = n // num_shards
    shards = [range(i * size, (i + 1) * size) for i in range(num_shards - 1)]
    shards.append(range((num_shards - 1) * size, n))
    return from_iterators(shards, repeat, f"from_range[{n}, shards={num_shards}{_again(repeat)}]")


def from_iterators(
    generators: Iterable[Any], repeat: bool = False, name: str | None = None
) -> ParallelIterator:
    """A shard for each iterable.

    Parameters
    ----------
    generators : list
        Iterables, or functions without arguments that make one: a generator itself cannot be sent
        to another process.
    repeat : bool, default False
        Begin again at the end, without end.
    name : str, optional
        Name in the ``repr``.

    Examples
    --------
    >>> from pyray.util import iter
    >>> list(iter.from_iterators([range(2), lambda: (c for c in "xy")]).gather_sync())
    [0, 'x', 1, 'y']
    """
    generators = list(generators)
    actor = ray.remote(ParallelIteratorWorker).options(num_cpus=0)
    actors = [actor.remote(generator, repeat) for generator in generators]
    return from_actors(actors, name or f"from_iterators[shards={len(actors)}{_again(repeat)}]")


def from_actors(actors: Iterable[Any], name: str | None = None) -> ParallelIterator:
    """A shard for each actor, of classes that inherit from :class:`ParallelIteratorWorker`.

    Parameters
    ----------
    actors : list of ActorHandle
        The actors.
    name : str, optional
        Name in the ``repr``.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util import iter
    >>> @ray.remote
    ... class Squares(iter.ParallelIteratorWorker):
    ...     def __init__(self, n):
    ...         super().__init__((i * i for i in range(n)), repeat=False)
    >>> list(iter.from_actors([Squares.remote(3)]).gather_sync())
    [0, 1, 4]
    """
    shards = [_Shard(actor, ()) for actor in actors]
    return ParallelIterator(shards, name or f"from_actors[shards={len(shards)}]")


def _again(repeat: bool) -> str:
    return ", repeat=True" if repeat else ""


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} is 1 or more, not {value}")


# ---- in the shards -------------------------------------------------------------------------------


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

    def par_iter_open(self, key: str, steps: Iterable[_Step]) -> None:
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


# ---- steps: what is done to the items, here or in a shard ----------------------------------------


class _Named:
    """A step with a name for the ``repr``."""

    def __init__(self, name: str, step: _Step) -> None:
        self.name = name
        self.step = step

    def __call__(self, items: Iterator[Any]) -> Iterable[Any]:
        return self.step(items)


def _for_each(fn: Callable[[Any], Any], concurrency: int, resources: Any) -> _Named:
    if concurrency == 1 and resources is None:
        return _Named(".for_each()", lambda items: map(fn, items))
    _check_count("max_concurrency", concurrency)

    def in_tasks(items: Iterator[Any]) -> Iterator[Any]:
        task = ray.remote(fn).options(**(resources or {}))
        under_way = deque(task.remote(item) for item in itertools.islice(items, concurrency))
        while under_way:
            yield ray.get(under_way.popleft())
            under_way.extend(task.remote(item) for item in itertools.islice(items, 1))

    return _Named(".for_each()", in_tasks)


def _filter(fn: Callable[[Any], Any]) -> _Named:
    return _Named(".filter()", lambda items: filter(fn, items))


def _batch(n: int) -> _Named:
    _check_count("n", n)

    def batches(items: Iterator[Any]) -> Iterator[list[Any]]:
        while batch := list(itertools.islice(items, n)):
            yield batch

    return _Named(f".batch({n})", batches)


def _flatten() -> _Named:
    return _Named(".flatten()", itertools.chain.from_iterable)


def _combine(fn: Callable[[Any], Iterable[Any]]) -> _Named:
    return _Named(".combine()", lambda items: itertools.chain.from_iterable(map(fn, items)))


def _shuffle(name: str, size: int, seed: int | None) -> _Named:
    _check_count("shuffle_buffer_size", size)

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
    return _Named(f".{name}({text})", shuffled)


class _Steps:
    """What both kinds of iterator can do to their items."""

    def _with(self, step: _Named) -> Any:
        raise NotImplementedError

    def transform(self, fn: _Step) -> Any:
        """A function from an iterator to an iterator, applied to each shard as a whole."""
        return self._with(_Named(".transform()", fn))

    def for_each(
        self, fn: Callable[[Any], Any], max_concurrency: int = 1, resources: Any = None
    ) -> Any:
        """A function applied to each item.

        Parameters
        ----------
        fn : callable
            The function.
        max_concurrency : int, default 1
            With more than 1 the items are worked on by tasks, so many at a time; their order stays.
        resources : dict, optional
            Options of those tasks, as ``f.options()`` takes them.
        """
        return self._with(_for_each(fn, max_concurrency, resources))

    def filter(self, fn: Callable[[Any], Any]) -> Any:
        """The items for which a function gives something true."""
        return self._with(_filter(fn))

    def batch(self, n: int) -> Any:
        """Lists of `n` items; the last may have fewer."""
        return self._with(_batch(n))

    def flatten(self) -> Any:
        """The elements of the items."""
        return self._with(_flatten())

    def combine(self, fn: Callable[[Any], Iterable[Any]]) -> Any:
        """The elements of the lists that a function makes of the items."""
        return self._with(_combine(fn))


# ---- in one process ------------------------------------------------------------------------------


class LocalIterator(_Steps):
    """An iterator in this process, over what comes from shards.

    Made by :meth:`ParallelIterator.gather_sync` and the like.  Nothing is asked of the shards until
    the first item is.  It can be gone through once.

    Examples
    --------
    >>> from pyray.util import iter
    >>> it = iter.from_range(6).gather_sync().for_each(lambda x: x + 1).batch(2)
    >>> list(it)
    [[1, 4], [2, 5], [3, 6]]
    """

    def __init__(self, make: Callable[[], Iterator[Any]], name: str) -> None:
        self._make = make
        self._iterator: Iterator[Any] | None = None
        self._name = name

    def __repr__(self) -> str:
        return f"LocalIterator[{self._name}]"

    def __iter__(self) -> LocalIterator:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._make()
        return next(self._iterator)

    def _with(self, step: _Named) -> LocalIterator:
        return LocalIterator(lambda: iter(step(self)), self._name + step.name)

    def shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> LocalIterator:
        """The items in an order that chance picks, out of so many at a time."""
        return self._with(_shuffle("shuffle", shuffle_buffer_size, seed))

    def take(self, n: int) -> list[Any]:
        """The next `n` items, or as many as there are."""
        return list(itertools.islice(self, n))

    def show(self, n: int = 20) -> None:
        """Print the next `n` items."""
        for item in self.take(n):
            print(item)

    def duplicate(self, n: int) -> list[LocalIterator]:
        """So many iterators over the same items, which are kept until all have had them."""
        _check_count("n", n)
        return [
            LocalIterator(lambda copy=copy: copy, f"{self._name}.duplicate[{i}]")  # type: ignore[misc]
            for i, copy in enumerate(itertools.tee(self, n))
        ]

    def union(self, *others: LocalIterator, deterministic: bool = False) -> LocalIterator:
        """The items of several iterators, in turn; `deterministic` is accepted, and always so."""
        return LocalIterator(
            lambda: _in_turn([self, *others]),
            f"LocalUnion[{', '.join(map(repr, (self, *others)))}]",
        )


def _in_turn(iterators: list[LocalIterator]) -> Iterator[Any]:
    left = deque(iterators)
    while left:
        try:
            item = next(left[0])
        except StopIteration:
            left.popleft()
            continue
        yield item
        left.rotate(-1)


# ---- in several processes ------------------------------------------------------------------------


class _Shard:
    """An actor, and what it does to its items."""

    def __init__(self, actor: Any, steps: tuple[_Named, ...]) -> None:
        self.actor = actor
        self.steps = steps


class _Reading:
    """One iteration over one shard."""

    _numbers = itertools.count()

    def __init__(self, shard: _Shard, count: int, seconds: float | None) -> None:
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


def _gather_in_turn(shards: list[_Shard]) -> Iterator[list[Any]]:
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


def _gather_as_they_come(shards: list[_Shard], seconds: float | None, ahead: int) -> Iterator[Any]:
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


class ParallelIterator(_Steps):
    """An iterator whose items lie, and are worked on, in several actors.

    Made by :func:`from_items`, :func:`from_range`, :func:`from_iterators` and :func:`from_actors`.
    The actors end when nothing refers to it any more.

    Examples
    --------
    >>> from pyray.util import iter
    >>> it = iter.from_range(8, num_shards=2)
    >>> it
    ParallelIterator[from_range[8, shards=2]]
    >>> squares = it.for_each(lambda x: x * x).filter(lambda x: x % 2 == 0)
    >>> list(squares.gather_sync())
    [0, 16, 4, 36]
    >>> [list(shard) for shard in squares.shards()]
    [[0, 4], [16, 36]]
    """

    def __init__(self, shards: list[_Shard], name: str) -> None:
        self._shards = shards
        self._name = name

    def __repr__(self) -> str:
        return f"ParallelIterator[{self._name}]"

    def __iter__(self) -> Any:
        raise TypeError(
            "You must use it.gather_sync() or it.gather_async() to iterate over the results of a "
            "ParallelIterator."
        )

    def _with(self, step: _Named) -> ParallelIterator:
        shards = [_Shard(shard.actor, (*shard.steps, step)) for shard in self._shards]
        return ParallelIterator(shards, self._name + step.name)

    def local_shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> ParallelIterator:
        """The items of each shard in an order that chance picks, out of so many at a time.

        Parameters
        ----------
        shuffle_buffer_size : int
            Number of items out of which the next one is picked.
        seed : int, optional
            The same seed gives the same order.
        """
        return self._with(_shuffle("local_shuffle", shuffle_buffer_size, seed))

    # ---- the items

    def gather_sync(self) -> LocalIterator:
        """The items here: one of each shard, then the next of each.

        An error that a shard raises ends the iteration.
        """
        return LocalIterator(
            lambda: itertools.chain.from_iterable(_gather_in_turn(self._shards)),
            f"{self!r}.gather_sync()",
        )

    def batch_across_shards(self) -> LocalIterator:
        """The items here, in lists of one of each shard that still has any."""
        return LocalIterator(
            lambda: _gather_in_turn(self._shards), f"{self!r}.batch_across_shards()"
        )

    def gather_async(self, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """The items here, in the order in which they come.

        Parameters
        ----------
        batch_ms : int, default 0
            A shard sends what it has worked out in so many milliseconds together; 0: one by one.
        num_async : int, default 1
            Requests to a shard that are under way at a time.
        """
        _check_count("num_async", num_async)
        if batch_ms < 0:
            raise ValueError(f"batch_ms is 0 or more, not {batch_ms}")
        seconds = batch_ms / 1000 if batch_ms else None
        return LocalIterator(
            lambda: _gather_as_they_come(self._shards, seconds, num_async),
            f"{self!r}.gather_async()",
        )

    def take(self, n: int) -> list[Any]:
        """The first `n` items, or as many as there are."""
        return self.gather_sync().take(n)

    def show(self, n: int = 20) -> None:
        """Print the first `n` items."""
        self.gather_sync().show(n)

    # ---- the shards

    def union(self, other: ParallelIterator) -> ParallelIterator:
        """An iterator that has the shards of both."""
        if not isinstance(other, ParallelIterator):
            raise TypeError(f"union needs another ParallelIterator, not {other!r}")
        return ParallelIterator(
            [*self._shards, *other._shards], f"ParallelUnion[{self!r}, {other!r}]"
        )

    def select_shards(self, shards_to_keep: Iterable[int]) -> ParallelIterator:
        """An iterator that has some of the shards only."""
        kept = [self._shards[self._check_index(i)] for i in shards_to_keep]
        return ParallelIterator(kept, f"{self._name}.select_shards({len(kept)} total)")

    def num_shards(self) -> int:
        """Number of shards."""
        return len(self._shards)

    def shards(self) -> list[LocalIterator]:
        """An iterator for each shard; they can be passed to tasks and gone through there."""
        return [self.get_shard(i) for i in range(len(self._shards))]

    def get_shard(self, shard_index: int, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """An iterator for one shard, in the items' order.

        Parameters
        ----------
        shard_index : int
            Which.
        batch_ms, num_async : int
            As in :meth:`gather_async`.
        """
        chosen = self._shards[self._check_index(shard_index)]
        _check_count("num_async", num_async)
        seconds = batch_ms / 1000 if batch_ms else None
        return LocalIterator(
            lambda: _read_in_order(chosen, seconds, num_async),
            f"{self._name}.shard[{shard_index}]",
        )

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self._shards):
            raise ValueError(f"Shard index out of range: {index}, there are {len(self._shards)}")
        return index


def _read_in_order(shard: _Shard, seconds: float | None, ahead: int) -> Iterator[Any]:
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
