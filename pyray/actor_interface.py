"""What handles of actors know of a class: its methods, by name and number."""

from __future__ import annotations

from collections.abc import Callable

from pyray._core.annotations import TYPE_CHECKING, Any
from pyray.actor_options import check_method_options
from pyray.frozen import Frozen

if TYPE_CHECKING:
    from typing import TypeVar

    _F = TypeVar("_F", bound=Callable[..., Any])
else:
    _F = Any

_VARARGS = 0x04
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200
# Attribute of a function that `method` has decorated.
_OPTIONS = "__pyray_method__"
# Methods that every actor has; what they do is in pyray.worker.actor.
EVERY_ACTORS = ("__ray_call__", "__ray_ready__", "__ray_terminate__")
ANY_NUMBER = 2**31


def method(*args: Any, **options: Any) -> Any:
    """Give a method of a remote class options of its own; bare, have type checkers know it.

    Parameters
    ----------
    num_returns : int, "streaming" or "dynamic"
        Number of values that it returns, each with an ObjectID of its own; see the page on
        generators for the other two.
    max_task_retries : int
        How often a call is run again when the actor's process dies under it, or it raises an
        exception that `retry_exceptions` allows; -1: without limit.
    retry_exceptions : bool or list of exception classes
        Whether (or after which exceptions) a call that raises is run again.
    concurrency_group : str
        Which of the class's ``concurrency_groups`` it belongs to.
    writable : bool
        Whether the arrays among its arguments are copies of its own, which it may write to;
        default: as it is for the class.

    Raises
    ------
    TypeError, ValueError
        An unknown option or a bad value.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... class Divider:
    ...     @ray.method(num_returns=2)
    ...     def divide(self, a, b):
    ...         return divmod(a, b)
    >>> ray.get(Divider.remote().divide.remote(7, 2))
    [3, 1]
    """
    if len(args) == 1 and not options and callable(args[0]):
        return args[0]
    if args or not options:
        raise TypeError("method is used as @method, or with options: @method(num_returns=2)")
    checked = check_method_options(options)

    def decorate(function: _F) -> _F:
        setattr(function, _OPTIONS, checked)
        return function

    return decorate


def options_of(function: Any) -> dict[str, Any]:
    """The options that `method` has given a function."""
    found: dict[str, Any] = getattr(function, _OPTIONS, {})
    return found


class Method(Frozen):
    """What a handle knows of a method."""

    number: int
    nreturns: int | str
    retries: int | None
    retry_exceptions: bool | None
    group: int
    window: int
    writable: bool | None
    least: int
    most: int


class Interface:
    """What handles know of a class; published once, beside the class itself.

    Attributes
    ----------
    name : str
        Of the class.
    definition : int
        Number of the class's definition.
    methods : dict of str to Method
    groups : tuple of str
        Names of concurrency groups; a group's number is its place, from 1.
    asynchronous : bool
        Some method is a coroutine: all run in one event loop.
    """

    def __init__(self, cls: type, definition: int, groups: tuple[str, ...]) -> None:
        self.name = cls.__name__
        self.definition = definition
        self.groups = groups
        self.methods: dict[str, Method] = {}
        self.asynchronous = False
        for number, name in enumerate(method_names(cls)):
            function = getattr(cls, name, None)
            flags = code_flags(function)
            self.asynchronous |= bool(flags & (_COROUTINE | _ASYNC_GENERATOR))
            options = options_of(function)
            generates = flags & (_GENERATOR | _ASYNC_GENERATOR)
            group = options.get("concurrency_group")
            least, most = _arity(cls, name)
            retry = options.get("retry_exceptions")
            self.methods[name] = Method(
                number,
                options.get("num_returns", "streaming" if generates else 1),
                options.get("max_task_retries"),
                None if retry is None else bool(retry),
                0 if group is None else self.group(group, name),
                max(0, options.get("_generator_backpressure_num_objects", 0)),
                options.get("writable"),
                least,
                most,
            )

    def group(self, name: str, method: str) -> int:
        """Number of a concurrency group."""
        if name not in self.groups:
            raise ValueError(
                f"{self.name}.{method}: there is no concurrency group {name!r}; "
                f"concurrency_groups has {', '.join(self.groups) or 'none'}"
            )
        return self.groups.index(name) + 1


def method_names(cls: type) -> list[str]:
    """Names of a class's methods, in the order of their numbers: the same in every process."""
    names = []
    for name in sorted(dir(cls)):
        if name.startswith("__") and name.endswith("__"):
            owner = next((c for c in cls.__mro__ if name in vars(c)), object)
            if owner is object or name in ("__init__", "__new__", "__reduce_cython__"):
                continue
        value = getattr(cls, name, None)
        if callable(value) and not isinstance(value, type):
            names.append(name)
    return [*names, *EVERY_ACTORS]


def raw_method(cls: type, name: str) -> Any:
    """A method as it stands in its class: a function, staticmethod or classmethod."""
    return next((vars(c)[name] for c in cls.__mro__ if name in vars(c)), None)


def code_flags(function: Any) -> int:
    """Flags of a Python function's code; 0 for others."""
    code = getattr(function, "__code__", None)
    return getattr(code, "co_flags", 0)


def _arity(cls: type, name: str) -> tuple[int, int]:
    """Least and greatest number of positional arguments that need no closer look; (0, -1) if all
    calls do."""
    raw = raw_method(cls, name)
    bound = 0 if isinstance(raw, staticmethod) else 1
    function = getattr(raw, "__func__", raw)
    code = getattr(function, "__code__", None)
    if code is None or not hasattr(code, "co_argcount") or hasattr(function, "__wrapped__"):
        return 0, ANY_NUMBER  # the actor will say
    if code.co_kwonlyargcount > len(getattr(function, "__kwdefaults__", None) or {}):
        return 0, -1
    most = code.co_argcount - bound
    least = most - len(getattr(function, "__defaults__", None) or ())
    if code.co_flags & _VARARGS:
        most = ANY_NUMBER
    return least, most


def bind(name: str, function: Any, skip: int, args: Any, kwargs: Any) -> None:
    """Raise the TypeError that calling the function would raise."""
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # compiled, and does not tell
    try:
        signature.bind(*([None] * skip), *args, **kwargs)
    except TypeError as problem:
        raise TypeError(f"{name}.remote(): {problem}") from None
