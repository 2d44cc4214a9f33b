"""A first-in, first-out queue between tasks, actors and the driver.

The queue is an async actor, so any number of callers may wait in it.  Larger items never pass
through it: they are `put` into the object store by whoever adds them, the actor hands on their ids,
and whoever takes one reads it there, arrays without a copy.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
from collections.abc import Iterable
from typing import Any, NoReturn

import pyray as ray

__all__ = ["Empty", "Full", "Queue"]

# Types of items that travel inside the calls, where that is cheaper than an object each.
_SMALL = frozenset({bool, int, float, complex, type(None)})
_SMALL_TEXT = frozenset({str, bytes})
_SMALL_TEXT_MAX = 1024

# Waiting callers are coroutines in the actor, and cost little.  Ray's 1,000 would mean that the
# 1,001st `put` waits behind a thousand waiting `get`s, for ever.
_MAX_WAITING = 1_000_000

_TOO_FULL = "the queue holds {size} items, maxsize is {maxsize}, and {count} more were to be added"
_TOO_EMPTY = "the queue holds {size} items, and {count} were to be taken"

# How a call of the actor came out.
_DONE, _REFUSED, _WITHDRAWN = 0, 1, 2


class Empty(queue.Empty):
    """The queue has not as many items as were asked for.  It is a ``queue.Empty`` too.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.queue import Empty, Queue
    >>> try:
    ...     Queue().get_nowait()
    ... except Empty:
    ...     print("nothing there")
    nothing there
    """


class Full(queue.Full):
    """The queue has no room for as many items.  It is a ``queue.Full`` too.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.queue import Full, Queue
    >>> queue = Queue(maxsize=1)
    >>> queue.put(1)
    >>> try:
    ...     queue.put_nowait(2)
    ... except Full:
    ...     print("no room")
    no room
    """


class Queue:
    """A queue that tasks, actors and the driver can share: pass it as an argument.

    Parameters
    ----------
    maxsize : int, default 0
        Items that it holds at most; 0 or less: without limit.
    actor_options : dict, optional
        Options of the actor that is behind it, as ``A.options(**actor_options)`` takes them.

    Attributes
    ----------
    maxsize : int
        As given.
    actor : ActorHandle or None
        The actor; None after :meth:`shutdown`.

    Notes
    -----
    The queue ends when the last copy of it is gone.  An ``ObjectRef`` put into it is taken out as
    its value, as any argument of a call is; to pass on the id itself put ``[ref]``.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.queue import Queue
    >>> @ray.remote
    ... def produce(queue):
    ...     for i in range(3):
    ...         queue.put(i)
    >>> queue = Queue(maxsize=2)
    >>> _ = produce.remote(queue)
    >>> [queue.get() for _ in range(3)]
    [0, 1, 2]
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        if isinstance(maxsize, bool) or not isinstance(maxsize, int):
            raise TypeError(f"maxsize is a whole number, not {maxsize!r}")
        if actor_options is not None and not isinstance(actor_options, dict):
            raise TypeError(f"actor_options is a dict of options, not {actor_options!r}")
        options = {"max_concurrency": _MAX_WAITING, **(actor_options or {})}
        self.maxsize = maxsize
        self.actor: Any = ray.remote(_QueueActor).options(**options).remote(maxsize)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.maxsize, self.actor)

    def __len__(self) -> int:
        return self.size()

    def __repr__(self) -> str:
        return f"Queue(maxsize={self.maxsize}, actor={self.actor!r})"

    # ---- how many

    def size(self) -> int:
        """Number of items in the queue.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> Queue().size()
        0
        """
        number: int = ray.get(self._actor().size.remote())
        return number

    def qsize(self) -> int:
        """The same as :meth:`size`, under the name that `queue.Queue` has for it.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> Queue().qsize()
        0
        """
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item in the queue.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> Queue().empty()
        True
        """
        return self.size() == 0

    def full(self) -> bool:
        """Whether there is no room for another item.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> Queue().full()
        False
        """
        return 0 < self.maxsize <= self.size()

    # ---- adding

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits while there is no room.

        Parameters
        ----------
        item : object
            Anything that can be serialized.
        block : bool, default True
            Whether to wait at all.
        timeout : float, optional
            Seconds to wait; None: without limit.

        Raises
        ------
        Full
            There is no room, or there was none for so long.
        ValueError
            `timeout` is negative.
        SerializationError
            The item cannot be serialized.
        RayActorError
            The queue has been shut down.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> queue.put("x")
        >>> queue.get()
        'x'
        """
        call = _Call(self._actor(), "put", [_packed(item)], _limit(block, timeout))
        self._check_put(call.wait(), 1)

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """The same as :meth:`put`, in a coroutine.

        Examples
        --------
        >>> import asyncio
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> asyncio.run(queue.put_async("x"))
        >>> queue.get()
        'x'
        """
        call = _Call(self._actor(), "put", [_packed(item)], _limit(block, timeout))
        self._check_put(await call.wait_async(), 1)

    def put_nowait(self, item: Any) -> None:
        """The same as ``put(item, block=False)``.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> queue = Queue(maxsize=1)
        >>> queue.put_nowait("x")
        >>> queue.full()
        True
        """
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add several items, without waiting: all of them or none.

        Parameters
        ----------
        items : iterable
            The items; they lie next to each other in the queue.

        Raises
        ------
        Full
            There is no room for all of them.
        TypeError
            `items` is no iterable.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> queue.put_nowait_batch([1, 2])
        >>> queue.get_nowait_batch(2)
        [1, 2]
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"items is to be an iterable, not {items!r}")
        packed = [_packed(item) for item in items]
        self._check_put(_Call(self._actor(), "put", packed, 0).wait(), len(packed))

    # ---- taking

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item; waits while there is none.

        Parameters
        ----------
        block : bool, default True
            Whether to wait at all.
        timeout : float, optional
            Seconds to wait; None: without limit.

        Raises
        ------
        Empty
            There is no item, or there was none for so long.
        ValueError
            `timeout` is negative.
        RayActorError
            The queue has been shut down.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> queue.put("x")
        >>> queue.get(timeout=1)
        'x'
        """
        call = _Call(self._actor(), "get", 1, _limit(block, timeout))
        (item,) = self._check_got(call.wait(), 1)
        return ray.get(item[0]) if type(item) is list else item

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """The same as :meth:`get`, in a coroutine.

        If the coroutine is cancelled, as by `asyncio.wait_for`, no item is lost.

        Examples
        --------
        >>> import asyncio
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> queue.put("x")
        >>> asyncio.run(queue.get_async())
        'x'
        """
        call = _Call(self._actor(), "get", 1, _limit(block, timeout))
        (item,) = self._check_got(await call.wait_async(), 1)
        return await item[0] if type(item) is list else item

    def get_nowait(self) -> Any:
        """The same as ``get(block=False)``.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> queue.put("x")
        >>> queue.get_nowait()
        'x'
        """
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take several items, without waiting: so many or none.

        Parameters
        ----------
        num_items : int
            How many.

        Raises
        ------
        Empty
            There are fewer.
        TypeError, ValueError
            `num_items` is no whole number, or negative.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> queue.put_nowait_batch("abc")
        >>> queue.get_nowait_batch(2)
        ['a', 'b']
        """
        if isinstance(num_items, bool) or not isinstance(num_items, int):
            raise TypeError(f"num_items is a whole number, not {num_items!r}")
        if num_items < 0:
            raise ValueError(f"num_items is 0 or more, not {num_items}")
        got = self._check_got(_Call(self._actor(), "get", num_items, 0).wait(), num_items)
        return [ray.get(item[0]) if type(item) is list else item for item in got]

    # ---- the end

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue's actor; items in the queue are lost, and callers that wait in it raise.

        Without it the queue ends when its last copy is gone.

        Parameters
        ----------
        force : bool, default False
            Kill it at once instead of letting it finish what it is doing.
        grace_period_s : float, default 5
            Seconds that it is given for that; then it is killed.

        Examples
        --------
        >>> from pyray.util.queue import Queue
        >>> queue = Queue()
        >>> queue.shutdown()
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            # Callers that wait go first: the actor does not end while it still works for them.
            actor.end.remote()
            ended, _ = ray.wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)
            if ended:
                return
        ray.kill(actor, no_restart=True)

    # ---- inside

    def _actor(self) -> Any:
        if self.actor is None:
            raise ray.exceptions.RayActorError(
                "this queue has been shut down in this process: make another one"
            )
        return self.actor

    def _check_put(self, outcome: tuple[int, Any], count: int) -> None:
        if outcome[0] != _DONE:
            self._failed(outcome, Full, _TOO_FULL, count)

    def _check_got(self, outcome: tuple[int, Any], count: int) -> list[Any]:
        if outcome[0] != _DONE:
            self._failed(outcome, Empty, _TOO_EMPTY, count)
        items: list[Any] = outcome[1]
        return items

    def _failed(
        self, outcome: tuple[int, Any], error: type[Exception], text: str, count: int
    ) -> NoReturn:
        if outcome[0] == _WITHDRAWN:
            raise ray.exceptions.RayActorError("the queue was shut down while this call waited")
        raise error(text.format(size=outcome[1], maxsize=self.maxsize, count=count))


