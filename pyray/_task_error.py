"""TaskError, and how an exception travels from the task that raised it to whoever gets it.

The exception goes as a pickle of its own inside the TaskError: exceptions in it (members of a
group, causes and contexts) are taken apart and put together here, since pickle forgets much of what
an exception is: what it was raised from, what C code keeps outside its dictionary, and the
exception itself where its constructor does not take its own ``args``.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from pyray._core.annotations import Any
from pyray._core.errors import PyrayError

# The interpreter and asyncio act on these: raised in the driver they would end it, or the coroutine
# that awaits. They come as plain TaskErrors, whose `cause` they are.
_CONTROL = (KeyboardInterrupt, SystemExit, GeneratorExit)
_CANCELLED = ("asyncio.exceptions", "CancelledError")


class TaskError(PyrayError):
    """A task raised an exception; this is raised by ``get`` in its place.

    It is an instance of the exception's class as well, with its attributes, so that ``except
    ValueError`` and ``except* ValueError`` work; its text is the remote traceback. Ray's name for
    it is ``RayTaskError``.

    Attributes
    ----------
    task : str
        Name of the task.
    pid : int
        Process ID of the worker that ran it.
    remote_traceback : str
        The traceback there. Notes are not in it but in ``__notes__``.
    cause : BaseException or None
        The exception itself, with its ``__cause__``, ``__context__`` and ``__notes__``, unless it
        could not be pickled.
    """

    task: str = ""
    pid: int = 0
    remote_traceback: str = ""
    cause: BaseException | None = None
    _pickled: bytes | None = None
    _part: bool = False  # of the group that the task raised, made by except* or split()

    def as_instanceof_cause(self) -> TaskError:
        """This error as an instance of its cause's class, which ``get`` has seen to already.

        Returns
        -------
        TaskError
            The error itself, or a new one; a plain TaskError if the class does not permit it.
        """
        if self.cause is None or isinstance(self, type(self.cause)):
            return self
        made = _with_class_of(self.cause)
        return self if made is None else _filled(made, self)

    def __str__(self) -> str:
        part = ", of which this is a part," if self._part else ""
        return f"task {self.task} (pid={self.pid}) raised{part}\n{self.remote_traceback}".rstrip()

    def __init_subclass__(cls) -> None:
        """Keeps the user's ``__init_subclass__``, which may register classes, from the duals."""

    def __reduce__(self) -> tuple[Any, ...]:
        blob = self._pickled
        if blob is None and self.cause is not None:
            blob = dump_exception(self.cause)
        fields = _own_fields(self)
        return make_task_error, (self.task, self.pid, self.remote_traceback, blob, fields)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()  # not the user's class's, which may have one


TaskError.__module__ = "pyray.exceptions"

_FIELDS = frozenset(("task", "pid", "remote_traceback", "cause", "_pickled"))


def _own_fields(error: TaskError) -> dict[str, Any]:
    """What somebody has added to the error since it was made from its cause: notes, mostly."""
    known = vars(error.cause) if error.cause is not None else {}
    fields = {}
    for name, value in vars(error).items():
        if name in _FIELDS or (name in known and known[name] is value):
            continue
        if name == "__notes__" and value == known.get(name):
            continue
        fields[name] = value
    return fields


# ---- a TaskError that is the user's class too --------------------------------------------------

# Weak: a class that is defined in a function would otherwise live for ever.
_duals: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()


def _dual(cls: type[BaseException]) -> type:
    """A class that is a TaskError and the user's class at once."""
    found = _duals.get(cls)
    if found is None:
        body: dict[str, Any] = {"__module__": TaskError.__module__}
        if issubclass(cls, BaseExceptionGroup):

            def derive(self: Any, excs: Sequence[BaseException]) -> Any:
                """A part of the group is an error of the same task."""
                return _part_of(self, cls.derive(self, excs))

            body["derive"] = derive
        found = type(f"TaskError({cls.__name__})", (TaskError, cls), body)
        _duals[cls] = found
    return found


def _with_class_of(cause: BaseException) -> Any:
    """The exception as an instance of its dual class, made without calling a user's `__init__`;
    None for what is to come as a plain TaskError."""
    cls = type(cause)
    if isinstance(cause, TaskError) or issubclass(cls, _CONTROL):
        return None
    if any((c.__module__, c.__name__) == _CANCELLED for c in cls.__mro__):
        return None
    try:
        return _copy_as_dual(cause)
    except Exception:
        return None  # a class that cannot be subclassed


