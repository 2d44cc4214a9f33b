"""Running: the worker's end of the fast path, and how a task ends, whoever runs it.

`work` claims tasks, runs them one after the other and seals their returns.  What an actor does with
its calls is in actors.pyx; both run a task through `execute`, or, where several are under way at
once, through a `Call`.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pyray._core.compact cimport compact_decode as decode_inline
from pyray._core.dispatch cimport be_watched, next_task, ring_node, stop_searching, token_release
from pyray._core.events cimport note
from pyray._core.heap cimport heap_begin_free, heap_free, heap_is_small
from pyray._core.holds cimport borrow_for_view
from pyray._core.interrupts cimport (
    begin_users_code, cancelled_by, cancelled_while, children_too, refuse_cancelled, stop_if_asked,
    users_code,
)
from pyray._core.layout cimport *
from pyray._core.objects cimport alive, deps_of, enqueue, returns_of, sealed
from pyray._core.points cimport *
from pyray._core.records cimport (
    attempt_bits, attempt_of, gen_in, gen_of, stop_of, task_recycle, task_recycle_from,
)
from pyray._core.shm cimport Ctx, get_ctx, object_at, task_at
from pyray._core.store cimport ObjectID, say_unseen
from pyray._core.streams cimport new_item, new_writer
from pyray._core.tasks cimport (
    TaskContext, base, here, holds_arrays, holds_for_others, set_variable, the_only,
)
from pyray._core.values cimport RESULT, RESULT_MORE, copy_value, load_raw, put_value, store_value
from pyray._core.waiting cimport begin_task, end_task, set_task_thread
from pyray._core.yielding cimport (
    check_iterator, store_each, store_items, store_return, write_all,
)

import os
import sys

from pyray._core.errors import ActorExit, ObjectLostError
from pyray._core.generators import DynamicObjectRefGenerator
from pyray._core.tasks import sweep

cdef Ctx *C = get_ctx()

cdef enum:
    SOON_NS = 50000000

cdef dict _functions = {}
cdef object _load_function = None
cdef object _make_error = None
cdef object _before_shaped = None
cdef str _name = ""


@cython.final
cdef class Function:
    """A function as a worker runs it."""

    def __init__(self, call, name, retry, max_calls):
        self.call = call
        self.name = name
        self.retry = retry
        self.max_calls = max_calls


class WorkerExit(BaseException):
    """The worker process is to end, with this exit code."""

    def __init__(self, code):
        self.code = code


class BecomeActor(BaseException):
    """The worker process is to be the actor that this task makes, for the rest of its life."""

    def __init__(self, task):
        self.task = task


def set_worker_callbacks(load_function, make_error, before_shaped):
    """What the worker does in Python: find a function by number -> Function; turn an exception into
    what is stored; apply a task's GPUs and threads."""
    global _load_function, _make_error, _before_shaped
    _load_function = load_function
    _make_error = make_error
    _before_shaped = before_shaped
    _functions.clear()


def current_name():
    """Name of the function that runs, or that ran last; empty before the first."""
    if C.attached and C.me.role >= ROLE_WORKER:
        me = here()
        if isinstance(me, Call):
            return (<Call>me).function.name if (<Call>me).function is not None else _name
    return _name


def current_function():
    """The function that the calling task runs, or None outside of one."""
    cdef TaskContext me = here()
    if isinstance(me, Call):
        return None if (<Call>me).over else (<Call>me).function.call
    if not me.handle or C.me.role < ROLE_WORKER:
        return None
    found = _functions.get(task_at(C, me.handle).func)
    return None if found is None else (<Function>found).call


def several_at_once(variable):
    """From now on calls run side by side here; the context variable tells which one asks.

    An actor that holds CPUs counts as waiting while any of them waits; it takes its CPUs again in
    the calling thread.
    """
    set_variable(variable)
    if C.me.shaped == SHAPED_RUNS:
        set_task_thread(True)
        begin_task()


# ---- how a task ends -----------------------------------------------------------------------

