"""Interrupting the task that runs: where a cancellation may strike, and where it must not.

The node writes the wish into the task's record (`stop`, with the task's generation) and then sends
the process a signal.  Its handler raises KeyboardInterrupt, but only while code of the user's runs
(`users_code`), only for a task that is to stop, and once for each request: so a signal that comes
late, between two tasks, while a result is stored or when the next task runs, does nothing.  One
that comes early does nothing either, because whoever starts a task looks at the wish first.

One that comes just before a blocking call is lost: Python notes it, and calls the handler when the
call is over.  So the process says which request has reached it (`told`), and the node signals again
until it has, which ends the call.

The signal is one of our own, and not SIGINT: a library that takes SIGINT for itself does not stop
cancellations, and a SIGINT that the user sends to a worker is still told from a late cancellation.
"""

from libc.stdint cimport uint32_t, uint64_t

from pyray._core.layout cimport *
from pyray._core.records cimport stop_of
from pyray._core.shm cimport Ctx, get_ctx, task_at
from pyray._core.tasks cimport task_id, the_only

import os
import signal
import sys

from pyray._core.errors import TaskCancelledError

cdef extern from "Python.h":
    int PyErr_SetInterruptEx(int signum)

cdef Ctx *C = get_ctx()

# Far from both ends of the real-time signals, where others take theirs.
SIGNAL = signal.SIGRTMIN + 11

cdef int _signal = SIGNAL
cdef str TEXT = "this task was cancelled"
cdef enum:
    LONGEST = 900           # characters of a message: with the id less than a small value's 1 KiB

cdef bint _users = False        # code of the user's runs in the main thread
cdef uint32_t _told = 0         # the request that the running task has been interrupted for
cdef int _held_back = 0         # > 0: something runs in it that must not be torn
cdef int _pending = 0           # a signal that came meanwhile
cdef object _children = None    # cancels what a task has submitted: (handle)


cdef void begin_users_code() noexcept nogil:
    """A task begins: from here on interrupts may strike.  `stop_if_asked` comes next."""
    global _users, _told
    _told = 0
    _users = True


cdef void users_code(bint runs) noexcept nogil:
    """From here on interrupts may strike, or no longer.  Whoever turns them on calls
    `stop_if_asked` next, for those that came while they were off."""
    global _users
    _users = runs


cdef bint wanted(uint64_t task) noexcept nogil:
    cdef uint32_t stop = stop_of(task_at(C, task), task)
    return stop != 0 and stop != _told


cdef uint64_t request(uint64_t task, uint32_t stop) noexcept nogil:
    """A word, as good as unique, for a request to stop."""
    return <uint64_t>stop << 48 ^ task


cdef int raise_for(uint64_t task) except -1:
    global _told
    _told = stop_of(task_at(C, task), task)
    at_store64(&C.me.told, request(task, _told))       # the node need not signal again
    raise KeyboardInterrupt(TEXT)


cdef int stop_if_asked(uint64_t task) except -1:
    """Raise KeyboardInterrupt if this task is to stop and has not been told so."""
    if wanted(task):
        raise_for(task)
    return 0


cdef int refuse_cancelled(uint64_t task) except -1:
    """The same for a call that is about to start beside others."""
    if stop_of(task_at(C, task), task):
        raise KeyboardInterrupt(TEXT)
    return 0


def on_signal(int number, frame):
    """The handler, for SIGINT too: interrupt the task that runs, if it may be."""
    global _pending
    cdef uint64_t task = the_only().handle
    if not _users or task == 0:
        return
    if number == _signal:
        if C.forked or not wanted(task):
            return
    if _held_back:
        if _pending != _signal:
            _pending = number
        return
    if number == _signal:
        raise_for(task)
    raise KeyboardInterrupt


def on_unraisable(what):
    """``sys.unraisablehook``: an interrupt that strikes in a destructor is lost.  Try again."""
    global _told
    error = what.exc_value
    if isinstance(error, KeyboardInterrupt) and error.args == (TEXT,):
        _told = 0
        at_store64(&C.me.told, 0)
        PyErr_SetInterruptEx(_signal)
    else:
        sys.__unraisablehook__(what)


def hold_back():
    """Until `let_through` no interrupt strikes: a message to the node is under way."""
    global _held_back
    _held_back += 1


def let_through():
    """Interrupts may strike again; one that came meanwhile does so as soon as Python code runs."""
    global _held_back, _pending
    cdef int number = _pending
    _held_back -= 1
    if number and _held_back == 0:
        _pending = 0
        PyErr_SetInterruptEx(number)


# ---- how a cancelled task ends -------------------------------------------------------------

cdef bint cancelled_by(uint64_t task, object error):
    """Whether a task that is to stop ended with this error for that reason."""
    if not stop_of(task_at(C, task), task):
        return False
    cdef list todo = [error]
    cdef set seen = set()
    asyncio = sys.modules.get("asyncio")
    kinds = (KeyboardInterrupt, TaskCancelledError) + (
        () if asyncio is None else (asyncio.CancelledError,))
    try:
        while todo and len(seen) < 100:
            e = todo.pop()
            if e is None or id(e) in seen:
                continue
            if isinstance(e, kinds):
                return True
            seen.add(id(e))
            # What was raised while the interrupt was on its way up came of it.
            todo += [e.__cause__, e.__context__, *getattr(e, "exceptions", ())]
    except Exception:
        return False    # an exception whose parts are not what they are to be
    return False


cdef tuple cancelled_value(uint64_t task, object name, str how):
    """What is stored for a cancelled task: what TaskCancelledError is made of by who reads it.

    A small plain value: thousands of queued tasks are cancelled at once, in a full store too.
    """
    cdef bytes number = task_id(task_at(C, task), 0)
    return number, f"task {name or '?'} ({number.hex()}) {how}"[:LONGEST]


cdef tuple cancelled_while(uint64_t task, object name, object error):
    """The same, of a task that was interrupted and raised this."""
    how = f"was cancelled while it ran (pid={os.getpid()})"
    if isinstance(error, Exception) and not isinstance(error, TaskCancelledError):
        try:
            how += f"; on its way out it raised {error!r}"
        except Exception:
            how += f"; on its way out it raised {type(error).__name__}"
    return cancelled_value(task, name, how)


def set_children(cancel_children):
    """Have `cancel_children(task)` called when a cancelled task has ended that submitted some."""
    global _children
    _children = cancel_children


cdef int children_too(uint64_t task, uint64_t submitted) except -1:
    """A task ends because it was cancelled: so does what it has submitted, if that was asked for.

    The node has looked for its children before, but it may have submitted another one since.
    """
    if submitted and _children is not None and (
            stop_of(task_at(C, task), task) & PR_STOP_CHILDREN):
        try:
            _children(task)
        except Exception:
            return 0        # the session ends
    return 0
