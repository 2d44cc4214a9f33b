"""Every exception of pyray's own, under Ray's names where Ray has one.

``TaskError`` is what ``get`` raises for a task that raised: it is an instance of the user's own
exception class as well, so ``except ValueError`` works, and its text is the remote traceback.
"""

from __future__ import annotations

from typing import Any

from pyray._core.errors import (
    ForeignObjectError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfRecordsError,
    ProcessLimitError,
    PyrayError,
    SessionError,
    TaskCancelledError,
)
from pyray._core.serial_errors import (
    CorruptObjectError,
    DefinitionNotFoundError,
    RecursionDepthError,
    SerializationError,
)

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorUnavailableError",
    "CorruptObjectError",
    "DefinitionNotFoundError",
    "ForeignObjectError",
    "GetTimeoutError",
    "InfeasibleResourcesError",
    "NodeDiedError",
    "ObjectLostError",
    "ObjectStoreFullError",
    "OutOfRecordsError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "ProcessLimitError",
    "PyrayError",
    "RayActorError",
    "RayError",
    "RayTaskError",
    "RecursionDepthError",
    "SerializationError",
    "SessionError",
    "TaskCancelledError",
    "TaskError",
    "WorkerCrashedError",
]


class InfeasibleResourcesError(PyrayError, ValueError):
    """A task asks for more than the session has in all, so it could never run."""


class OwnerDiedError(ObjectLostError):
    """The process that submitted a task died before the task started."""