def _copy_as_dual(cause: BaseException) -> Any:
    dual = _dual(type(cause))
    args = cause.args
    if isinstance(cause, BaseExceptionGroup):
        # The dual is an Exception, which may hold no others.
        args = (cause.message, [_tamed(e) for e in cause.exceptions])
    error: Any = _new(dual, _native_base(type(cause)), args)
    fields = vars(error)
    fields.update(vars(cause))
    if "__notes__" in fields:
        fields["__notes__"] = list(fields["__notes__"])
    if not isinstance(cause, BaseExceptionGroup):
        _set(error, "args", args)
    set_members(error, members(cause))
    return error


def _tamed(error: BaseException) -> Exception:
    """A member of a group as an Exception: KeyboardInterrupt as a TaskError, and so on."""
    if isinstance(error, Exception):
        return error
    made = _with_class_of(error)
    if made is None:
        made = TaskError()
    vars(made).update(cause=error, remote_traceback=f"{type(error).__name__}: {error}")
    return made  # type: ignore[no-any-return]


def _filled(made: Any, error: TaskError) -> Any:
    vars(made).update({name: value for name, value in vars(error).items() if name in _FIELDS})
    return made


def _part_of(whole: TaskError, part: Any) -> Any:
    """What `derive` of the user's class made, as an error of the same task."""
    made = _with_class_of(part)
    if made is None:
        return part
    _filled(made, whole)
    vars(made).update(cause=part, _pickled=None, _part=True)
    return made


def make_task_error(
    task: str,
    pid: int,
    text: str,
    pickled: bytes | None,
    fields: dict[str, Any] | None = None,
) -> TaskError:
    """Rebuild a TaskError, with the user's class where that is possible.

    Classes that refuse to be subclassed give a plain TaskError that has the exception as its
    `cause`.
    """
    cause = None
    if pickled is not None and not _without_cause():
        try:
            cause = load_exception(pickled)
        except Exception as problem:
            text = f"{text}\n(the exception itself could not be unpickled here: {problem!r})"
    error: Any = None if cause is None else _with_class_of(cause)
    if error is None:
        error = TaskError()
        if cause is not None and "__notes__" in vars(cause):
            error.__notes__ = list(cause.__notes__)
    # Not by setattr: the user's class may be a frozen one.
    vars(error).update(task=task, pid=pid, remote_traceback=text, cause=cause, _pickled=pickled)
    if fields:
        vars(error).update(fields)
    if isinstance(error, BaseExceptionGroup):
        _name_members(error, task, pid)
    return error  # type: ignore[no-any-return]


def _name_members(group: BaseExceptionGroup[Any], task: str, pid: int) -> None:
    """What `_tamed` made comes from the same task."""
    for member in group.exceptions:
        if isinstance(member, TaskError) and not member.task:
            vars(member).update(task=task, pid=pid)
        if isinstance(member, BaseExceptionGroup):
            _name_members(member, task, pid)


# Thread that reads errors for their text alone; see text_only().
_reader_of_text = 0


def _without_cause() -> bool:
    import threading

    return _reader_of_text == threading.get_ident()


class text_only:
    """While this is entered, errors that this thread reads come without their cause, so that no
    code of the user's runs."""

    def __enter__(self) -> None:
        import threading

        global _reader_of_text
        self._before = _reader_of_text
        _reader_of_text = threading.get_ident()

    def __exit__(self, *exc: object) -> None:
        global _reader_of_text
        _reader_of_text = self._before


# ---- exceptions taken apart and put together ---------------------------------------------------

_HEAP_TYPE = 1 << 9  # a class made by a class statement
_CHAIN = ("__cause__", "__context__", "__suppress_context__")
_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__")


def _native_base(cls: type) -> type:
    """The innermost class that is written in C: whose memory layout the class has."""
    return next(c for c in cls.__mro__ if not c.__flags__ & _HEAP_TYPE)


def _new(cls: type, base: type, args: tuple[Any, ...]) -> Any:
    try:
        return base.__new__(cls, *args)
    except TypeError:
        # MemoryError's refuses a dual, whose memory is laid out by BaseException.
        return BaseException.__new__(cls, *args)


def members(error: BaseException) -> dict[str, Any]:
    """What C code keeps outside the dictionary (ImportError.name, OSError.filename), and slots."""
    found = {}
    for base in type(error).__mro__:
        if base in (BaseException, object):
            break
        for name, descriptor in list(base.__dict__.items()):
            if type(descriptor).__name__ in ("member_descriptor", "getset_descriptor"):
                if name in ("__dict__", "__weakref__"):
                    continue
                try:
                    found[name] = getattr(error, name)
                except AttributeError:
                    continue  # a slot that was never filled
    return found


