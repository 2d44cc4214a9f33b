"""ActorPool: calls handed to whichever of some actors is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import pyray as ray

__all__ = ["ActorPool"]


class _Call:
    """One submitted call: waiting for an actor, under way, or failed to start."""

    __slots__ = ("actor", "error", "fn", "refs", "single", "value")

    def __init__(self, fn: Callable[[Any, Any], Any], value: Any) -> None:
        self.fn = fn
        self.value = value
        self.actor: Any = None
        self.refs: list[Any] = []
        self.single = True
        self.error: BaseException | None = None

    def start(self, actor: Any) -> None:
        made = self.fn(actor, self.value)
        single = not isinstance(made, (list, tuple))
        refs = [made] if single else list(made)
        if not refs or not all(isinstance(ref, ray.ObjectRef) for ref in refs):
            raise TypeError(
                f"fn(actor, value) is to return the ObjectRef of a call, not {made!r}; perhaps a "
                ".remote is missing"
            )
        self.actor, self.refs, self.single = actor, refs, single
        self.fn = self.value = None  # type: ignore[assignment]

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return ray.get(self.refs[0] if self.single else self.refs)


class ActorPool:
    """Some actors, and calls that are handed to whichever is free.

    Parameters
    ----------
    actors : list of ActorHandle
        The actors; nobody else should call them meanwhile.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... class Doubler:
    ...     def double(self, x):
    ...         return 2 * x
    >>> pool = ray.util.ActorPool([Doubler.remote(), Doubler.remote()])
    >>> list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3]))
    [2, 4, 6]
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle = list(actors)
        # By number in order of submission, so the first is the one that get_next returns.
        self._calls: dict[int, _Call] = {}
        self._waiting: deque[int] = deque()
        self._count = 0

    def map(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """Submit a call for each value; an iterator over the results in the order of the values.

        What was submitted before is discarded.  The calls are submitted at once, not when the first
        result is asked for.

        Parameters
        ----------
        fn : callable
            ``fn(actor, value)`` makes the call and returns its ObjectRef.
        values : iterable
            Values for `fn`.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ray.util.ActorPool([Doubler.remote()])
        >>> list(pool.map(lambda actor, x: actor.double.remote(x), range(3)))
        [0, 2, 4]
        """
        self._submit_all(fn, values)
        return self._rest(self.get_next)

    def map_unordered(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """The same as :meth:`map`, with the results in the order in which they come.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ray.util.ActorPool([Doubler.remote()])
        >>> sorted(pool.map_unordered(lambda actor, x: actor.double.remote(x), range(3)))
        [0, 2, 4]
        """
        self._submit_all(fn, values)
        return self._rest(self.get_next_unordered)

    def submit(self, fn: Callable[[Any, Any], Any], value: Any) -> None:
        """Hand a call to a free actor, or keep it until one is free.

        A call that is kept starts when a result is taken by :meth:`get_next` or
        :meth:`get_next_unordered`, or an actor added by :meth:`push`.

        Parameters
        ----------
        fn : callable
            ``fn(actor, value)`` makes the call and returns its ObjectRef.
        value : object
            Its second argument.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ray.util.ActorPool([Doubler.remote()])
        >>> pool.submit(lambda actor, x: actor.double.remote(x), 1)
        >>> pool.get_next()
        2
        """
        call = _Call(fn, value)
        if self._idle and not self._waiting:
            actor = self._idle.pop()
            try:
                call.start(actor)
            except BaseException:
                self._idle.append(actor)
                raise
        else:
            self._waiting.append(self._count)
        self._calls[self._count] = call
        self._count += 1

    def has_next(self) -> bool:
        """Whether there are results that have not been taken, finished or not.

        Examples
        --------
        >>> import pyray as ray
        >>> ray.util.ActorPool([]).has_next()
        False
        """
        return bool(self._calls)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission; waits for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.
        ignore_if_timedout : bool, default False
            If the time is up, give this result up: later ones can be taken.

        Raises
        ------
        StopIteration
            Nothing was submitted that has not been taken.
        TimeoutError
            The time is up.
        ValueError
            The call waits for an actor, and the pool has none: :meth:`push` one.
        RayError
            What the call raised; the others can still be taken.

        Notes
        -----
        It may follow :meth:`get_next_unordered`, which in Ray is an error; it then returns the
        first submitted of those that are left.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ray.util.ActorPool([Doubler.remote()])
        >>> pool.submit(lambda actor, x: actor.double.remote(x), 3)
        >>> pool.get_next()
        6
        """
        if not self._calls:
            raise StopIteration("No more results to get")
        number, call = next(iter(self._calls.items()))
        if call.actor is None and call.error is None:
            self._no_actor()
        if timeout is not None and call.refs:
            ready, _ = ray.wait(call.refs, num_returns=len(call.refs), timeout=timeout)
            if len(ready) < len(call.refs):
                self._timed_out(number, ignore_if_timedout, timeout)
        return self._take(number)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """The next result to come; waits for one.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.
        ignore_if_timedout : bool, default False
            If the time is up, give up the result that was submitted first.

        Raises
        ------
        StopIteration
            Nothing was submitted that has not been taken.
        TimeoutError
            The time is up.
        ValueError
            All calls wait for an actor, and the pool has none: :meth:`push` one.
        RayError
            What the call raised; the others can still be taken.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ray.util.ActorPool([Doubler.remote()])
        >>> pool.submit(lambda actor, x: actor.double.remote(x), 3)
        >>> pool.get_next_unordered()
        6
        """
        if not self._calls:
            raise StopIteration("No more results to get")
        under_way = {}
        for number, call in self._calls.items():
            if call.error is not None:
                return self._take(number)
            if call.actor is not None:
                # The last of several: a call's results come together.
                under_way[call.refs[-1]] = number
        if not under_way:
            self._no_actor()
        ready, _ = ray.wait(list(under_way), num_returns=1, timeout=timeout)
        if not ready:
            self._timed_out(next(iter(under_way.values())), ignore_if_timedout, timeout)
        return self._take(under_way[ready[0]])

    def has_free(self) -> bool:
        """Whether an actor is free, and no call waits for one.

        Examples
        --------
        >>> import pyray as ray
        >>> ray.util.ActorPool([]).has_free()
        False
        """
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> Any:
        """Take a free actor out of the pool.

        Returns
        -------
        ActorHandle or None
            None if none is free.

        Examples
        --------
        >>> import pyray as ray
        >>> ray.util.ActorPool([]).pop_idle() is None
        True
        """
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor to the pool; a call that waits for one starts on it.

        Raises
        ------
        ValueError
            It is in the pool already.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ray.util.ActorPool([])
        >>> pool.push(Doubler.remote())
        >>> pool.has_free()
        True
        """
        if actor in self._idle or any(c.actor == actor for c in self._calls.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._freed(actor)

    # ---- inside

    def _submit_all(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> None:
        busy = [c.actor for c in self._calls.values() if c.actor is not None]
        self._calls.clear()
        self._waiting.clear()
        self._idle += busy
        for value in values:
            self.submit(fn, value)

    def _rest(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def _take(self, number: int) -> Any:
        call = self._calls.pop(number)
        if call.actor is not None:
            self._freed(call.actor)
        return call.result()

    def _freed(self, actor: Any) -> None:
        """Start the next call that waits on an actor, or note that it is free."""
        while self._waiting:
            call = self._calls.get(self._waiting.popleft())
            if call is None:
                continue
            try:
                call.start(actor)
                return
            except Exception as error:
                # Somebody is taking another call's result: this is told to who takes its own.
                call.error = error
        self._idle.append(actor)

    def _timed_out(self, number: int, ignore: bool, timeout: float | None) -> NoReturn:
        message = f"Timed out waiting for result: it was not there within {timeout:g} s"
        if ignore:
            call = self._calls.pop(number)
            message += f". The task {call.refs[0]!r} has been ignored."
            self._freed(call.actor)
        raise TimeoutError(message)

    def _no_actor(self) -> NoReturn:
        raise ValueError(
            f"{len(self._waiting)} calls wait for an actor, and the pool has none: push() one"
        )