def _rebuild(maxsize: int, actor: Any) -> Queue:
    made = Queue.__new__(Queue)
    made.maxsize = maxsize
    made.actor = actor
    return made


def _limit(block: bool, timeout: float | None) -> float | None:
    """Seconds to wait, or None."""
    if not block:
        return 0
    if timeout is not None and not timeout >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


def _packed(item: Any) -> Any:
    """The item itself if it is small, else a list of its id: a list says that it is an id."""
    kind = type(item)
    if kind in _SMALL or (kind in _SMALL_TEXT and len(item) <= _SMALL_TEXT_MAX):
        return item
    return [item if kind is ray.ObjectRef else ray.put(item)]


class _Call:
    """One call of the actor, which is taken back when its caller stops waiting for it.

    Otherwise a `get` whose caller has gone (a cancelled coroutine, an interrupt) would still take
    the next item, and nobody would have it.
    """

    _numbers = itertools.count()

    def __init__(self, actor: Any, method: str, what: Any, limit: float | None) -> None:
        self._actor = actor
        # Calls that do not wait need no name to be taken back by.
        self._token = None if limit == 0 else f"{os.getpid()}.{next(self._numbers)}"
        self._gets = method == "get"
        self._ref = getattr(actor, method).remote(what, limit, self._token)

    def wait(self) -> tuple[int, Any]:
        try:
            outcome: tuple[int, Any] = ray.get(self._ref)
            return outcome
        except ray.exceptions.RayError:
            raise
        except BaseException:
            self._take_back()
            raise

    async def wait_async(self) -> tuple[int, Any]:
        try:
            outcome: tuple[int, Any] = await self._ref
            return outcome
        except ray.exceptions.RayError:
            raise
        except BaseException:
            self._take_back()
            raise

    def _take_back(self) -> None:
        try:
            if self._token is not None:
                self._actor.withdraw.remote(self._token)
            if self._gets:
                self._ref.future().add_done_callback(self._return_items)
        except ray.exceptions.RayError:
            return  # the actor or the session is gone, and the items with it

    def _return_items(self, future: Any) -> None:
        """What the actor had handed out already goes back to the head of the queue."""
        try:
            result, items = future.result()
            if result == _DONE and items:
                self._actor.give_back.remote(items)
        except ray.exceptions.RayError:
            return