class WorkerCrashedError(PyrayError):
    """The worker process that ran a task ended before the task did.

    Attributes
    ----------
    task : str
        Name of the task.
    pid : int
        Process ID of the worker.
    signal : str or None
        Name of the signal that killed it (``"SIGSEGV"``), if one did.
    exit_code : int or None
        Its exit status, if it exited.
    """

    def __init__(
        self,
        message: str,
        task: str = "",
        pid: int = 0,
        signal: str | None = None,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.pid = pid
        self.signal = signal
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        args = (self.args[0], self.task, self.pid, self.signal, self.exit_code)
        return type(self), args


class RayActorError(PyrayError):
    """A call of an actor's method cannot be answered, because of the actor and not of the call.

    Attributes
    ----------
    actor_id : str
        The actor's id in hexadecimal digits.
    name : str
        Name of its class, or the name that it was given.
    pid : int
        Process ID that it had; 0: not known.
    signal : str or None
        Name of the signal that killed it (``"SIGSEGV"``), if one did.
    exit_code : int or None
        Its exit status, if it exited.
    cause : BaseException or None
        What its constructor raised, if that is why there is no actor.
    """

    def __init__(
        self,
        message: str = "the actor died",
        actor_id: str = "",
        name: str = "",
        pid: int = 0,
        signal: str | None = None,
        exit_code: int | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.actor_id = actor_id
        self.name = name
        self.pid = pid
        self.signal = signal
        self.exit_code = exit_code
        self.cause = cause

    @property
    def error_msg(self) -> str:
        """The text of the error: Ray's name for it."""
        return str(self)

    @property
    def actor_init_failed(self) -> bool:
        """Whether the actor's constructor raised."""
        return self.cause is not None


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back; its state is gone."""


class ActorUnavailableError(RayActorError):
    """The actor does not answer just now: it is being restarted. Whether the call ran is not
    known; a later one may succeed."""


class ActorAlreadyExistsError(PyrayError, ValueError):
    """There is an actor of that name already."""


class PendingCallsLimitExceeded(PyrayError):
    """More of an actor's calls would be unfinished than its ``max_pending_calls``."""


class TaskError(PyrayError):
    """A task raised an exception; this is raised by ``get`` in its place.

    Attributes
    ----------
    task : str
        Name of the task.
    pid : int
        Process ID of the worker that ran it.
    remote_traceback : str
        The traceback there.
    cause : BaseException or None
        The exception itself, unless it could not be pickled.
    """

    task: str = ""
    pid: int = 0
    remote_traceback: str = ""
    cause: BaseException | None = None
    _pickled: bytes | None = None

    def __str__(self) -> str:
        return f"task {self.task} (pid={self.pid}) raised\n{self.remote_traceback}".rstrip()

    def __reduce__(self) -> tuple[Any, ...]:
        return make_task_error, (self.task, self.pid, self.remote_traceback, self._pickled)


_duals: dict[type, type] = {}


def _dual(cls: type[BaseException]) -> type:
    """A class that is a TaskError and the user's class at once."""
    found = _duals.get(cls)
    if found is None:

        def _str(self: Any) -> str:
            return TaskError.__str__(self)

        def _reduce(self: Any) -> tuple[Any, ...]:
            return TaskError.__reduce__(self)

        found = type(
            f"TaskError({cls.__name__})",
            (TaskError, cls),
            {"__module__": TaskError.__module__, "__str__": _str, "__reduce__": _reduce},
        )
        _duals[cls] = found
    return found


def _copy_as_dual(cause: Exception) -> Any:
    """The exception as an instance of its dual class, made without calling a user's `__init__`."""
    dual = _dual(type(cause))
    error: Any
    try:
        error = type(cause).__new__(dual, *cause.args)
    except TypeError:
        # MemoryError's refuses the dual, whose memory is laid out by BaseException.
        error = BaseException.__new__(dual, *cause.args)
    error.__dict__.update(cause.__dict__)
    error.args = cause.args
    set_members(error, members(cause))
    return error


class ByParts:
    """Pickles an exception whose constructor does not take its own ``args``, without calling it."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        error = self._error
        return _from_parts, (type(error), error.args, error.__dict__)


def _from_parts(cls: type, args: tuple[Any, ...], fields: dict[str, Any]) -> BaseException:
    error: BaseException
    try:
        error = cls.__new__(cls, *args)
    except TypeError:
        error = BaseException.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


def members(error: BaseException) -> dict[str, Any]:
    """What C code keeps outside the dictionary (ImportError.name, OSError.filename), and slots."""
    found = {}
    for base in type(error).__mro__:
        if base in (BaseException, object):
            break
        for name, descriptor in list(base.__dict__.items()):
            if type(descriptor).__name__ in ("member_descriptor", "getset_descriptor"):
                try:
                    found[name] = getattr(error, name)
                except AttributeError:
                    continue  # a slot that was never filled
    return found


def set_members(error: BaseException, values: dict[str, Any]) -> None:
    for name, value in values.items():
        try:
            setattr(error, name, value)
        except (AttributeError, TypeError):
            continue  # read-only


def make_task_error(task: str, pid: int, text: str, pickled: bytes | None) -> TaskError:
    """Rebuild a TaskError, with the user's class where that is possible.

    Classes that refuse to be subclassed, or whose constructor rejects its own ``args``, give a
    plain TaskError that has the exception as its `cause`.
    """
    cause = None
    if pickled is not None:
        import pickle

        try:
            cause, outside = pickle.loads(pickled)
            set_members(cause, outside)
        except Exception as problem:
            text = f"{text}\n(the exception itself could not be unpickled here: {problem!r})"
    error: Any = None
    if isinstance(cause, Exception):
        try:
            error = _copy_as_dual(cause)
        except Exception:
            error = None
    if error is None:
        error = TaskError()
    error.task = task
    error.pid = pid
    error.remote_traceback = text
    error.cause = cause
    error._pickled = pickled
    return error  # type: ignore[no-any-return]


def describe_exit(code: int | None) -> tuple[str, str | None, int | None]:
    """(sentence, signal name or None, exit code or None) for a process's exit status.

    Parameters
    ----------
    code : int or None
        As `multiprocessing.Process.exitcode` gives it: negative for a signal.
    """
    if code is None:
        return "ended", None, None
    if code < 0:
        import signal

        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}", name, None
    return f"exited with code {code}", None, code


# Ray's names for the same things.
RayError = PyrayError
RayTaskError = TaskError
