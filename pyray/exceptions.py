"""Every exception of pyray's own, under Ray's names where Ray has one.

``TaskError`` is what ``get`` raises for a task that raised: it is an instance of the user's own
exception class as well, so ``except ValueError`` works, and its text is the remote traceback.

All are ``PyrayError`` (``RayError``) but `AsyncioActorExit`, and all travel: in results, through
the store and by pickle, with their attributes.
"""

from __future__ import annotations

from pyray._core.annotations import Any
from pyray._core.errors import (
    ActorExit,
    ForeignObjectError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfRecordsError,
    ProcessLimitError,
    PyrayError,
    SessionError,
    SharedArrayInUseError,
    TaskCancelledError,
)
from pyray._core.serial_errors import (
    CorruptObjectError,
    DefinitionNotFoundError,
    RecursionDepthError,
    SerializationError,
)
from pyray._task_error import TaskError, dump_exception, load_exception

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "CorruptObjectError",
    "CrossLanguageError",
    "DefinitionNotFoundError",
    "ForeignObjectError",
    "GetTimeoutError",
    "InfeasibleResourcesError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectReconstructionFailedLineageEvictedError",
    "ObjectReconstructionFailedMaxAttemptsExceededError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OutOfRecordsError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "ProcessLimitError",
    "PyrayError",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "RecursionDepthError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "SerializationError",
    "SessionError",
    "SharedArrayInUseError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "WorkerCrashedError",
]


class InfeasibleResourcesError(PyrayError, ValueError):
    """A task or an actor asks for more than the session has in all, so it could never run."""


# ---- tasks -------------------------------------------------------------------------------------


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
        message: str = "a worker ended before its task did",
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


class OutOfMemoryError(WorkerCrashedError, MemoryError):
    """The worker that ran a task was ended because memory ran short, before the kernel would have
    chosen whom to kill. A store that is full gives ObjectStoreFullError.

    Attributes
    ----------
    task, pid, signal, exit_code
        As of `WorkerCrashedError`.
    memory : int
        Bytes that the worker had, with what it had started; without the object store.
    limit : int
        Bytes that the machine, the cgroup or ``memory_limit`` allows in all.
    """

    def __init__(
        self,
        message: str = "a worker was ended because memory ran short",
        task: str = "",
        pid: int = 0,
        signal: str | None = None,
        exit_code: int | None = None,
        memory: int = 0,
        limit: int = 0,
    ) -> None:
        super().__init__(message, task, pid, signal, exit_code)
        self.memory = memory
        self.limit = limit


class UnserializableException(PyrayError):
    """Stands for an exception that could not be pickled; pyray gives a `TaskError` instead, whose
    text is the traceback."""


# ---- actors ------------------------------------------------------------------------------------


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

    def __reduce__(self) -> tuple[Any, ...]:
        if self.cause is None or isinstance(self.cause, PyrayError):
            return super().__reduce__()
        fields = {name: value for name, value in vars(self).items() if name != "cause"}
        return _actor_error, (type(self), self.args, fields, dump_exception(self.cause))


def _actor_error(
    cls: type, args: tuple[Any, ...], fields: dict[str, Any], cause: bytes | None
) -> Any:
    from pyray._core.errors import rebuild

    loaded = None if cause is None else load_exception(cause)
    return rebuild(cls, args, {**fields, "cause": loaded})


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back; its state is gone."""


class ActorUnavailableError(RayActorError):
    """The actor does not answer just now: it is being restarted. Whether the call ran is not
    known; a later one may succeed."""


class ActorAlreadyExistsError(PyrayError, ValueError):
    """There is an actor of that name already."""


class PendingCallsLimitExceeded(PyrayError):
    """More of an actor's calls would be unfinished than its ``max_pending_calls``."""


# ---- environment -------------------------------------------------------------------------------


class RuntimeEnvSetupError(PyrayError):
    """What a ``runtime_env`` asked for could not be set up; the message says what."""


# ---- names that cannot occur on one machine, or that pyray raises something else for: there so
# ---- that the `except` clauses of scripts written for Ray work


class ObjectFreedError(ObjectLostError):
    """Cannot occur: an object lives as long as an id of it does."""


class ObjectFetchTimedOutError(ObjectLostError):
    """Cannot occur: every object is local."""


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """Cannot occur: an id of a freed object gives an ObjectLostError."""


class ObjectReconstructionFailedError(ObjectLostError):
    """Cannot occur: objects outlive the workers that made them, so none is reconstructed."""


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """Cannot occur, as the error it derives from."""


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """Cannot occur, as the error it derives from."""


class PlasmaObjectNotAvailable(PyrayError):
    """Cannot occur: there is no store apart from the session's memory."""


class OutOfDiskError(PyrayError):
    """Cannot occur: nothing is spilled to a disk."""


class TaskUnschedulableError(PyrayError):
    """Not raised: a task that can never run gives InfeasibleResourcesError at the call."""


class ActorUnschedulableError(PyrayError):
    """Not raised: an actor that can never run gives InfeasibleResourcesError at the call."""


class TaskPlacementGroupRemoved(PyrayError):
    """The placement group that a task was to run in, or ran in, has been removed."""


class ActorPlacementGroupRemoved(ActorDiedError):
    """The placement group that an actor was to run in, or ran in, has been removed."""


class ActorHandleNotFoundError(PyrayError):
    """Not raised: a handle of another session gives ForeignObjectError."""


class RaySystemError(PyrayError):
    """Not raised: what goes wrong inside pyray is a SessionError or a NodeDiedError."""


class CrossLanguageError(PyrayError):
    """Cannot occur: there is Python only."""


class RpcError(PyrayError):
    """Cannot occur: there are no remote procedure calls between machines."""


# ---- helpers -----------------------------------------------------------------------------------


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


# Ray's names for the same things, and ours for one of Ray's.
RayError = PyrayError
RayTaskError = TaskError
AsyncioActorExit = ActorExit
ActorError = RayActorError
LocalRayletDiedError = NodeDiedError
