"""The remote decorator for functions."""

from __future__ import annotations

from collections.abc import Callable

from pyray import definitions, placement
from pyray._core import shm, tasks
from pyray._core.annotations import Any
from pyray.options import DEFAULTS, check_options, resource_request

# Codes of a function's flags (the inspect module is not imported for them: it costs 10 ms).
_VARARGS = 0x04
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200


class RemoteFunction:
    """A function whose calls run in worker processes; made by :func:`pyray.remote`.

    Attributes
    ----------
    remote : callable
        ``f.remote(*args, **kwargs)`` submits a call and returns its ObjectID at once: a list of
        them with ``num_returns`` above 1, None with 0, an ObjectRefGenerator if it is a generator.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... def double(x):
    ...     return 2 * x
    >>> ray.get(double.remote(21))
    42
    """

    def __init__(
        self,
        function: Callable[..., Any],
        options: dict[str, Any],
        shared: _Shared | None = None,
    ) -> None:
        self._function = function
        self._options = {**DEFAULTS, **options}
        if self._options["num_returns"] is None and _code_flags(function) & _GENERATOR:
            self._options["num_returns"] = "streaming"
        self._shared = shared or _Shared(function)
        name = self._options["name"] or getattr(function, "__name__", None)
        self._name: str = name or type(function).__name__
        self.__name__ = getattr(function, "__name__", self._name)
        self.__qualname__ = getattr(function, "__qualname__", self._name)
        self.__module__ = getattr(function, "__module__", None) or "builtins"
        self.__doc__ = getattr(function, "__doc__", None)
        self.__wrapped__ = function
        self.remote = tasks.Caller(self, self._bind, self._check_call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"the remote function {self._name} cannot be called directly: call "
            f"{self._name}.remote(...) and get() the result"
        )

    def __repr__(self) -> str:
        return f"RemoteFunction({self.__module__}.{self.__qualname__})"

    def __class_getitem__(cls, item: Any) -> type[RemoteFunction]:
        return cls  # for annotations

    def __get__(self, instance: Any, owner: type | None = None) -> RemoteFunction:
        # Without this a remote function kept as a class attribute would still work, but
        # `instance.f.remote(x)` reads as if it passed the instance: it does not.
        return self

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options for the calls made through what this returns.

        Raises
        ------
        TypeError, ValueError
            An unknown option or a bad value.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... def pair():
        ...     return 1, 2
        >>> ray.get(pair.options(num_returns=2).remote())
        [1, 2]
        """
        changed = check_options(options, f"{self._name}.options()")
        return RemoteFunction(self._function, {**self._options, **changed}, self._shared)

    def __reduce__(self) -> tuple[Any, ...]:
        given = {k: v for k, v in self._options.items() if v != DEFAULTS[k]}
        if shm.attached() and not shm.forked():
            # By number, not by value: a function may refer to itself, or to one that refers back.
            reference, meta = self._shared.reference(self._name)
            return _rebuild, (reference, meta, self._name, given)
        return RemoteFunction, (self._function, given)

    # -- binding to a session

    def _bind(self, caller: Any) -> Callable[..., Any] | None:
        """Fill in what a call needs of the session; called at the first call in each."""
        from pyray import session

        current = session.require()
        low, high = self._shared.arity()
        caller.min_args, caller.max_args = low, high
        options = self._options
        caller.max_retries = options["max_retries"]
        caller.flags = tasks.RETRY_EXCEPTIONS if options["retry_exceptions"] else 0
        if options["writable"]:
            caller.flags |= tasks.WRITABLE
        window = options["_generator_backpressure_num_objects"] or 0
        n = options["num_returns"]
        caller.returns(1 if n is None else n, max(0, window))
        request = resource_request(options)
        env = current.environment(options["runtime_env"])
        place = placement.place_of(options, self._name)
        # Raises if it can never run.
        caller.shape = current.shape(request, self._name, env=env, place=place)
        if current.local_mode:
            return self._run_here
        caller.func = self._shared.number(self._meta())
        caller.bound()
        return None

    def _meta(self) -> tuple[Any, ...]:
        retry = self._options["retry_exceptions"]
        max_calls = self._options["max_calls"]
        if max_calls is None:
            # As Ray's: a process that has used a GPU keeps its memory until it ends.
            max_calls = 1 if self._options["num_gpus"] else 0
        return (self._name, retry if isinstance(retry, tuple) else None, max_calls)

    def _check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._shared.check_call(self._name, args, kwargs)

    def _run_here(self, *args: Any, **kwargs: Any) -> Any:
        """local_mode: run the call now, in this process."""
        from pyray import local_mode

        self._check_call(args, kwargs)
        return local_mode.call(self._function, self._name, self._options, args, kwargs)


class _Shared:
    """What a remote function and its ``.options()`` variants have in common."""

    def __init__(
        self, function: Callable[..., Any] | None, known: tuple[int, tuple[Any, ...]] | None = None
    ) -> None:
        self._function = function
        # Number and meta of its definition, from the process that it came from.
        self._known = known
        self._numbers: dict[Any, int] = {}
        self._epoch = -1
        self._accepted: set[Any] = set()
        self._signature: Any = None

    def function(self) -> Callable[..., Any]:
        if self._function is None:
            assert self._known is not None
            self._function = definitions.import_definition(self._known[0])
        return self._function

    def _fresh(self) -> None:
        if self._epoch != shm.epoch():
            self._numbers.clear()
            self._epoch = shm.epoch()

    def reference(self, name: str) -> tuple[int, tuple[Any, ...]]:
        """Number of the definition that holds the function itself, and its meta."""
        self._fresh()
        if self._known is not None:
            return self._known
        if not self._numbers:
            meta = (name, None, 0)
            self._numbers[meta] = definitions.export(self._function, extra=meta)
        first = next(iter(self._numbers))
        return self._numbers[first], first

    def number(self, meta: tuple[Any, ...]) -> int:
        """Number of the definition of the function with this name, retry classes and max_calls."""
        reference, known = self.reference(meta[0])
        if meta == known:
            return reference
        number = self._numbers.get(meta)
        if number is None:
            number = definitions.export(reference, key=meta, extra=meta)
            self._numbers[meta] = number
        return number

    def arity(self) -> tuple[int, int]:
        """Least and greatest number of positional arguments that need no closer look."""
        if self._function is None:
            return 0, 2**31  # the worker that runs it will say
        code = getattr(self._function, "__code__", None)
        if code is None or not hasattr(code, "co_flags"):
            return 0, -1
        required = getattr(self._function, "__kwdefaults__", None) or {}
        if code.co_kwonlyargcount > len(required) or hasattr(self._function, "__wrapped__"):
            return 0, -1
        bound = 1 if getattr(self._function, "__self__", None) is not None else 0
        most = code.co_argcount - bound
        least = most - len(getattr(self._function, "__defaults__", None) or ())
        if code.co_flags & _VARARGS:
            most = 2**31
        return least, most

    def check_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise the TypeError that the call would raise, without making it."""
        shape = (len(args), *kwargs)
        if shape in self._accepted:
            return
        if self._signature is None:
            import inspect

            try:
                self._signature = inspect.signature(self.function())
            except (TypeError, ValueError):
                self._signature = False  # a builtin that does not tell
        if self._signature:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as problem:
                raise TypeError(f"{name}.remote(): {problem}") from None
        if len(self._accepted) < 1000:
            self._accepted.add(shape)


