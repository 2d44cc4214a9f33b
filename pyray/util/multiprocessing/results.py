"""What the pool's asynchronous calls return, with the interface of the standard library's."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import TimeoutError
from typing import Any

import pyray as ray
from pyray.util.multiprocessing.threads import SerialThread

__all__ = ["AsyncResult", "IMapIterator", "PoolTerminatedError"]


class PoolTerminatedError(ray.exceptions.RayError, RuntimeError):
    """The pool was terminated before this result was there.

    With the standard pool, whoever waits for such a result waits for ever.

    Examples
    --------
    >>> import time
    >>> from pyray.util.multiprocessing import Pool, PoolTerminatedError
    >>> with Pool(1) as pool:
    ...     result = pool.apply_async(time.sleep, (60,))
    >>> try:
    ...     result.get()
    ... except PoolTerminatedError:
    ...     print("terminated")
    terminated
    """


class Result:
    """A call of the pool's: its chunks tell it how they ended, in any order.

    Parameters
    ----------
    forget : callable
        Called with the result once it is complete.
    """

    def __init__(self, forget: Callable[[Any], object]) -> None:
        self._forget = forget

    def chunk_done(self, index: int, ok: bool, value: Any) -> None:
        """Note what a chunk returned, or the exception that it raised."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Give up what is not there yet."""
        raise NotImplementedError


class AsyncResult(Result):
    """What ``apply_async`` returns: the result of one call that may not have finished yet.

    Examples
    --------
    >>> from pyray.util.multiprocessing import Pool
    >>> with Pool(1) as pool:
    ...     result = pool.apply_async(divmod, (7, 2))
    ...     result.get(timeout=30)
    (3, 1)
    """

    def __init__(
        self,
        forget: Callable[[Any], object],
        callbacks: SerialThread,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(forget)
        self._callbacks = callbacks
        self._callback = callback
        self._error_callback = error_callback
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._complete = False
        self._ok = False
        self._value: Any = None

    def ready(self) -> bool:
        """Whether the call has finished.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(abs, (-1,))
        ...     result.wait()
        ...     result.ready()
        True
        """
        return self._ready.is_set()

    def successful(self) -> bool:
        """Whether the call has finished without raising.

        Raises
        ------
        ValueError
            It has not finished.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(abs, (-1,))
        ...     result.wait()
        ...     result.successful()
        True
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._ok

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has finished, for so many seconds at most.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.apply_async(abs, (-1,)).wait(timeout=30)
        """
        self._ready.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The result; waits for it, for so many seconds at most.

        Raises
        ------
        multiprocessing.TimeoutError
            The call did not finish in time.
        PoolTerminatedError
            The pool was terminated before it finished.
        RayActorError
            The process that ran the call died.
        Exception
            Whatever the call raised, with the traceback of the other process as its cause.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.apply_async(abs, (-1,)).get(timeout=30)
        1
        """
        self.wait(timeout)
        if not self.ready():
            raise TimeoutError
        if self._ok:
            return self._value
        raise self._value

    # ---- from the pool

    def chunk_done(self, index: int, ok: bool, value: Any) -> None:
        self._finish(ok, value)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            if self._complete:
                return
            self._complete = True
        # Nobody's callback waits for this: the standard pool would not call it at all.
        self._ok, self._value = False, error
        self._ready.set()
        self._forget(self)

    def _finish(self, ok: bool, value: Any) -> None:
        with self._lock:
            if self._complete:
                return
            self._complete = True
        self._ok, self._value = ok, value
        call = self._callback if ok else self._error_callback
        if call is None:
            self._published()
        else:
            self._callbacks.submit(self._call_back, call)

    def _call_back(self, call: Callable[[Any], object]) -> None:
        # Before anybody who waits goes on, as in the standard pool: after get() it has been called.
        try:
            call(self._value)
        finally:
            self._published()

    def _published(self) -> None:
        self._callback = self._error_callback = None
        self._ready.set()
        self._forget(self)


class MapResult(AsyncResult):
    """What ``map_async`` returns: the list of all results, or the first error."""

    def __init__(
        self,
        forget: Callable[[Any], object],
        callbacks: SerialThread,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        chunksize: int,
        length: int,
    ) -> None:
        super().__init__(forget, callbacks, callback, error_callback)
        self._chunksize = chunksize
        self._items: list[Any] = [None] * length
        self._left = -(-length // chunksize)
        self._error: BaseException | None = None
        if not length:
            # The standard pool calls no callback here.
            self._complete = self._ok = True
            self._value = self._items
            self._ready.set()

    def chunk_done(self, index: int, ok: bool, value: Any) -> None:
        if ok:
            start = index * self._chunksize
            self._items[start : start + self._chunksize] = value
        elif self._error is None:
            self._error = value
        self._left -= 1
        # All are waited for, even after an error: who catches it may start something else, and
        # would not expect the rest of this to run beside it.
        if not self._left:
            self._finish(self._error is None, self._items if self._error is None else self._error)


class IMapIterator(Result):
    """What ``imap`` and ``imap_unordered`` return: an iterator over results as they come.

    An item whose call raised raises where it would have come; the iterator goes on after it.

    Examples
    --------
    >>> from pyray.util.multiprocessing import Pool
    >>> with Pool(1) as pool:
    ...     results = pool.imap(abs, [-1, -2])
    ...     results.next(timeout=30), next(results)
    (1, 2)
    """

    def __init__(self, forget: Callable[[Any], object], ordered: bool) -> None:
        super().__init__(forget)
        self._ordered = ordered
        self._changed = threading.Condition(threading.Lock())
        self._items: deque[tuple[bool, Any]] = deque()
        self._early: dict[int, tuple[bool, Any]] = {}
        self._chunks = 0
        self._length: int | None = None

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for it.

        Raises
        ------
        multiprocessing.TimeoutError
            It did not come in time.
        StopIteration
            There are no more.

        Examples
        --------
        >>> from pyray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     pool.imap(abs, [-1]).next(timeout=30)
        1
        """
        try:
            ok, value = self._items.popleft()
        except IndexError:
            with self._changed:
                if not self._changed.wait_for(lambda: self._items or self._at_end(), timeout):
                    raise TimeoutError from None
                if not self._items:
                    raise StopIteration from None
                ok, value = self._items.popleft()
        if ok:
            return value
        raise value

    def _at_end(self) -> bool:
        return self._chunks == self._length

    # ---- from the pool

    def chunk_done(self, index: int, ok: bool, value: Any) -> None:
        with self._changed:
            if self._at_end():
                return  # given up before
            self._early[index] = ok, value
            ready = itertools.count(self._chunks) if self._ordered else iter((index,))
            for number in ready:
                if number not in self._early:
                    break
                ok, value = self._early.pop(number)
                self._items.extend((True, item) for item in value) if ok else self._items.append(
                    (False, value)
                )
                self._chunks += 1
            self._noticed()

    def set_length(self, chunks: int) -> None:
        """Say how many chunks there are, once that is known."""
        with self._changed:
            if self._length is None:
                self._length = chunks
                self._noticed()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            if self._at_end():
                return
            self._early.clear()
            self._items.append((False, error))
            self._length = self._chunks
            self._noticed()

    def _noticed(self) -> None:
        self._changed.notify_all()
        if self._at_end():
            self._forget(self)
