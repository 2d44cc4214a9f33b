"""The actor that is one process of a `pyray.util.multiprocessing.Pool`.

Not in that package, which imports much of the standard library: each process would, at its start.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pyray as ray

__all__ = ["APPLY", "MAP", "STARMAP", "PoolWorker"]

# What a chunk holds: the arguments of one call, one argument each, or a tuple of arguments each.
APPLY, MAP, STARMAP = 0, 1, 2

_MARK = "__pyray_pool__"


class PoolWorker:
    """Calls functions; begins with the pool's initializer.

    Parameters
    ----------
    initializer : callable or None
        Called first.
    initargs : tuple
        Its arguments.
    """

    def __init__(self, initializer: Callable[..., object] | None, initargs: Iterable[Any]) -> None:
        self._problem: Exception | None = None
        # The global variables that the initializer has set, and their module.
        self._set: dict[str, Any] = {}
        self._module: str | None = None
        self._last: tuple[Any, Callable[..., Any]] | None = None
        if initializer is None:
            return
        scope = _globals(initializer)
        before = dict(scope)
        try:
            initializer(*initargs)
        except Exception as error:
            self._problem = error  # told by ready(), so that it is the exception itself
        self._set = {
            name: value
            for name, value in scope.items()
            if name not in before or before[name] is not value
        }
        self._module = scope.get("__name__")
        scope[_MARK] = self

    def ready(self) -> None:
        """Raise what the initializer raised."""
        if self._problem is not None:
            raise self._problem

    def run(self, function: Any, items: Any, kind: int) -> Any:
        """Call the function on a chunk: its result, or a list of them."""
        if type(function) is list:
            function = self._fetch(function[0])
        if self._set:
            self._share(function)
        if kind == MAP:
            return list(map(function, items))
        if kind == STARMAP:
            return list(itertools.starmap(function, items))
        args, named = items
        return function(*args, **named)

    def _fetch(self, ref: Any) -> Callable[..., Any]:
        """The function that many chunks have in common, unpickled for the first of them."""
        if self._last is None or self._last[0] != ref:
            self._last = ref, ray.get(ref)
        return self._last[1]

    def _share(self, function: Callable[..., Any]) -> None:
        """Have a function see the global variables that the initializer has set.

        Functions of an importable module share its variables anyway.  Those of ``__main__`` (and
        local ones) are pickled, and unpickled each with global variables of its own; but to begin
        with ``global table; table = load()`` is what initializers are there for.  Once a function
        has seen them they are its own: it may set them anew.
        """
        scope = _globals(function)
        if scope.get("__name__") == self._module and scope.get(_MARK) is not self:
            scope.update(self._set)
            scope[_MARK] = self


def _globals(function: Any) -> dict[str, Any]:
    """The global variables of a function that was pickled, be it a method or in a partial.

    Nothing for one that was imported: its variables are its module's, and no business of ours.
    """
    for _ in range(8):
        found = getattr(function, "__globals__", None)
        if isinstance(found, dict):
            module = sys.modules.get(found.get("__name__", ""))
            return {} if module is not None and module.__dict__ is found else found
        inner = getattr(function, "__func__", None) or getattr(function, "func", None)
        function = type(function).__call__ if inner is None else inner
    return {}