cdef void finish(uint64_t handle) noexcept nogil:
    """The returns are sealed: the record goes back, or to its submitter if it holds ids for it."""
    cdef pr_task *t = task_at(C, handle)
    PR_HOT_POINT(C, POINT_RESULTS_SEALED)
    if t.ext_size:
        free_ext(t)
    finish_ending(handle)


cdef void free_ext(pr_task *t) noexcept nogil:
    """Give the block of a task's returns and arguments back.  See free_block in objects.pyx: the
    same, for tasks."""
    cdef uint64_t s = at_load64(&t.state), size = t.ext_size
    seen_by_freer(t)[0] = heap_begin_free(C, t.ext, size)
    at_store64(&t.state, (s & PR_KEEP_ATTEMPT) | TASK_ENDING | (<uint64_t>C.self << 48))
    if not heap_is_small(size):
        at_store32(&t.ext_size, 0)
    heap_free(C, t.ext, size)
    PR_POINT(C, POINT_ENDING)
    at_store32(&t.ext_size, 0)


cdef void finish_ending(uint64_t handle) noexcept nogil:
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s
    if at_load16(&t.flags) & TASK_F_HELD:
        s = at_load64(&t.state)
        at_store64(&t.state, (s & PR_KEEP_ATTEMPT) | TASK_DONE)
        at_store64(&C.me.current, 0)
        if not at_load16(&t.flags) & TASK_F_HELD:
            # The submitter died meanwhile: the node has taken the flag away, and may have looked
            # before we were done.
            s = at_load64(&t.state)
            if (s & 0xFF) == TASK_DONE and gen_of(s) == gen_in(handle):
                task_recycle_from(C, handle, s)
    else:
        task_recycle(C, handle)
        at_store64(&C.me.current, 0)


cdef int store_error(pr_task *t, object error) except -1:
    """Seal all returns with an exception; one that cannot be stored is replaced by its text.

    A tuple stands for TaskCancelledError (interrupts.cancelled_value); an id for the error that is
    there: the node passes a user's exception on without unpickling it.
    """
    cdef uint64_t *rets = returns_of(C, t)
    cdef int i
    cdef bint awaited = False
    for i in range(t.nreturns):
        if not alive(C, rets[i]) or sealed(C, rets[i]):
            awaited = True
            continue
        if not at_load64(&object_at(C, rets[i]).state) & OBJ_DROPPED:
            awaited = True
        try:
            if type(error) is ObjectID:
                copy_value(rets[i], <ObjectID>error, OBJ_ERROR)
            else:
                store_value(rets[i], error, OBJ_ERROR, RESULT, "exception")
        except Exception as problem:
            if type(error) is tuple:
                # Without its text it always fits.
                store_value(rets[i], error[:1], OBJ_ERROR, RESULT, "exception")
                continue
            try:
                store_value(rets[i], _make_error(error, problem, True), OBJ_ERROR, RESULT,
                            "exception")
            except Exception:
                # Not even its text fits into the store: what fits into the record always does.
                store_value(rets[i], "its result did not fit", OBJ_ERROR, RESULT, "exception")
    if not awaited and type(error) is not ObjectID:
        say_unseen(error)
    return 0


cdef int store_error_at(uint64_t task, object error) except -1:
    return store_error(task_at(C, task), error)


