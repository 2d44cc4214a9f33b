"""Iterators in several processes: shards in actors, gathered where they are used.

The part of Ray's ``ray.util.iter`` that one machine needs.  Each iteration has its own place in the
shards: two may run side by side.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyray as ray
from pyray.util import iter_steps
from pyray.util.iter_shards import (
    ParallelIteratorWorker,
    Shard,
    gather_as_they_come,
    gather_in_turn,
    read_in_order,
)
from pyray.util.iter_steps import Step, StepFunction, check_count

__all__ = [
    "LocalIterator",
    "ParallelIterator",
    "ParallelIteratorWorker",
    "from_actors",
    "from_items",
    "from_iterators",
    "from_range",
]


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
    check_count("num_shards", num_shards)
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
    check_count("num_shards", num_shards)
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
    shards = [Shard(actor, ()) for actor in actors]
    return ParallelIterator(shards, name or f"from_actors[shards={len(shards)}]")


def _again(repeat: bool) -> str:
    return ", repeat=True" if repeat else ""


class _Steps:
    """What both kinds of iterator can do to their items."""

    def _with(self, step: Step) -> Any:
        raise NotImplementedError

    def transform(self, fn: StepFunction) -> Any:
        """A function from an iterator to an iterator, applied to each shard as a whole."""
        return self._with(Step(".transform()", fn))

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
        return self._with(iter_steps.for_each(fn, max_concurrency, resources))

    def filter(self, fn: Callable[[Any], Any]) -> Any:
        """The items for which a function gives something true."""
        return self._with(iter_steps.filtered(fn))

    def batch(self, n: int) -> Any:
        """Lists of `n` items; the last may have fewer."""
        return self._with(iter_steps.batch(n))

    def flatten(self) -> Any:
        """The elements of the items."""
        return self._with(iter_steps.flatten())

    def combine(self, fn: Callable[[Any], Iterable[Any]]) -> Any:
        """The elements of the lists that a function makes of the items."""
        return self._with(iter_steps.combine(fn))


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

    def _with(self, step: Step) -> LocalIterator:
        return LocalIterator(lambda: iter(step(self)), self._name + step.name)

    def shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> LocalIterator:
        """The items in an order that chance picks, out of so many at a time."""
        return self._with(iter_steps.shuffle("shuffle", shuffle_buffer_size, seed))

    def take(self, n: int) -> list[Any]:
        """The next `n` items, or as many as there are."""
        return list(itertools.islice(self, n))

    def show(self, n: int = 20) -> None:
        """Print the next `n` items."""
        for item in self.take(n):
            print(item)

    def duplicate(self, n: int) -> list[LocalIterator]:
        """So many iterators over the same items, which are kept until all have had them."""
        check_count("n", n)
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

    def __init__(self, shards: list[Shard], name: str) -> None:
        self._shards = shards
        self._name = name

    def __repr__(self) -> str:
        return f"ParallelIterator[{self._name}]"

    def __iter__(self) -> Any:
        raise TypeError(
            "You must use it.gather_sync() or it.gather_async() to iterate over the results of a "
            "ParallelIterator."
        )

    def _with(self, step: Step) -> ParallelIterator:
        shards = [Shard(shard.actor, (*shard.steps, step)) for shard in self._shards]
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
        return self._with(iter_steps.shuffle("local_shuffle", shuffle_buffer_size, seed))

    # ---- the items

    def gather_sync(self) -> LocalIterator:
        """The items here: one of each shard, then the next of each.

        An error that a shard raises ends the iteration.
        """
        return LocalIterator(
            lambda: itertools.chain.from_iterable(gather_in_turn(self._shards)),
            f"{self!r}.gather_sync()",
        )

    def batch_across_shards(self) -> LocalIterator:
        """The items here, in lists of one of each shard that still has any."""
        return LocalIterator(
            lambda: gather_in_turn(self._shards), f"{self!r}.batch_across_shards()"
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
        check_count("num_async", num_async)
        if batch_ms < 0:
            raise ValueError(f"batch_ms is 0 or more, not {batch_ms}")
        seconds = batch_ms / 1000 if batch_ms else None
        return LocalIterator(
            lambda: gather_as_they_come(self._shards, seconds, num_async),
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
        check_count("num_async", num_async)
        seconds = batch_ms / 1000 if batch_ms else None
        return LocalIterator(
            lambda: read_in_order(chosen, seconds, num_async),
            f"{self._name}.shard[{shard_index}]",
        )

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self._shards):
            raise ValueError(f"Shard index out of range: {index}, there are {len(self._shards)}")
        return index