def _rebuild(
    reference: int, meta: tuple[Any, ...], name: str, options: dict[str, Any]
) -> RemoteFunction:
    """A remote function in another process: its body is looked up when it is needed."""
    shared = _Shared(None, (reference, meta))
    function = _Placeholder(name)
    return RemoteFunction(function, {**options, "name": options.get("name") or name}, shared)


class _Placeholder:
    """Stands for a function whose definition has not been needed here."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.__qualname__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.__name__} is a remote function: call {self.__name__}.remote(...)")


def remote(*args: Any, **options: Any) -> Any:
    """Make a function remote: its calls run in worker processes.

    Bare (``@remote``) or with options (``@remote(num_cpus=2)``); also ``remote(function)``, which
    is how Cython functions are made remote.

    Parameters
    ----------
    num_cpus : float, default 1
        CPUs that a call holds while it runs; given back while it waits in ``get`` or ``wait``.
    num_gpus : float, default 0
        GPUs that a call holds until it ends; see :func:`pyray.get_gpu_ids`.
    resources : dict of str to float, optional
        Custom resources, by the names given to :func:`pyray.init`.
    memory : int, optional
        Bytes of memory to reserve.
    num_returns : int, "streaming" or "dynamic", default 1, of a generator "streaming"
        Number of values that the function returns (as a tuple or list) or yields; each gets an
        ObjectID. "streaming": the call returns an :class:`ObjectRefGenerator`, which gives an
        ObjectID for each value as soon as it was yielded. "dynamic": it returns one ObjectID,
        whose value is a list of such. ``num_return_vals`` is its old name.
    _generator_backpressure_num_objects : int, optional
        With "streaming": the generator waits while so many values have been yielded and not taken
        by the caller; -1 or None: it does not wait.
    max_calls : int, default 0
        A worker that has run the function this often is replaced; 0: never. 1 for GPU tasks.
    max_retries : int, default 3
        How often a call is run again when its worker dies; -1: without limit.
    retry_exceptions : bool or list of exception classes, default False
        Whether (or after which exceptions) a call that raises is run again, `max_retries` times.
    name : str, optional
        Name in errors and output; default: the function's.
    runtime_env : dict, optional
        Environment variables, working directory and modules of its calls, which then have processes
        of their own; see `pyray.runtime_env.RuntimeEnv`.
    scheduling_strategy : optional
        A placement group to run in: see `pyray.util.scheduling_strategies`. Other strategies make
        no difference on one machine.
    writable : bool, default False
        Have the arrays among its arguments as copies of its own, which it may write to, large ones
        copied page by page as it does; see the page on copy on write. Of a class: for its
        constructor and all its methods.

    Returns
    -------
    RemoteFunction

    Raises
    ------
    TypeError, ValueError
        Something that is not a function, an async function, an unknown option, a bad value.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote(num_returns=2)
    ... def divide(a, b):
    ...     return divmod(a, b)
    >>> ray.get(divide.remote(7, 2))
    [3, 1]
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make(args[0], {})
    if args or not options:
        raise TypeError(
            "remote is used as @remote, as @remote(option=...), or as remote(function); "
            f"it was given {args[0]!r}"
            if args
            else "remote() needs a function or options: @remote, or @remote(num_cpus=2)"
        )
    _check_early(options)

    def decorate(function: Any) -> Any:
        return _make(function, options)

    return decorate


def _check_early(options: dict[str, Any]) -> None:
    """Refuse options that are right for neither functions nor classes, before either is seen."""
    try:
        check_options(options)
    except (TypeError, ValueError) as problem:
        from pyray.actor_options import check_actor_options

        try:
            check_actor_options(options)
        except (TypeError, ValueError):
            raise problem from None


def _make(function: Any, options: dict[str, Any]) -> Any:
    if isinstance(function, RemoteFunction):
        raise TypeError(f"{function._name} is a remote function already")
    if isinstance(function, type):
        from pyray.actor import ActorClass
        from pyray.actor_options import check_actor_options

        return ActorClass(function, check_actor_options(options))
    options = check_options(options)
    if not callable(function):
        raise TypeError(f"remote needs a function, not {function!r}")
    if _code_flags(function) & (_COROUTINE | _ASYNC_GENERATOR):
        raise ValueError(
            f"{function.__name__} is an async function, which cannot be a task: make it a method "
            "of an actor, or run the coroutine inside a plain function, with asyncio.run"
        )
    return RemoteFunction(function, options)


def _code_flags(function: Any) -> int:
    flags: int = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return flags