cdef int store_result(uint64_t handle, Function f, int attempt, object result,
                      bint alone) except -1:
    """Seal the returns with what the function returned, or yields; `alone`, see yielding.pyx."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t *rets
    cdef int i
    cdef str name = f.name
    if t.flags & TASK_F_STREAM:
        return write_all(handle, name, result, alone)
    if t.flags & TASK_F_DYNAMIC:
        result = collect(handle, f, attempt, result, alone)
        if C.forked:
            return 0
    if t.nreturns == 1:
        return store_value(t.ret0, result, 0, RESULT, "result")
    if t.nreturns == 0:
        return 0
    rets = returns_of(C, t)
    if hasattr(result, "__next__"):
        return store_each(handle, name, result, alone)
    if not isinstance(result, (tuple, list)):
        try:
            result = tuple(result)
        except TypeError:
            raise TypeError(
                f"{name} was to return {t.nreturns} values (num_returns), but returned "
                f"one, of type {type(result).__name__}") from None
    if len(result) != t.nreturns:
        raise ValueError(f"{name} was to return {t.nreturns} values (num_returns), but "
                         f"returned {len(result)}")
    for i in range(t.nreturns):
        store_return(rets[i], result[i], RESULT if i == t.nreturns - 1 else RESULT_MORE)
        PR_POINT(C, POINT_RESULTS_HALF_SEALED)
    return 0


cdef object collect(uint64_t handle, Function f, int attempt, object values, bint alone):
    """num_returns="dynamic": the ids of all that is yielded; an exception is the last one's value,
    unless it has the task run again."""
    cdef list refs = []
    check_iterator(f.name, values, "dynamic")
    try:
        store_items(handle, values, refs, alone)
    except Exception as e:
        if C.forked:
            raise
        refs.append(error_item(handle, f, attempt, <uint32_t>len(refs) + 1, e))
    return DynamicObjectRefGenerator(refs)


cdef object error_item(uint64_t handle, Function f, int attempt, uint32_t index, object error):
    cdef pr_task *t = task_at(C, handle)
    if to_retry(handle, t, f, attempt, error) or cancelled_by(handle, error):
        raise error
    return new_item(t, index, _make_error(error, f.name, False), OBJ_ERROR)


cdef object load_argument(uint64_t handle, bint writable):
    """A value that the submitter holds for the task, unless the submitter has died since."""
    cdef object value
    if not alive(C, handle):
        raise ObjectLostError("an argument is gone: the process that submitted the task died")
    if object_at(C, handle).state & (OBJ_INLINE | OBJ_COMPACT):
        value = load_raw(handle, None)
        if not alive(C, handle):
            raise ObjectLostError("an argument is gone: the process that submitted the task died")
        return value
    return load_raw(handle, borrow_for_view(handle), writable)


cdef object run(pr_task *t, object call, uint64_t *failed):
    """Call with the task's arguments; `failed` is set instead if one of them is an error."""
    cdef pr_dep *d
    cdef Py_ssize_t i
    cdef object payload, values, names = None
    cdef list mutable
    cdef bint writable = (t.flags & TASK_F_WRITABLE) != 0
    failed[0] = 0
    if t.flags & TASK_F_ARGS_OBJECT:
        payload = load_argument(t.args_object, writable)
    else:
        payload = decode_inline(<const char *>t.args, t.args_len)
    if t.flags & TASK_F_KWARGS:
        values, names = payload
    else:
        values = payload
    if t.ndeps:
        mutable = list(values)
        d = deps_of(C, t)
        for i in range(t.ndeps):
            if d[i].position == PR_NOWHERE:
                continue
            if alive(C, d[i].object) and object_at(C, d[i].object).state & OBJ_ERROR:
                failed[0] = d[i].object
                return None
            mutable[d[i].position] = load_argument(d[i].object, writable)
        values = tuple(mutable)
        mutable = None
    payload = None
    if names is not None:
        i = len(values) - len(names)
        kwargs = dict(zip(names, values[i:]))
        values = values[:i]
        return call(*values, **kwargs)
    return call(*<tuple>values)


cdef Function function_of(pr_task *t):
    cdef object found = _functions.get(t.func)
    if found is None:
        found = _load_function(t.func)
        _functions[t.func] = found
    return <Function>found


cdef int set_running(uint64_t handle, pr_task *t) noexcept nogil:
    cdef uint64_t s = at_load64(&t.state)
    at_store_release64(&t.state, (s & ~<uint64_t>0xFF) | TASK_RUNNING)
    PR_HOT_POINT(C, POINT_RUNNING)
    C.me.started_ns = now_ns()
    C.me.counter += 1
    be_watched(C)
    return attempt_of(s)


cdef void enter(TaskContext me, uint64_t handle, uint32_t depth):
    me.handle = handle
    me.base = None
    me.counter = 0
    me.depth = depth


