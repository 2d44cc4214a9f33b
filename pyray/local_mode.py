"""``init(local_mode=True)``: tasks run at once, in the driver, for debugging.

Values still go through the store, so what is read-only or copied elsewhere is so here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pyray import runtime_env, session
from pyray._core import tasks
from pyray._core.generators import DynamicObjectRefGenerator, local_generator
from pyray._core.store import ObjectID
from pyray._core.waiting import get
from pyray.exceptions import PyrayError
from pyray.options import resource_request
from pyray.worker import environment
from pyray.worker.errors import make_error


class Running(NamedTuple):
    """A call under way, for those who ask what runs."""

    number: int
    name: str
    function: Callable[..., Any]
    resources: dict[str, float]
    env: dict[str, Any] | None


# The environment of the call that runs, while it runs; None outside any.
_env: dict[str, Any] | None = None
# Calls under way, the innermost last.
running: list[Running] = []
_calls = 0


def environment_of(options: dict[str, Any]) -> dict[str, Any]:
    """The runtime environment of what is made here with these options."""
    inherited = _env
    if inherited is None:
        inherited = runtime_env.from_text(session.require().config["session_env"])
    return runtime_env.merge(inherited, options["runtime_env"])


def call(
    function: Callable[..., Any],
    name: str,
    options: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    env: dict[str, Any] | None = None,
) -> Any:
    """Run a call and store what it returns, or raises, under fresh ids.

    With `num_returns` -1 the result itself is returned, or the exception. `env` is the runtime
    environment, if it is not what `options` say and the running call has.
    """
    global _env, _calls
    n = options["num_returns"]
    n = 1 if n is None else n
    refs: list[Any] = []
    outer = _env
    try:
        _env = environment_of(options) if env is None else env
        own = bool(options["writable"])
        if own:
            # What the call writes to is not to be the caller's, as it is not elsewhere.
            args, kwargs = get(tasks.put_call((args, kwargs)), writable=True)
        values = [get(a, writable=own) if type(a) is ObjectID else a for a in args]
        named = {k: get(v, writable=own) if type(v) is ObjectID else v for k, v in kwargs.items()}
        _calls += 1
        since = tasks.counter()
        with environment.applied(_env):
            running.append(Running(_calls, name, function, _resources(options), _env))
            try:
                result = function(*values, **named)
                if isinstance(n, str):
                    for value in _yielded(result, name, n):
                        refs.append(tasks.put_result(value, False, since))
                    return _generator(refs, None, n)
            finally:
                running.pop()
        if n < 0:
            return result
        if n > 1:
            result = list(result)
            if len(result) != n:
                raise ValueError(
                    f"{name} was to return {n} values (num_returns), but returned {len(result)}"
                )
        results = [result] if n == 1 else result if n else []
        ids = [tasks.put_result(value, False, since) for value in results]
    except Exception as error:
        stored = error if isinstance(error, PyrayError) else make_error(error, name, False)
        if isinstance(n, str):
            return _generator([*refs, tasks.put_result(stored, True)], stored, n)
        if n < 0:
            return stored
        ids = [tasks.put_result(stored, True) for _ in range(n)]
    finally:
        _env = outer
    return ids[0] if n == 1 else ids if n else None


def _resources(options: dict[str, Any]) -> dict[str, float]:
    if "num_cpus" not in options:
        return {}  # an actor's method
    return {name: float(n) for name, n in resource_request(options).items() if n}


def _yielded(result: Any, name: str, how: str) -> Any:
    """What a generator yields, an async one too."""
    if hasattr(result, "__anext__"):
        return _synchronous(result)
    if hasattr(result, "__next__"):
        return result
    raise ValueError(
        f"{name} was called with num_returns={how!r}, so it has to return a generator; it "
        f"returned a value of type {type(result).__name__}"
    )


def _generator(refs: list[Any], error: BaseException | None, how: str) -> Any:
    """What the call returns, when all has been yielded."""
    if how == "dynamic":
        return tasks.put_result(DynamicObjectRefGenerator(refs), False)
    return local_generator(refs, tasks.put_result(error, error is not None))


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
