"""What a worker stores in place of a result when a task raised."""

from __future__ import annotations

import os
import traceback
from types import TracebackType
from typing import Any

from pyray.exceptions import ByParts, TaskError, WorkerCrashedError, make_task_error, members

TEXT_CAP = 1 << 16


def make_error(error: BaseException, detail: Any, unstorable: bool) -> BaseException:
    """The exception that ``get`` is to raise.

    Parameters
    ----------
    error : BaseException
        What the task raised, or (`unstorable`) an error made from it that could not be stored.
    detail : object
        The task's name, or (`unstorable`) why storing failed.
    unstorable : bool
        Make something that can be stored whatever the exception is.
    """
    if unstorable:
        task, text = "", ""
        if isinstance(error, TaskError):
            task, text = error.task, error.remote_traceback
        text = f"{text or error!r}\n(the exception could not be stored: {detail})"
        return make_task_error(task, os.getpid(), _cap(text), None)
    name = str(detail or "task")
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        return WorkerCrashedError(
            f"task {name} called sys.exit({error.code!r}) in worker pid={os.getpid()}; the worker "
            f"ended with exit code {code}. Return from the task, or raise an exception, instead",
            name,
            os.getpid(),
            None,
            code,
        )
    cause: BaseException = error
    if isinstance(error, TaskError) and error.cause is not None:
        cause = error.cause  # a task that got a failed task: still the user's own class
    text = "".join(traceback.format_exception(type(error), error, _users_part(error)))
    return make_task_error(name, os.getpid(), _cap(text), _pickle(cause))


def _cap(text: str) -> str:
    """A traceback's text at a size that can always be stored: an exception may hold megabytes."""
    if len(text) <= TEXT_CAP:
        return text
    cut = len(text) - TEXT_CAP
    return f"{text[: TEXT_CAP // 2]}\n… {cut} characters left out …\n{text[-TEXT_CAP // 2 :]}"


def _users_part(error: BaseException) -> TracebackType | None:
    """The traceback without the frames of pyray's own that called the task."""
    tb = error.__traceback__
    while tb is not None and "_core" in tb.tb_frame.f_code.co_filename:
        tb = tb.tb_next
    return tb


def _pickle(error: BaseException) -> bytes | None:
    """The exception, pickled and proved to unpickle; None if that fails."""
    import pickle

    import cloudpickle

    # Python 3.11 pickles AttributeError and others without these.
    outside = {
        name: value
        for name, value in members(error).items()
        if value is None or isinstance(value, (str, int))
    }
    for form in (error, ByParts(error)):
        try:
            blob: bytes = cloudpickle.dumps((form, outside))
            pickle.loads(blob)
        except Exception:
            continue
        return blob
    return None