cdef int ends_with(object error):
    """Exit code of an exception that ends the process; -1 for others."""
    if isinstance(error, SystemExit):
        code = error.code
        return code if isinstance(code, int) else 0 if code is None else 1
    if isinstance(error, ActorExit):
        return 0
    return -1


cdef bint to_retry(uint64_t handle, pr_task *t, Function f, int attempt, object error):
    return (t.flags & TASK_F_RETRY_EXC and not stop_of(t, handle)
            and (t.max_retries < 0 or attempt < t.max_retries)
            and (f is None or f.retry is None or isinstance(error, f.retry)))


cdef object put_error(Function f, object error):
    """A constructor's exception as an object of its own."""
    value = _make_error(error, f.name, False)
    try:
        return put_value(value, base(the_only()), 0, "exception")
    except Exception as problem:
        return put_value(_make_error(value, problem, True), base(the_only()), 0, "exception")


cdef int fail(uint64_t handle, TaskContext me, Function f, object error) except -1:
    """Seal its returns with what it raised: how it ended, as events tell it (EVENT_*)."""
    cdef pr_task *t = task_at(C, handle)
    name = f.name if f is not None else getattr(error, "task_name", None)
    if cancelled_by(handle, error):
        children_too(handle, me.counter)
        store_error(t, cancelled_while(handle, name, error))
        return EVENT_FAILED | EVENT_CANCELLED
    store_error(t, _make_error(error, name, False))
    return EVENT_FAILED


cdef int execute(uint64_t handle) except -1:
    """Run a claimed task to its end, whatever the user's code does.

    Returns 1 if it is to be run again: it is READY, or at the node, then; for an actor's call the
    caller sees to it, which keeps the order.
    """
    global _name
    cdef pr_task *t = task_at(C, handle)
    cdef TaskContext me = the_only()
    cdef uint64_t failed = 0
    cdef uint32_t outcome = 0
    cdef int attempt, code = -1
    cdef Function f = None
    PyErr_CheckSignals()    # a signal that came before the task did is none of its business
    attempt = set_running(handle, t)
    C.me.depth = t.depth
    enter(me, handle, t.depth)
    begin_task()
    try:
        begin_users_code()
        f = function_of(t)
        _name = f.name
        stop_if_asked(handle)
        result = run(t, f.call, &failed)
        users_code(False)
        if C.forked:
            leave_fork(None)
        if failed:
            outcome = EVENT_FAILED
            store_error(t, load_raw(failed, None))
        else:
            store_result(handle, f, attempt, result, True)
            if C.forked:
                leave_fork(None)    # a generator's child
        result = None
    except BaseException as e:
        users_code(False)
        if C.forked:
            leave_fork(e)
        code = ends_with(e)
        if code < 0 and isinstance(e, Exception) and to_retry(handle, t, f, attempt, e):
            enter(me, 0, 0)
            note(t, attempt, C.me.started_ns, EVENT_FAILED)
            end_task()
            retry(handle, t, attempt)
            return 1
        outcome = fail(handle, me, f, e)
    enter(me, 0, 0)
    end_task()
    C.me.depth = 0
    note(t, attempt, C.me.started_ns, outcome)
    finish(handle)
    if code >= 0:
        raise WorkerExit(code)
    if f is not None and f.max_calls:
        f.calls += 1
        if f.calls >= f.max_calls:
            raise WorkerExit(0)
    return 0


cdef void retry(uint64_t handle, pr_task *t, int attempt) noexcept nogil:
    cdef uint64_t s = at_load64(&t.state)
    cdef uint64_t status = TASK_READY if t.shape == 0 else TASK_NODE
    C.me.depth = 0
    at_store64(&C.me.moving, handle)
    at_store64(&t.state, (s & PR_GEN_MASK) | attempt_bits(attempt + 1) | status)
    at_store64(&C.me.current, 0)
    enqueue(C, handle)
    at_store64(&C.me.moving, 0)


# ---- several at once -----------------------------------------------------------------------

