"""``cancel``: ending tasks that are no longer wanted."""

from __future__ import annotations

from pyray import session
from pyray._core import store, tasks
from pyray._core.annotations import Any
from pyray._core.generators import ObjectRefGenerator
from pyray._core.store import ObjectID


def cancel(
    ref: ObjectID[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True
) -> None:
    """Cancel the task that is to make an object.

    A task that has not begun never does. One that runs is interrupted: KeyboardInterrupt is raised
    in it, which ends ``time.sleep``, `get` and whatever else answers to signals at once; what the
    task raises on its way out is of no account, but if it catches the interrupt and returns, its
    value stands. A cancelled task is not retried. Nothing happens if the task is over.

    For the running call of an actor it depends on the actor. One that runs a call at a time is
    interrupted like a task, and lives on. In one with async methods the coroutine's
    `asyncio.Task` is cancelled. In a threaded one the call goes on: it may look at
    ``get_runtime_context().is_canceled()``; but a generator ends at its next ``yield``.

    Parameters
    ----------
    ref : ObjectID or ObjectRefGenerator
        What ``.remote()`` returned; any one of them, where it returned several.
    force : bool, default False
        Kill the worker process of a running task at once, instead of interrupting the task. Not
        for calls of actors.
    recursive : bool, default True
        Cancel what the task has submitted as well, calls of actors included (those without force),
        and so on down.

    Raises
    ------
    TypeError
        `ref` is no ObjectID (an actor is ended by `kill`), or an option is no bool.
    ValueError
        `ref` was made by `put`, so there is no task, or it is of an actor's call and `force` is
        set.
    SessionError
        `ref` is of a session that is over.

    See Also
    --------
    pyray.kill : End an actor.

    Notes
    -----
    `get` raises `pyray.exceptions.TaskCancelledError` for a cancelled task, with `force` too. That
    is no KeyboardInterrupt. In ``local_mode`` nothing happens: every task is over once it has been
    submitted.

    Examples
    --------
    >>> import pyray as ray, time
    >>> @ray.remote
    ... def sleep(seconds):
    ...     time.sleep(seconds)
    >>> ref = sleep.remote(1000)
    >>> ray.cancel(ref)
    >>> try:
    ...     ray.get(ref)
    ... except ray.exceptions.TaskCancelledError:
    ...     print("cancelled")
    cancelled
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref.completed()
    if type(ref) is not ObjectID:
        raise TypeError(
            f"cancel takes the ObjectID of a task's result, not {type(ref).__name__}; kill() ends "
            "an actor"
        )
    for name, value in (("force", force), ("recursive", recursive)):
        if type(value) is not bool:
            raise TypeError(f"cancel: {name} is True or False, not {value!r}")
    task = store.task_of(ref)  # raises for an id of another session
    current = session.require()
    if current.local_mode:
        return
    if store.is_put(ref):
        raise ValueError(
            f"cancel takes the ObjectID of a task's result, and {ref!r} was made by put(): there "
            "is no task to cancel"
        )
    if task:
        current.call("cancel", task, force, recursive)
        tasks.sweep()  # its arguments, if it was ours