# ---- the actor -----------------------------------------------------------------------------------


class _Items(asyncio.Queue[Any]):
    """asyncio's queue, of which items can be put at the head."""

    def _put(self, item: Any) -> None:
        if type(item) is _AtHead:
            self._queue.appendleft(item.item)  # type: ignore[attr-defined]
        else:
            super()._put(item)


class _AtHead:
    def __init__(self, item: Any) -> None:
        self.item = item


class _QueueActor:
    """What `Queue` talks to.  Items are small values, or lists of one id: never user's objects."""

    def __init__(self, maxsize: int) -> None:
        self._items = _Items(max(0, maxsize))
        self._waiting: dict[str | None, asyncio.Future[Any]] = {}

    async def size(self) -> int:
        return self._items.qsize()

    async def put(
        self, items: list[Any], limit: float | None, token: str | None
    ) -> tuple[int, int]:
        queue = self._items
        if 0 < queue.maxsize < queue.qsize() + len(items):
            if limit == 0:
                return _REFUSED, queue.qsize()
            # One item: batches do not wait.
            return (await self._wait(queue.put(items[0]), limit, token))[0], queue.qsize()
        for item in items:
            queue.put_nowait(item)
        return _DONE, 0

    async def get(
        self, count: int, limit: float | None, token: str | None
    ) -> tuple[int, int | list[Any]]:
        queue = self._items
        if queue.qsize() < count:
            if limit == 0:
                return _REFUSED, queue.qsize()
            outcome, item = await self._wait(queue.get(), limit, token)
            return outcome, [item] if outcome == _DONE else queue.qsize()
        return _DONE, [queue.get_nowait() for _ in range(count)]

    async def _wait(self, waits: Any, limit: float | None, token: str | None) -> tuple[int, Any]:
        """Wait for room or an item: not for ever, and not once the caller takes the call back."""
        task = asyncio.ensure_future(waits)
        self._waiting[token] = task
        try:
            await asyncio.wait({task}, timeout=limit)
            if not task.done():
                task.cancel()
                # It may have succeeded in this very moment; then it has its item.
                await asyncio.wait({task})
                return (_REFUSED, None) if task.cancelled() else (_DONE, task.result())
            return (_WITHDRAWN, None) if task.cancelled() else (_DONE, task.result())
        finally:
            del self._waiting[token]
            task.cancel()

    async def withdraw(self, token: str) -> None:
        task = self._waiting.get(token)
        if task is not None:
            task.cancel()

    async def give_back(self, items: list[Any]) -> None:
        for item in reversed(items):
            await self._items.put(_AtHead(item))

    async def end(self) -> None:
        for task in list(self._waiting.values()):
            task.cancel()