def set_members(error: BaseException, values: dict[str, Any]) -> None:
    for name, value in values.items():
        try:
            if getattr(error, name, error) is not value:
                _set(error, name, value)
        except (AttributeError, TypeError):
            continue  # read-only


def _set(error: BaseException, name: str, value: Any) -> None:
    """setattr of what is no entry of the dictionary; a frozen dataclass's would refuse."""
    for base in type(error).__mro__:
        if name in base.__dict__:
            base.__dict__[name].__set__(error, value)
            return


# AttributeError.obj is what the attribute was looked for on: anything, of any size.
_LEFT_OUT = ("obj",)


def take_apart(error: BaseException, chain: bool) -> tuple[Any, ...]:
    """An exception in the form that ``__reduce__`` gives, everything that belongs to it included.

    Parameters
    ----------
    error : BaseException
        Any.
    chain : bool
        With its cause and context.
    """
    state: dict[str, Any] = {}
    if chain:
        state["chain"] = [getattr(error, name) for name in _CHAIN]
    made = _users_way(error)
    if made is not None:
        function, arguments, *rest = made
        state["state"] = rest[0] if rest else None
        if "__notes__" in vars(error):
            state["notes"] = error.__notes__
        return function, arguments, state, None, None, _complete
    args = error.args
    if isinstance(error, BaseExceptionGroup):
        state["args"] = args
        args = (error.message, error.exceptions)
    state["fields"] = vars(error)
    state["members"] = {k: v for k, v in members(error).items() if k not in _LEFT_OUT}
    return _from_parts, (type(error), args), state, None, None, _complete


def _users_way(error: BaseException) -> tuple[Any, ...] | None:
    """What the class's own ``__reduce__`` gives, if it has one and it works."""
    import copyreg

    cls = type(error)
    way = copyreg.dispatch_table.get(cls)
    if way is None:
        for base in cls.__mro__:
            if base.__module__ == "builtins":
                return None
            if any(name in base.__dict__ for name in _WAYS):
                break
    try:
        made: Any = error.__reduce_ex__(4) if way is None else way(error)
        if isinstance(error, PyrayError):
            return made  # type: ignore[no-any-return]
        again = made[0](*made[1])
        if len(made) > 2 and made[2] is not None:
            again.__setstate__(made[2])
        return made if type(again) is cls else None
    except Exception:
        return None


def _from_parts(cls: type, args: tuple[Any, ...]) -> Any:
    base = _native_base(cls)
    error = _new(cls, base, args)
    try:
        base.__init__(error, *args)  # type: ignore[misc]
    except Exception:
        pass  # what it would have set comes with the members
    _set(error, "args", args)
    return error


def _complete(error: BaseException, state: dict[str, Any]) -> None:
    """Second half of `take_apart`: what may refer back to the exception itself."""
    if "args" in state:
        _set(error, "args", state["args"])
    fields = state.get("fields")
    if fields is not None:
        vars(error).update(fields)
    elif state["state"] is not None:
        error.__setstate__(state["state"])
    if "notes" in state:
        vars(error).setdefault("__notes__", state["notes"])
    set_members(error, state.get("members", {}))
    for name, value in zip(_CHAIN, state.get("chain", ()), strict=False):
        _set(error, name, value)


_pickler: Any = None


def _dumps(error: BaseException, chain: bool) -> bytes:
    """cloudpickle with a way of its own with exceptions, wherever in the object they are."""
    global _pickler
    import io

    if _pickler is None:
        import cloudpickle

        class ExceptionPickler(cloudpickle.Pickler):  # type: ignore[misc]
            chain = True

            def reducer_override(self, obj: Any) -> Any:
                if isinstance(obj, BaseException):
                    return take_apart(obj, self.chain)
                return super().reducer_override(obj)

        _pickler = ExceptionPickler
    with io.BytesIO() as stream:
        pickler = _pickler(stream)
        pickler.chain = chain
        pickler.dump(error)
        return stream.getvalue()


def dump_exception(error: BaseException) -> bytes | None:
    """The exception, pickled and proved to unpickle; None if that fails."""
    for chain in (True, False):
        try:
            blob = _dumps(error, chain)
            if isinstance(load_exception(blob), BaseException):
                return blob
        except Exception:
            continue
    return None


def load_exception(blob: bytes) -> BaseException:
    import pickle

    error: BaseException = pickle.loads(blob)
    return error
