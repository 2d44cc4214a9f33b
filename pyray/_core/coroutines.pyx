"""Coroutines of an actor's calls, run at once as far as they go without waiting.

Most async methods return without ever having waited: an asyncio.Task for each would cost several
times what they do.  So a call begins outside of any task's step, and only one that waits goes on in
a Task.  Code that runs must have a Task all the same (``asyncio.current_task()``, which timeouts
hold on to), the very one in which it goes on.  So a *spare* Task stands by, entered as the current
one, which is to step the call if it waits; as long as nobody has looked at it or changed it, it
serves the next call too.
"""

cimport cython
from cpython.contextvars cimport (
    PyContext_Copy, PyContext_Enter, PyContext_Exit, PyContextVar_Set,
)
from cpython.ref cimport Py_XDECREF, PyObject

from pyray._core.running cimport Call, how_many
from pyray._core.waiting cimport settle as settle_task

from weakref import getweakrefcount

from pyray._core.running import WorkerExit

cdef extern from "Python.h":
    bint PyCoro_CheckExact(object o)
    Py_ssize_t Py_REFCNT(object o)
    int PYGEN_RETURN, PYGEN_NEXT
    int PyIter_Send(object o, object value, PyObject **result) except -1


@cython.final
cdef class Steps:
    """What a Task steps: a call that has begun already, or nothing if none needs the Task."""
    cdef Starter starter
    cdef Call call              # None: there is none, or it has ended
    cdef object coroutine
    cdef bint ours              # `coroutine` is the loop's, which finishes the call by itself
    cdef object context
    cdef object pending         # what the call waits for, which the Task is to be told
    cdef bint waits             # ... since it began to wait before the Task ran

    cdef object advance(self, object value, object error):
        """Go on until the call waits: for what; or until it has ended.  In its context."""
        cdef Call call = self.call
        cdef PyObject *out = NULL
        cdef object result
        cdef bint awaited
        cdef int status
        while True:
            try:
                if self.coroutine is None:
                    result = call.begin()
                    if call.over:
                        break
                    if PyCoro_CheckExact(result):
                        self.coroutine = result
                        self.ours = False
                        result = None
                        continue
                    awaited = False
                else:
                    if error is None:
                        status = PyIter_Send(self.coroutine, value, &out)
                        result = <object>out
                        Py_XDECREF(out)
                        if status == PYGEN_NEXT:
                            return result
                    else:
                        thrown, error = error, None
                        try:
                            return self.coroutine.throw(thrown)
                        except StopIteration as stop:
                            result = stop.value
                    self.coroutine = None
                    if self.ours:
                        break
                    awaited = True
                if ordinary(call, result, awaited):
                    call.finish(result)
                    break
                self.coroutine = self.starter.finish(call, result, awaited)
                self.ours = True
            except BaseException as e:
                self.coroutine = None
                try:
                    if not call.fail(e):
                        break
                except WorkerExit as leaving:
                    self.starter.leave(leaving)
                    break
            result = value = None
        self.call = None
        self.coroutine = None
        settle_task()       # a wait of its in another thread may have given up the actor's CPUs
        return None

    cdef object step(self, object value, object error):
        """`advance` for the Task, which runs outside of the call's context."""
        cdef Call call = self.call
        PyContext_Enter(self.context)
        try:
            value = self.advance(value, error)
        finally:
            PyContext_Exit(self.context)
        if self.call is None:
            self.context = None
            self.starter.ended(call)
            raise StopIteration
        return value

    def __next__(self):
        return self.send(None)

    cpdef send(self, value):
        if self.waits:
            self.waits = False
            pending, self.pending = self.pending, None
            if pending is not None:
                return pending
            # A bare yield lets others run for once, and they have.
        if self.call is None:
            raise StopIteration
        return self.step(value, None)

    def throw(self, kind, error=None, traceback=None):
        if error is None:
            error = kind() if isinstance(kind, type) else kind
        if self.waits:
            # Cancelled before the Task knew what the call waits for, which is to be cancelled too.
            self.waits = False
            pending, self.pending = self.pending, None
            if getattr(pending, "_asyncio_future_blocking", None) and pending.cancel(*error.args):
                return pending
        if self.call is None:
            raise error
        return self.step(None, error)

    def close(self):
        if self.coroutine is not None:
            self.coroutine.close()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    # What asyncio looks at to tell where a task stands.

    @property
    def __name__(self):
        return "call" if self.call is None else self.call.function.name

    @property
    def __qualname__(self):
        return self.__name__

    @property
    def cr_running(self):
        return False

    @property
    def cr_frame(self):
        return getattr(self.coroutine, "cr_frame", None)

    @property
    def cr_code(self):
        return getattr(self.coroutine, "cr_code", None)