# Not for the collector: what it holds is no part of a cycle that could go before it.
@cython.final
@cython.no_gc
cdef class Call(TaskContext):
    """A claimed call of an actor that runs beside others, in a thread or a coroutine.

    `begin`, then one of `finish` and `fail`; whoever calls them has made this the value of the
    context variable.
    """

    cpdef begin(self):
        """Decode the arguments and call the method: returns what it returns, a coroutine if it is
        an async one.  None, with `over` set, if an argument is an error, or if it was cancelled
        while it waited here for its turn."""
        cdef pr_task *t = task_at(C, self.handle)
        cdef uint64_t failed = 0
        self.attempt = take_up(self.handle, t)
        if self.attempt < 0:
            self.over = True
            return None
        self.started = C.me.started_ns
        C.me.started_ns = 0     # there are several at once: it is no one's
        self.function = function_of(t)
        refuse_cancelled(self.handle)
        result = run(t, self.function.call, &failed)
        if C.forked:
            leave_fork(None)
        if failed:
            store_error(t, load_raw(failed, None))
            self.done(EVENT_FAILED)
        return result

    cpdef finish(self, result):
        """Seal its returns."""
        if C.forked:
            leave_fork(None)
        store_result(self.handle, self.function, self.attempt, result, False)
        if C.forked:
            leave_fork(None)
        self.done(0)

    def fail(self, error):
        """Seal its returns with what it raised.  True if it is to be begun again instead; raises
        WorkerExit if the process is to end."""
        cdef pr_task *t = task_at(C, self.handle)
        cdef int code = ends_with(error)
        cdef uint64_t s
        if C.forked:
            leave_fork(error)
        if (code < 0 and isinstance(error, Exception)
                and to_retry(self.handle, t, self.function, self.attempt, error)):
            note(t, self.attempt, self.started, EVENT_FAILED)
            s = at_load64(&t.state)
            at_store64(&t.state, (s & PR_LESS_ATTEMPT) | attempt_bits(self.attempt + 1))
            self.base = None
            self.counter = 0
            return True
        self.done(fail(self.handle, self, self.function, error))
        if code >= 0:
            raise WorkerExit(code)
        return False

    cdef void done(self, uint32_t outcome):
        note(task_at(C, self.handle), self.attempt, self.started, outcome)
        finish(self.handle)
        self.over = True

    @property
    def cancelled(self):
        """Not 0 if somebody has cancelled it: another number each time."""
        return 0 if self.over else stop_of(task_at(C, self.handle), self.handle)

    @property
    def yields(self):
        """How what it yields is wanted: "streaming", "dynamic", or the number of its returns."""
        cdef pr_task *t = task_at(C, self.handle)
        return ("streaming" if t.flags & TASK_F_STREAM
                else "dynamic" if t.flags & TASK_F_DYNAMIC else t.nreturns)

    def writer(self):
        """Its end of the stream; `finish_stream` when that is written."""
        return new_writer(self.handle)

    def finish_stream(self):
        """The stream is written."""
        self.done(0)

    def item(self, index, value):
        """num_returns="dynamic": the id of a value that it has yielded."""
        return new_item(task_at(C, self.handle), index + 1, value, 0)

    def failed_item(self, index, error):
        """The same of an exception; raises it if the call is to be begun again."""
        return error_item(self.handle, self.function, self.attempt, index + 1, error)

    def finish_items(self, refs):
        """Seal the return with the ids of what it has yielded."""
        store_value(task_at(C, self.handle).ret0, DynamicObjectRefGenerator(refs), 0, RESULT,
                    "result")
        self.done(0)

    @property
    def method(self):
        """Number of its method."""
        return task_at(C, self.handle).func


cdef int how_many(Call call) noexcept:
    """How many values it returns; -1 if it yields them."""
    cdef pr_task *t = task_at(C, call.handle)
    return -1 if t.flags & (TASK_F_STREAM | TASK_F_DYNAMIC) else t.nreturns


