"""Exceptions that the core raises; ``pyray.exceptions`` is where users find them."""

from __future__ import annotations

from pyray._core.annotations import Any


class PyrayError(Exception):
    """Base of every error of pyray's own; Ray's name for it is ``RayError``."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By its parts: a constructor that composes the message from its arguments would compose it
        # again, from the message.
        return rebuild, (type(self), self.args, self.__dict__)


def rebuild(cls: type, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """An error of pyray's own from its parts, without calling its constructor."""
    try:
        error = cls.__new__(cls, *args)
    except TypeError:
        error = BaseException.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


def without_core(error: BaseException) -> BaseException:
    """The error, its traceback without the innermost frames that are the core's.

    Whoever reads it wants to see the call of theirs that failed, not how the core got there.
    """
    tb = error.__traceback__
    while tb is not None and "pyray/_core/" in tb.tb_frame.f_code.co_filename:
        tb = tb.tb_next
    return error.with_traceback(tb)


class GetTimeoutError(PyrayError, TimeoutError):
    """``get`` waited for as long as it was told to."""


class ObjectStoreFullError(PyrayError, MemoryError):
    """The store has no room for an object; the message says sizes."""


class OutOfRecordsError(PyrayError, MemoryError):
    """No room for another record of a task or an object."""


class ObjectLostError(PyrayError):
    """The object is gone: its id is stale, or its owner died before it was made."""


class SharedArrayInUseError(PyrayError, BufferError):
    """A shared array cannot be sealed, since others may still write to it; the message says who."""


class SessionError(PyrayError, RuntimeError):
    """The session is over, was never begun, or is not this process's."""


class ForeignObjectError(PyrayError, ValueError):
    """An id of another session."""


class TaskCancelledError(PyrayError):
    """The task was cancelled before it could end.

    Attributes
    ----------
    task_id : bytes or None
        The task's 20 bytes, where they are known.
    """

    def __init__(self, task_id: bytes | None = None, message: str | None = None) -> None:
        if message is None:
            which = "" if task_id is None else f" {task_id.hex()}"
            message = f"task{which} was cancelled"
        super().__init__(message)
        self.task_id = task_id


class NodeDiedError(SessionError):
    """The session's node process is gone."""


class ProcessLimitError(PyrayError):
    """A blocked task needs one more process than the session may have."""


class ActorExit(BaseException):
    """Raised by ``exit_actor``: ends the actor in which it is raised, when it gets there.

    Not an Exception, so that an ``except Exception`` of a method's does not stop it.
    """


# Users meet them in pyray.exceptions, and tracebacks are to name that.
for _class in list(globals().values()):
    if isinstance(_class, type) and issubclass(_class, (PyrayError, ActorExit)):
        _class.__module__ = "pyray.exceptions"
del _class