cdef bint ordinary(Call call, object result, bint awaited):
    """Whether the result is the value of the one return, and needs no coroutine."""
    return how_many(call) == 1 and (awaited or not hasattr(result, "__await__"))


@cython.final
cdef class Starter:
    """Begins calls in an event loop.  `open`, any number of `start`, `close`, in one callback.

    Parameters
    ----------
    loop, context, variable : AbstractEventLoop, Context, ContextVar
        The loop; what each call's context is a copy of; what is the call there.
    asyncio : module
        Given, so that only actors with async methods import it.
    finish : callable
        (call, result, awaited) -> coroutine that finishes a call that yields, or whose result is to
        be awaited first.
    ended, leave : callable
        Called with a call that has ended in its Task; with the WorkerExit of one that ends the
        process.
    """
    cdef object loop, context, variable
    cdef object make_task, enter_task, leave_task
    cdef object finish, ended, leave
    cdef object task            # the spare one, which is the current one meanwhile
    cdef Steps steps            # what it steps
    cdef object name            # its name, references and weak references when it was new
    cdef Py_ssize_t refs, weakrefs

    def __init__(self, loop, context, variable, asyncio, finish, ended, leave):
        self.loop = loop
        self.context = context
        self.variable = variable
        self.make_task = asyncio.Task
        self.enter_task = asyncio.tasks._enter_task
        self.leave_task = asyncio.tasks._leave_task
        self.finish = finish
        self.ended = ended
        self.leave = leave

    cdef int spare(self) except -1:
        self.steps = Steps.__new__(Steps)
        self.steps.starter = self
        # Not loop.create_task: a factory of the user's is for tasks of the user's, and an eager one
        # would step it now.
        task = self.make_task(self.steps, loop=self.loop, context=self.context)
        self.enter_task(self.loop, task)
        self.task = task
        self.name = task.get_name()
        task = None
        self.refs = Py_REFCNT(self.task)
        self.weakrefs = getweakrefcount(self.task)
        return 0

    cdef int drop(self) except -1:
        task, self.task = self.task, None
        self.steps = None
        self.leave_task(self.loop, task)
        return 0

    cdef bint untouched(self) except -1:
        """Nobody can tell the spare Task from a new one, nor will anybody later."""
        task = self.task
        return (Py_REFCNT(self.task) == self.refs + 1 and getweakrefcount(task) == self.weakrefs
                and not task._must_cancel and not task.cancelling() and task._callbacks is None
                and task.get_name() is self.name)

    def start(self, Call call):
        """Begin a call: the Task in which it goes on, or None if it has ended."""
        cdef object context, pending
        cdef Steps steps
        if self.task is None:
            self.spare()
        steps = self.steps
        steps.call = call
        context = PyContext_Copy(self.context)
        PyContext_Enter(context)
        try:
            PyContextVar_Set(self.variable, call)
            pending = steps.advance(None, None)
        finally:
            PyContext_Exit(context)
        if steps.call is None:
            if not self.untouched():
                self.drop()
            return None
        steps.context = context
        steps.pending = pending
        steps.waits = True
        task = self.task
        self.drop()
        return task

    def close(self):
        """The spare Task is current no more; it ends when it has its turn."""
        if self.task is not None:
            self.drop()
