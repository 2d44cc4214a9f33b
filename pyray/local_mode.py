"""``init(local_mode=True)``: tasks run at once, in the driver, for debugging.

Values still go through the store, so what is read-only or copied elsewhere is so here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyray._core import tasks
from pyray._core.store import ObjectID
from pyray._core.streams import DynamicObjectRefGenerator, local_generator
from pyray._core.waiting import get
from pyray.exceptions import PyrayError
from pyray.worker.errors import make_error


def call(
    function: Callable[..., Any],
    name: str,
    options: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a call and store what it returns, or raises, under fresh ids.

    With `num_returns` -1 the result itself is returned, or the exception.
    """
    n = options["num_returns"]
    if isinstance(n, str):
        return _yielded(function, name, n, args, kwargs)
    n = 1 if n is None else n
    try:
        result = _run(function, args, kwargs)
        if n < 0:
            return result
        if n > 1:
            result = list(result)
            if len(result) != n:
                raise ValueError(
                    f"{name} was to return {n} values (num_returns), but returned {len(result)}"
                )
        results = [result] if n == 1 else result if n else []
        ids = [tasks.put_result(value, False) for value in results]
    except Exception as error:
        stored = _stored(error, name)
        if n < 0:
            return stored
        ids = [tasks.put_result(stored, True) for _ in range(n)]
    return ids[0] if n == 1 else ids if n else None


def _run(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    values = [get(a) if type(a) is ObjectID else a for a in args]
    named = {k: get(v) if type(v) is ObjectID else v for k, v in kwargs.items()}
    return function(*values, **named)


def _stored(error: Exception, name: str) -> BaseException:
    return error if isinstance(error, PyrayError) else make_error(error, name, False)


def _yielded(
    function: Callable[..., Any],
    name: str,
    how: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a generator to its end; what it yields is kept, and an exception comes last."""
    refs: list[Any] = []
    end = None
    try:
        values = _run(function, args, kwargs)
        if hasattr(values, "__anext__"):
            values = _synchronous(values)
        if not hasattr(values, "__next__"):
            raise ValueError(
                f"{name} was called with num_returns={how!r}, so it has to return a generator; it "
                f"returned a value of type {type(values).__name__}"
            )
        refs.extend(tasks.put_result(value, False) for value in values)
    except Exception as error:
        end = _stored(error, name)
        refs.append(tasks.put_result(end, True))
    if how == "dynamic":
        return tasks.put_result(DynamicObjectRefGenerator(refs), False)
    return local_generator(refs, tasks.put_result(end, end is not None))


def _synchronous(values: Any) -> Any:
    """An async generator's values, one after the other."""
    import asyncio

    with asyncio.Runner() as runner:
        try:
            while True:
                yield runner.run(_following(values))
        except StopAsyncIteration:
            return
        finally:
            runner.run(values.aclose())


async def _following(values: Any) -> Any:
    return await anext(values)