cdef Call new_call(uint64_t handle):
    """None if it was cancelled since it was claimed."""
    cdef Call c = Call.__new__(Call)
    cdef pr_task *t = task_at(C, handle)
    enter(c, handle, t.depth)
    c.group = t.group
    # What was read is the call's if it is still ours: the node may cancel a call that waits here
    # for its turn, and the record be another's at once.
    return c if is_ours(handle, at_load64(&t.state)) else None


cdef inline bint is_ours(uint64_t handle, uint64_t s) noexcept nogil:
    return (gen_of(s) == gen_in(handle) and (s >> 48) & 0xFF == C.self
            and ((s & 0xFF) == TASK_CLAIMED or (s & 0xFF) == TASK_RUNNING))


cdef int take_up(uint64_t handle, pr_task *t) noexcept nogil:
    """Set a claimed call running: its attempt, or -1 if the node has cancelled it before."""
    cdef uint64_t s
    while True:
        s = at_load64(&t.state)
        if not is_ours(handle, s):
            return -1
        if at_cas64(&t.state, s, (s & ~<uint64_t>0xFF) | TASK_RUNNING):
            break
    C.me.started_ns = now_ns()
    C.me.counter += 1
    be_watched(C)
    return attempt_of(s)


# ---- the worker's loop ---------------------------------------------------------------------

def leave_fork(error):
    """A child that the task forked has come back from the task's function: it ends here, and must
    touch nothing, since the task is its parent's."""
    code = 0
    if isinstance(error, SystemExit):
        code = ends_with(error)
    elif error is not None:
        import traceback
        traceback.print_exception(error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def running_shaped():
    """Whether the running task holds resources that the node lent it."""
    return bool(the_only().handle and C.me.shaped != SHAPED_NONE)


def chores(Py_ssize_t n):
    """Between two tasks: let go of what is held for nothing, when asked, and now and then."""
    do_chores(n)


cdef int do_chores(Py_ssize_t n) except -1:
    if at_load_relaxed32(&C.dispatch.sweep) != C.swept:
        C.swept = at_load32(&C.dispatch.sweep)
        sweep()
    elif n % 16 == 0:
        if holds_for_others():
            sweep()
    elif holds_arrays():
        sweep()     # whoever seals them is not to wait for what this process runs next
    return 0


def work(double seconds):
    """Run tasks until there was none for `seconds`, the session ends, or the caller is to sweep;
    after a task, not longer than SOON_NS.

    Returns the number of tasks run.

    Raises
    ------
    WorkerExit
        A task called ``sys.exit``, or a function reached its ``max_calls``.
    BecomeActor
        The node gave this process an actor to be.
    """
    cdef uint64_t task, assigned = 0
    cdef int64_t timeout = <int64_t>(seconds * 1e9)
    cdef Py_ssize_t n = 0
    set_task_thread(True)
    try:
        while True:
            with nogil:
                task = next_task(C, &assigned, timeout)
            if task:
                execute(task)
            elif assigned:
                run_assigned(assigned)
            else:
                PyErr_CheckSignals()
                return n
            n += 1
            timeout = min(timeout, SOON_NS)     # what the task left is to be let go of soon
            do_chores(n)
    finally:
        set_task_thread(False)
        stop_searching(C)
        token_release(C)


cdef int run_assigned(uint64_t handle) except -1:
    """A task that came from the node with resources of its own."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s
    if handle == ASSIGNED_RETIRE:
        raise WorkerExit(0)
    s = at_load64(&t.state)
    if (s & 0xFF) != TASK_NODE or gen_of(s) != gen_in(handle):
        at_store32(&C.me.shaped, SHAPED_NONE)
        ring_node(C)
        return 0
    at_store64(&C.me.current, handle)
    if at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>C.self << 48)):
        if t.flags & TASK_F_CREATES:
            _before_shaped((<const char *>C.me.gpus).decode())
            raise BecomeActor(handle)
        try:
            _before_shaped((<const char *>C.me.gpus).decode())
            execute(handle)
        finally:
            at_store32(&C.me.shaped, SHAPED_NONE)
            ring_node(C)
            _before_shaped(";1;")
    else:
        at_store32(&C.me.shaped, SHAPED_NONE)
        ring_node(C)
    return 0
