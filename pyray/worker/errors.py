"""What a worker stores in place of a result when a task raised."""

from __future__ import annotations

import os
import traceback
from typing import Any

from pyray import _task_error
from pyray._task_error import TaskError, dump_exception, make_task_error
from pyray.exceptions import WorkerCrashedError

TEXT_CAP = 1 << 16
# numpy's, Cython's and its views' words for writing to what may not be written to.
READ_ONLY = (
    "assignment destination is read-only",
    "output array is read-only",
    "buffer source array is read-only",
    "cannot set WRITEABLE flag to True of this array",
)
READ_ONLY_HINT = (
    "pyray: arrays that come from the object store, as arguments or by get, are read-only views "
    "that all processes share; .copy() gives one to write to"
)

_PACKAGE = os.path.dirname(os.path.abspath(_task_error.__file__)) + os.sep
_UTILITIES = os.path.join(_PACKAGE, "util")  # code on top of the public interface, as the user's is


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
        fields = {"__notes__": notes} if (notes := getattr(error, "__notes__", None)) else None
        return make_task_error(task, os.getpid(), _cap(text), None, fields)
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
    add_hint(error)
    cause: BaseException = error
    if isinstance(error, TaskError) and error.cause is not None:
        cause = error.cause  # a task that got a failed task: still the user's own class
    text, notes = describe(error)
    made = make_task_error(name, os.getpid(), text, dump_exception(cause))
    if notes:
        vars(made)["__notes__"] = notes
    return made


def add_hint(error: BaseException) -> None:
    """What to do about an error that pyray's way with arrays leads to, as a note."""
    try:
        if not isinstance(error, ValueError) or READ_ONLY_HINT in getattr(error, "__notes__", ()):
            return
        # Not its str(): that of an exception that holds a large array takes seconds.
        text = error.args[0] if error.args else None
        if isinstance(text, str) and any(words in text[:1000] for words in READ_ONLY):
            error.add_note(READ_ONLY_HINT)
    except Exception:
        return  # an exception whose attributes are not what they are to be


def describe(error: BaseException) -> tuple[str, list[str]]:
    """(traceback, notes) of an exception; the traceback without frames of pyray's own."""
    try:
        told = traceback.TracebackException(
            type(error), error, error.__traceback__, compact=True, max_group_width=100
        )
        _users_part(told)
        notes, told.__notes__ = _texts(told.__notes__), None
        return _cap("".join(told.format())), notes
    except Exception as problem:  # an exception whose attributes are not what they are to be
        return f"{type(error).__qualname__} (its traceback cannot be told: {problem!r})", []


def _users_part(told: Any) -> None:
    """Take out the frames of pyray's own, here and in whatever this was raised from."""
    todo, seen = [told], set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if not _is_ours(frame.filename)]
        todo += [one.__cause__, one.__context__, *(one.exceptions or ())]


def _is_ours(file: str) -> bool:
    if file.startswith("pyray/_core/"):
        return True  # what Cython calls its source
    return file.startswith(_PACKAGE) and not file.startswith(_UTILITIES)


def _texts(notes: Any) -> list[str]:
    if notes is None:
        return []
    if isinstance(notes, (list, tuple)):
        return [note if isinstance(note, str) else repr(note) for note in notes]
    return [repr(notes)]


def _cap(text: str) -> str:
    """A traceback's text at a size that can always be stored: an exception may hold megabytes."""
    if len(text) <= TEXT_CAP:
        return text
    cut = len(text) - TEXT_CAP
    return f"{text[: TEXT_CAP // 2]}\n… {cut} characters left out …\n{text[-TEXT_CAP // 2 :]}"
