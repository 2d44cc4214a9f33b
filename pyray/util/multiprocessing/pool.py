"""Pool: `multiprocessing.pool.Pool` with actors as its processes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyray as ray
from pyray.util.multiprocessing.engine import Chunk, Engine
from pyray.util.multiprocessing.results import AsyncResult, IMapIterator, MapResult, Result
from pyray.util.pool_worker import APPLY, MAP, STARMAP

__all__ = ["Pool"]

_Callback = Callable[[Any], object]

# Of an iterable that has no length, so many chunks for each process are taken ahead.
_AHEAD = 16


class Pool:
    """The standard library's process pool, with actors as its processes.

    All methods behave as those of ``multiprocessing.Pool``, apart from what `Notes` says.

    Parameters
    ----------
    processes : int, optional
        Number of processes; default: the session's CPUs, or the machine's if it has to be begun.
    initializer : callable, optional
        Called in each process before anything else.
    initargs : iterable, optional
        Its arguments.
    maxtasksperchild : int, optional
        A process that has worked on so many chunks (calls of ``apply``) is replaced by a fresh one.
    context : optional
        Accepted and ignored.
    ray_address : str, optional
        Passed to :func:`pyray.init`, if there is no session yet.
    ray_remote_args : dict, optional
        Options of the actors, as ``A.options()`` takes them.  By default they hold no CPU, so there
        can be more of them than CPUs.

    Raises
    ------
    TypeError, ValueError
        `processes` or `maxtasksperchild` is no positive whole number, `initializer` cannot be
        called, or `ray_remote_args` has an option that there is not.

    Notes
    -----
    Better than the standard pool: functions may be lambdas and local ones; a process that dies
    makes its call raise ``RayActorError`` instead of never ending, and is replaced; an initializer
    that raises makes all calls raise that instead of being called for ever; ``terminate()`` makes
    results that are not there raise ``PoolTerminatedError``; a callback that raises is reported and
    ends nothing; ``imap`` takes items as they are needed, so they may be without end.

    Different: arrays in arguments and results are read-only (copy one to write to it).

    Examples
    --------
    >>> from pyray.util.multiprocessing import Pool
    >>> with Pool(processes=2) as pool:
    ...     pool.map(lambda x: x * x, range(5))
    [0, 1, 4, 9, 16]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if processes is not None:
            _positive(processes, "Number of processes must be at least 1", "processes")
        if maxtasksperchild is not None:
            message = "maxtasksperchild must be a positive int or None"
            _positive(maxtasksperchild, message, "maxtasksperchild")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if ray_remote_args is not None and not isinstance(ray_remote_args, dict):
            raise TypeError(f"ray_remote_args is a dict of options, not {ray_remote_args!r}")
        if not ray.is_initialized():
            ray.init(address=ray_address, num_cpus=processes, ignore_reinit_error=True)
        if processes is None:
            processes = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._processes = processes
        self._engine = Engine(
            processes, initializer, initargs or (), maxtasksperchild, ray_remote_args or {}
        )

    def __repr__(self) -> str:
        state = "CLOSE" if self._engine.closed else "RUN"
        return f"<{type(self).__module__}.Pool state={state} pool_size={self._processes}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError(
            "pool objects cannot be passed between processes or pickled; make one where it is used"
        )

    # ---- one call

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwds: dict[str, Any] | None = None,
        *,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function in a process, and wait for what it returns.

        Parameters
        ----------
        func : callable
            The function.
        args : iterable, optional
            Its arguments.
        kwds : dict, optional
            Its named arguments; `kwargs` is Ray's name for them.

        Raises
        ------
        ValueError
            The pool was closed.
        Exception
            See :meth:`AsyncResult.get`.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.apply(int, ("ff",), {"base": 16})
        255
        """
        return self.apply_async(func, args, kwds, kwargs=kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwds: dict[str, Any] | None = None,
        callback: _Callback | None = None,
        error_callback: _Callback | None = None,
        *,
        kwargs: dict[str, Any] | None = None,
    ) -> AsyncResult:
        """Have a function called in a process; returns at once.

        Parameters
        ----------
        func, args, kwds, kwargs
            As :meth:`apply`.
        callback : callable, optional
            Called with the result, in a thread of the pool's.
        error_callback : callable, optional
            Called with the exception, if it raises.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.apply_async(abs, (-1,), callback=print).get()
        1
        1
        """
        engine = self._engine
        result = AsyncResult(engine.forget, engine.callbacks, callback, error_callback)
        items = (tuple(args or ()), dict(kwds or kwargs or {}))
        if engine.open(result):
            engine.add(iter((Chunk(result, 0, func, items, APPLY),)))
        return result

    # ---- all at once

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call a function on each item; the list of results, in the items' order.

        Parameters
        ----------
        func : callable
            Takes one argument.
        iterable : iterable
            The items.
        chunksize : int, optional
            Items that a process is given at a time; default: a quarter of its share.

        Raises
        ------
        ValueError
            The pool was closed, or `chunksize` is below 1.
        Exception
            What the first call to raise has raised, once all have ended.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.map(abs, [-1, -2])
        [1, 2]
        """
        return self._map(func, iterable, MAP, chunksize, None, None).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: _Callback | None = None,
        error_callback: _Callback | None = None,
    ) -> AsyncResult:
        """The same as :meth:`map`, without waiting.

        Parameters
        ----------
        func, iterable, chunksize
            As :meth:`map`.
        callback, error_callback : callable, optional
            As :meth:`apply_async`; called once, with the list or the first exception.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.map_async(abs, [-1, -2]).get()
        [1, 2]
        """
        return self._map(func, iterable, MAP, chunksize, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """The same as :meth:`map`, for items that are tuples of arguments.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.starmap(divmod, [(7, 2), (9, 4)])
        [(3, 1), (2, 1)]
        """
        return self._map(func, iterable, STARMAP, chunksize, None, None).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: _Callback | None = None,
        error_callback: _Callback | None = None,
    ) -> AsyncResult:
        """The same as :meth:`map_async`, for items that are tuples of arguments.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.starmap_async(divmod, [(7, 2)]).get()
        [(3, 1)]
        """
        return self._map(func, iterable, STARMAP, chunksize, callback, error_callback)

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        kind: int,
        chunksize: int | None,
        callback: _Callback | None,
        error_callback: _Callback | None,
    ) -> MapResult:
        engine = self._engine
        if engine.closed:
            raise ValueError("Pool not running")  # before the items are taken
        items = iterable if isinstance(iterable, (list, tuple, range)) else list(iterable)
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (4 * self._processes)))
        _check_chunksize(chunksize)
        result = MapResult(
            engine.forget, engine.callbacks, callback, error_callback, chunksize, len(items)
        )
        if items and engine.open(result):
            func = engine.shared(result, func) if len(items) > chunksize else func
            engine.add(_chunks(result, func, items, kind, chunksize))
        return result

    # ---- as they come

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator:
        """Call a function on each item; an iterator over the results, in the items' order.

        Parameters
        ----------
        func : callable
            Takes one argument.
        iterable : iterable
            The items; taken in another thread, as processes become free.
        chunksize : int, default 1
            Items that a process is given at a time.

        Returns
        -------
        IMapIterator
            Its ``next(timeout)`` waits for so many seconds at most.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     list(pool.imap(abs, [-1, -2]))
        [1, 2]
        """
        return self._imap(func, iterable, chunksize, True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator:
        """The same as :meth:`imap`, with the results in the order in which they come.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(2) as pool:
        ...     sorted(pool.imap_unordered(abs, [-1, -2]))
        [1, 2]
        """
        return self._imap(func, iterable, chunksize, False)

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        order: bool,
    ) -> IMapIterator:
        engine = self._engine
        if engine.closed:
            raise ValueError("Pool not running")
        chunksize = 1 if chunksize is None else chunksize
        _check_chunksize(chunksize)
        result = IMapIterator(engine.forget, order)
        if isinstance(iterable, (list, tuple, range)):
            if iterable and engine.open(result):
                func = engine.shared(result, func) if len(iterable) > chunksize else func
                engine.add(_chunks(result, func, iterable, MAP, chunksize))
            result.set_length(-(-len(iterable) // chunksize))
            return result
        items = iter(iterable)
        if engine.open(result):
            engine.begin_feeding()
            func = engine.shared(result, func)
            feeder = _Feeder(engine, result, func, items, chunksize, _AHEAD * self._processes)
            threading.Thread(target=feeder.run, name="pyray-pool-items", daemon=True).start()
        return result

    # ---- the end

    def close(self) -> None:
        """Take no more calls; the processes end when those there are have finished.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> pool = Pool(1)
        >>> pool.close()
        >>> pool.join()
        """
        self._engine.close()

    def terminate(self) -> None:
        """End the processes at once; results that are not there yet raise `PoolTerminatedError`.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> pool = Pool(1)
        >>> pool.terminate()
        """
        self._engine.terminate()

    def join(self) -> None:
        """Wait until a pool that was closed or terminated has ended.

        Raises
        ------
        ValueError
            It was neither closed nor terminated.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> pool = Pool(1)
        >>> result = pool.apply_async(abs, (-1,))
        >>> pool.close()
        >>> pool.join()
        >>> result.ready()
        True
        """
        self._engine.join()

    def __enter__(self) -> Pool:
        if self._engine.closed:
            raise ValueError("Pool not running")
        return self

    def __exit__(self, *exception: object) -> None:
        self.terminate()


def _positive(value: Any, message: str, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    if value < 1:
        raise ValueError(message)


def _check_chunksize(size: int) -> None:
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size}")


def _chunks(
    result: Result, func: Any, items: Sequence[Any], kind: int, size: int
) -> Iterator[Chunk]:
    """The chunks of a sequence, each cut when it is needed."""
    for index, start in enumerate(range(0, len(items), size)):
        yield Chunk(result, index, func, list(items[start : start + size]), kind)


class _Feeder:
    """Takes the items of an iterable, in a thread: to ask for the next may take for ever."""

    def __init__(
        self,
        engine: Engine,
        result: IMapIterator,
        func: Any,
        items: Iterator[Any],
        size: int,
        ahead: int,
    ) -> None:
        self._engine = engine
        self._result = result
        self._func = func
        self._items = items
        self._size = size
        self._room = threading.Semaphore(ahead)

    def run(self) -> None:
        try:
            self._result.set_length(self._feed())
        except Exception as error:
            self._result.fail(error)
        finally:
            self._engine.end_feeding()

    def _feed(self) -> int:
        """Add chunks until there are no more items; how many there are."""
        for index in itertools.count():
            while not self._room.acquire(timeout=0.5):
                if self._engine.stopped():
                    return index  # nobody takes chunks any more
            items, error = self._next_items()
            if items:
                chunk = Chunk(self._result, index, self._func, items, MAP)
                self._engine.add(self._source(chunk))
            if error is not None:
                self._result.chunk_done(index + bool(items), False, error)
                return index + bool(items) + 1
            if len(items) < self._size:
                return index + bool(items)
        raise AssertionError

    def _next_items(self) -> tuple[list[Any], Exception | None]:
        items = []
        try:
            for item in itertools.islice(self._items, self._size):
                items.append(item)
        except Exception as error:
            return items, error  # raised where the item would have come
        return items, None

    def _source(self, chunk: Chunk) -> Iterator[Chunk]:
        self._room.release()  # called when a process takes it
        yield chunk
