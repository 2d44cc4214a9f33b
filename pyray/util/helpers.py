"""Results as they come: of calls that have been made, or of one function over many items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyray as ray

__all__ = ["as_completed", "map_unordered"]


def as_completed(
    refs: Sequence[Any],
    *,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **wait_options: Any,
) -> Iterator[Any]:
    """Yield the results of calls in the order in which they finish.

    Parameters
    ----------
    refs : sequence of ObjectRef
        No id twice.
    chunk_size : int, default 10
        Accepted for the sake of Ray's programs.  A result is never held back until a chunk of them
        is there, as it is in Ray.
    yield_obj_refs : bool, default False
        Yield the ids instead of the values: an error is then raised where you `get` it, and does
        not end the iteration.
    **wait_options
        ``timeout`` (seconds to wait for the next result) and ``fetch_local`` of :func:`pyray.wait`.

    Yields
    ------
    object or ObjectRef

    Raises
    ------
    ValueError
        `chunk_size` is below 1, or an id occurs twice.
    GetTimeoutError
        No call finished for ``timeout`` seconds.
    RayError
        What a call raised; it ends the iteration.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... def square(x):
    ...     return x * x
    >>> sorted(ray.util.as_completed([square.remote(i) for i in range(4)]))
    [0, 1, 4, 9]
    """
    _check_chunk(chunk_size)
    options = _wait_options(wait_options)
    return _values(_completed(list(refs), options), yield_obj_refs)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **wait_options: Any,
) -> Iterator[Any]:
    """Call a remote function on each of many items; yield the results in the order they finish.

    Items are taken as they are needed, so they may be without end.

    Parameters
    ----------
    fn : RemoteFunction or a method of an actor
        Anything with a ``remote``, called with one item.
    items : iterable
        The items.
    backpressure_size : int, optional
        Calls under way at a time; None: all at once.  Default 100.
    chunk_size : int, default 10
        Accepted for the sake of Ray's programs; a result is never held back for others.
    yield_obj_refs : bool, default False
        Yield ids instead of values.
    **wait_options
        ``timeout`` and ``fetch_local`` of :func:`pyray.wait`.

    Yields
    ------
    object or ObjectRef

    Raises
    ------
    TypeError
        `fn` is no remote function.
    ValueError
        `backpressure_size` or `chunk_size` is below 1.
    GetTimeoutError
        No call finished for ``timeout`` seconds.
    RayError
        What a call raised; it ends the iteration.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... def square(x):
    ...     return x * x
    >>> sorted(ray.util.map_unordered(square, range(4), backpressure_size=2))
    [0, 1, 4, 9]
    """
    _check_chunk(chunk_size)
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError(
            f"backpressure_size is the number of calls under way, 1 or more or None for all of "
            f"them, not {backpressure_size!r}"
        )
    if not callable(getattr(fn, "remote", None)):
        raise TypeError(
            f"map_unordered needs a remote function, not {fn!r}; make it one with ray.remote(...)"
        )
    options = _wait_options(wait_options)
    return _values(_mapped(fn, iter(items), backpressure_size, options), yield_obj_refs)


def _check_chunk(size: int) -> None:
    if size < 1:
        raise ValueError(f"chunk_size is 1 or more, not {size!r}")


def _wait_options(given: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - {"timeout", "fetch_local"})
    if unknown:
        raise TypeError(f"no option {unknown[0]!r}: those of wait are timeout and fetch_local")
    return given


def _values(refs: Iterator[Any], as_they_are: bool) -> Iterator[Any]:
    return refs if as_they_are else map(ray.get, refs)


def _next_ready(pending: list[Any], options: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Wait for one; then take all that are there, so that n results cost far fewer than n looks."""
    ready, _ = ray.wait(pending, num_returns=1, **options)
    if not ready:
        raise ray.exceptions.GetTimeoutError(
            f"none of {len(pending)} calls finished within {options['timeout']:g} s"
        )
    return ray.wait(pending, num_returns=len(pending), timeout=0)


def _completed(pending: list[Any], options: dict[str, Any]) -> Iterator[Any]:
    while pending:
        ready, pending = _next_ready(pending, options)
        # Let go of each as it is taken: values that have been used are to leave the store.
        ready.reverse()
        while ready:
            yield ready.pop()


def _mapped(
    fn: Any, items: Iterator[Any], limit: int | None, options: dict[str, Any]
) -> Iterator[Any]:
    pending = [fn.remote(item) for item in islice(items, limit)]
    while pending:
        ready, pending = _next_ready(pending, options)
        # As many new ones as have finished, and before anything is yielded: whoever takes the
        # results may be slow.
        pending += [fn.remote(item) for item in islice(items, len(ready))]
        ready.reverse()
        while ready:
            yield ready.pop()
