"""Submitting a task and running one: both ends of the fast path.

`Caller.__call__` writes a record and queues it; a worker's `work` claims it, runs it and seals its
returns.  Nothing else takes part: no other process, no lock and, while everybody is busy, no system
call.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyray._core.compact cimport compact_decode as decode_inline, compact_encode as encode_inline
from pyray._core.dispatch cimport announce, next_task, ring_node, stop_searching, token_release
from pyray._core.heap cimport heap_free, heap_reset, heap_trim
from pyray._core.ids cimport task_digest
from pyray._core.layout cimport *
from pyray._core.objects cimport (
    alive, await_object, deps_of, enqueue, returns_of, sealed, task_ready,
)
from pyray._core.queues cimport queue_push, queues_reset
from pyray._core.records cimport (
    attempt_bits, attempt_of, count_unstarted, gen_in, gen_of, records_reset, task_new,
    task_recycle,
)
from pyray._core.shm cimport Ctx, get_ctx, object_at, task_at
from pyray._core.store cimport (
    OWN, RESULT, RESULT_MORE, ObjectID, alloc, borrow_for_view, check_session, escape, has_duties,
    load_raw, new_id, new_record, put_value, set_sweep, store_reset, store_value, sweep_store,
)
from pyray._core.waiting cimport begin_task, end_task, set_task_thread

import os
import sys

from pyray._core.errors import ObjectLostError, OutOfRecordsError

cdef Ctx *C = get_ctx()

# The id that children of the running task hash from, and how many there were.
cdef bytes _base = None
cdef uint64_t _counter = 0
cdef uint64_t _running = 0
# [(task handle, what it needs kept alive)]: tasks that hold ids until they are done.
cdef list _held = []
cdef Py_ssize_t _held_limit = 64
cdef uint64_t _held_bytes = 0       # roughly what has come to be held since the last sweep
cdef dict _functions = {}
cdef object _load_function = None
cdef object _make_error = None
cdef object _before_shaped = None
cdef str _name = ""
cdef uint32_t _sweeps = 0           # the last call to sweep that this process has followed


cdef bytes base():
    """The 20 bytes that ids made here hash from: the running task's own id."""
    global _base
    cdef uint8_t out[20]
    cdef pr_task *t
    cdef uint64_t attempt
    if _base is None:
        if _running:
            t = task_at(C, _running)
            task_digest(t.parent_id, t.counter, out)
            attempt = attempt_of(at_load64(&t.state))
            if attempt:
                task_digest(out, attempt << 32, out)
            _base = (<const char *>out)[:20]
        elif C.me.role == 2:
            # A thread that a task left behind in its worker: a root of the process's own.
            task_digest(C.head.root_id, (<uint64_t>C.self << 32) | C.me.pid, out)
            _base = (<const char *>out)[:20]
        else:
            _base = (<const char *>C.head.root_id)[:20]
    return _base


def current_task_id():
    """The running task's 20 bytes; in the driver, those of its root task."""
    check_session()
    return base()


def put(value):
    """Place a value in the store: see pyray.put."""
    global _counter
    check_session()
    if type(value) is ObjectID:
        raise TypeError("put takes a value, and this is an ObjectID already; to store an id, put "
                        "it into a list")
    if len(_held) > _held_limit:
        sweep_held()
    _counter += 1
    # Pickling runs code of the user's, and so may other threads: shutdown waits for this to end.
    C.inflight += 1
    try:
        return put_value(value, base(), _counter, "x")
    finally:
        C.inflight -= 1


cdef int sweep_held() except -1:
    """Let go of what finished tasks needed, and free their records."""
    global _held, _held_limit, _held_bytes
    cdef list keep = []
    cdef uint64_t handle
    cdef pr_task *t
    cdef uint64_t s
    for entry in _held:
        handle = (<tuple>entry)[0]
        t = task_at(C, handle)
        s = at_load64(&t.state)
        if gen_of(s) != gen_in(handle):
            continue
        if (s & 0xFF) == TASK_DONE:
            if at_cas64(&t.state, s, (s & ~<uint64_t>0xFF) | TASK_FREE):
                task_recycle(C, handle)
        else:
            keep.append(entry)
    _held, keep = keep, _held
    _held_limit = max(64, 2 * len(_held))
    _held_bytes = 0
    keep.clear()
    return 0


def sweep():
    """Let go of everything that is held for nothing; returns how much is still held for cause."""
    if not C.attached or C.forked:
        return 0
    sweep_held()
    sweep_store()
    heap_trim(C)
    return len(_held) + (1 if has_duties() else 0)


set_sweep(sweep)


# ---- submitting ----------------------------------------------------------------------------

@cython.final
cdef class Caller:
    """``.remote`` of a remote function: checks a call, records it and queues it.

    Bound to a session lazily, by `bind(self)`, which fills in what follows from the session: the
    function's number and the shape of its resources.
    """
    cdef readonly object function       # the RemoteFunction that this belongs to
    cdef object path                    # its arguments' name in an error
    cdef object bind                    # (Caller) -> None, or a callable to use instead
    cdef object check                   # (args, kwargs) -> None, raises TypeError
    cdef uint32_t epoch
    cdef public uint32_t func
    cdef public int shape
    cdef public int nreturns
    cdef public int max_retries
    cdef public bint retry_exceptions
    cdef public Py_ssize_t min_args, max_args

    def __init__(self, function, bind, check):
        self.function = function
        self.path = ArgumentPath(function)
        self.bind = bind
        self.check = check
        self.min_args = 0
        self.max_args = -1
        self.nreturns = 1

    def bound(self):
        """Called by `bind` when it is done."""
        self.epoch = C.epoch

    @property
    def __doc__(self):
        return self.function.__doc__

    def __call__(self, *args, **kwargs):
        if self.epoch != C.epoch or not C.attached:
            instead = self.bind(self)
            if instead is not None:
                return instead(*args, **kwargs)
        if C.forked or C.broken:
            check_session()
        if kwargs or not self.min_args <= PyTuple_GET_SIZE(args) <= self.max_args:
            self.check(args, kwargs)
        C.inflight += 1
        try:
            return submit(self, args, kwargs)
        finally:
            C.inflight -= 1


cdef object submit(Caller f, tuple args, dict kwargs):
    global _counter, _held_bytes
    cdef Py_ssize_t nargs = PyTuple_GET_SIZE(args)
    cdef Py_ssize_t i, n, ndeps = 0
    cdef uint64_t handle, ret, ext, ext_size, counter
    cdef pr_task *t
    cdef pr_dep *d
    cdef uint64_t *rets
    cdef char inline_args[PR_INLINE_ARGS]
    cdef uint16_t flags = TASK_F_RETRY_EXC if f.retry_exceptions else 0
    cdef list deps = None
    cdef list values
    cdef list ids
    cdef list refs = None
    cdef ObjectID oid, args_object = None
    cdef object payload = args
    cdef bytes parent = base()
    if len(_held) > _held_limit or _held_bytes > C.head.n_units * (PR_UNIT // 8):
        sweep_held()
    for i in range(nargs):
        if type(<object>PyTuple_GET_ITEM(args, i)) is ObjectID:
            ndeps += 1
    if ndeps or kwargs:
        values = list(args)
        if kwargs:
            for value in kwargs.values():
                values.append(value)
        deps = []
        for i in range(len(values)):
            if type(<object>PyList_GET_ITEM(values, i)) is ObjectID:
                deps.append((i, values[i]))
                values[i] = None
        ndeps = len(deps)
        if ndeps > PR_MAX_DEPS:
            raise ValueError(f"a task takes at most {PR_MAX_DEPS} ObjectIDs as arguments, not "
                             f"{ndeps}; pass them in a list and get them in the task")
        payload = tuple(values)
        if kwargs:
            flags |= TASK_F_KWARGS
            payload = (payload, tuple(kwargs))
        if ndeps:
            refs = []
            for _, oid in deps:
                escape(oid)
                refs.append(oid)
    # Everything that can fail comes before anything that others can see.
    n = encode_inline(payload, inline_args, PR_INLINE_ARGS)
    if n < 0:
        _counter += 1
        counter = _counter
        args_object = put_value(payload, parent, counter, f.path)
        escape(args_object)
        flags |= TASK_F_ARGS_OBJECT
        if refs is None:
            refs = []
        refs.append(args_object)
    if refs is not None:
        flags |= TASK_F_HELD
    ext = ext_size = 0
    if ndeps > PR_INLINE_DEPS:
        ext_size += ndeps * sizeof(pr_dep)
    if f.nreturns > 1:
        ext_size += f.nreturns * sizeof(uint64_t)
    if ext_size:
        ext = alloc(ext_size)
    _counter += 1
    counter = _counter      # a copy: what is allocated below may run a destructor that submits
    ids = []
    try:
        for i in range(f.nreturns):
            ret = new_record()
            ids.append(new_id(ret, parent, counter, <uint32_t>i))
        handle = task_new(C)
        if handle == 0:
            raise OutOfRecordsError(
                f"no room for another task's record: all {C.head.n_chunks * PR_CHUNK_BYTES >> 20} "
                "MiB of records are in use; get or drop some results before submitting more")
    except BaseException:
        if ext_size:
            heap_free(C, ext, ext_size)
        raise
    t = task_at(C, handle)
    t.ext = ext
    t.ext_size = ext_size
    t.counter = counter
    memcpy(t.parent_id, <const char *>parent, 20)
    t.func = f.func
    t.shape = <uint16_t>f.shape
    t.depth = <uint16_t>(C.me.depth + 1)
    t.submitter = <uint16_t>C.self
    t.nreturns = <uint16_t>f.nreturns
    t.ndeps = <uint16_t>ndeps
    t.max_retries = <short>f.max_retries
    t.ret0 = 0
    if n >= 0:
        t.args_len = <uint16_t>n
        memcpy(t.args, inline_args, n)
    else:
        t.args_object = args_object.handle
    t.flags = flags
    rets = returns_of(C, t)
    for i in range(f.nreturns):
        ret = (<ObjectID>PyList_GET_ITEM(ids, i)).handle
        rets[i] = ret
        object_at(C, ret).task = handle
    if refs is not None:
        _held.append((handle, refs))
        for oid in refs:
            _held_bytes += object_at(C, oid.handle).size
    if ndeps:
        d = deps_of(C, t)
        i = 0
        for position, oid in deps:
            d[i].object = oid.handle
            d[i].position = position
            d[i].next = 0
            d[i].ready = 0
            i += 1
        at_store64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_WAITING)
        for i in range(ndeps):
            await_object(C, d[i].object, handle, <uint32_t>i)
        if task_ready(C, handle):
            enqueue(C, handle)
    elif f.shape == 0:
        at_store_release64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_READY)
        if not queue_push(C, handle, t.depth):
            take_back(handle, t)
            raise OutOfRecordsError("this process's queue of ready tasks is full (8 million); "
                                    "get some results before submitting more")
        announce(C)
    else:
        at_store_release64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_NODE)
        enqueue(C, handle)
    if f.nreturns == 1:
        return <object>PyList_GET_ITEM(ids, 0)
    if f.nreturns == 0:
        return None
    return ids


cdef int take_back(uint64_t handle, pr_task *t) except -1:
    """A task that could not be queued: nobody else knows of it, but whoever scans may claim it."""
    cdef uint64_t s = at_load64(&t.state)
    if (s & 0xFF) == TASK_READY and at_cas64(
            &t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>C.self << 48)):
        store_error(t, OutOfRecordsError("this task could not be queued"))
        finish(handle)
    return 0


class ArgumentPath:
    """Names the root of a call's arguments in a serialization error; made before it is needed, so
    it says it only when asked."""

    def __init__(self, function):
        self.function = function

    def __str__(self):
        return f"arguments of {getattr(self.function, '_name', 'the task')}: args"


# ---- running -------------------------------------------------------------------------------

@cython.final
cdef class Function:
    """A function as a worker runs it."""
    cdef object call
    cdef str name
    cdef object retry           # None, or a tuple of exception classes
    cdef int max_calls          # 0: no limit
    cdef int calls

    def __init__(self, call, name, retry, max_calls):
        self.call = call
        self.name = name
        self.retry = retry
        self.max_calls = max_calls


class WorkerExit(BaseException):
    """The worker process is to end, with this exit code."""

    def __init__(self, code):
        self.code = code


def set_worker_callbacks(load_function, make_error, before_shaped):
    """What the worker does in Python: find a function by number -> Function; turn an exception into
    what is stored; apply a task's GPUs and threads."""
    global _load_function, _make_error, _before_shaped
    _load_function = load_function
    _make_error = make_error
    _before_shaped = before_shaped


def current_name():
    """Name of the function that runs, or that ran last; empty before the first."""
    return _name


cdef void finish(uint64_t handle) noexcept nogil:
    """The returns are sealed: the record goes back, or to its submitter if it holds ids for it."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s, size = t.ext_size
    if size:
        t.ext_size = 0
        heap_free(C, t.ext, size)
    if at_load16(&t.flags) & TASK_F_HELD:
        s = at_load64(&t.state)
        at_store64(&t.state, (s & PR_KEEP_ATTEMPT) | TASK_DONE)
        at_store64(&C.me.current, 0)
        if not at_load16(&t.flags) & TASK_F_HELD:
            # The submitter died meanwhile: the node has taken the flag away, and may have looked
            # before we were done.
            s = at_load64(&t.state)
            if (s & 0xFF) == TASK_DONE and gen_of(s) == gen_in(handle):
                if at_cas64(&t.state, s, (s & ~<uint64_t>0xFF) | TASK_FREE):
                    task_recycle(C, handle)
    else:
        task_recycle(C, handle)
        at_store64(&C.me.current, 0)


cdef int store_error(pr_task *t, object error) except -1:
    """Seal all returns with an exception; one that cannot be stored is replaced by its text."""
    cdef uint64_t *rets = returns_of(C, t)
    cdef int i
    for i in range(t.nreturns):
        if not alive(C, rets[i]) or sealed(C, rets[i]):
            continue
        try:
            store_value(rets[i], error, OBJ_ERROR, RESULT, "exception")
        except Exception as problem:
            try:
                store_value(rets[i], _make_error(error, problem, True), OBJ_ERROR, RESULT,
                            "exception")
            except Exception:
                # Not even its text fits into the store: what fits into the record always does.
                store_value(rets[i], "its result did not fit", OBJ_ERROR, RESULT, "exception")
    return 0


cdef bytes current_base():
    return base()


cdef int store_error_at(uint64_t task, object error) except -1:
    return store_error(task_at(C, task), error)


cdef object propagate(pr_task *t, uint64_t failed):
    """An argument is an error: the task does not run, its returns are that error."""
    store_error(t, load_raw(failed, None))


cdef object load_argument(uint64_t handle):
    """A value that the submitter holds for the task, unless the submitter has died since."""
    cdef object value
    if not alive(C, handle):
        raise ObjectLostError("an argument is gone: the process that submitted the task died")
    if object_at(C, handle).state & (OBJ_INLINE | OBJ_COMPACT):
        value = load_raw(handle, None)
        if not alive(C, handle):
            raise ObjectLostError("an argument is gone: the process that submitted the task died")
        return value
    return load_raw(handle, borrow_for_view(handle))


cdef object run(uint64_t handle, pr_task *t, Function f, list failed):
    cdef pr_dep *d
    cdef Py_ssize_t i
    cdef object payload, values, names = None
    cdef list mutable
    if t.flags & TASK_F_ARGS_OBJECT:
        payload = load_argument(t.args_object)
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
            if alive(C, d[i].object) and object_at(C, d[i].object).state & OBJ_ERROR:
                failed.append(d[i].object)
                return None
            mutable[d[i].position] = load_argument(d[i].object)
        values = tuple(mutable)
        mutable = None
    payload = None
    if names is not None:
        i = len(values) - len(names)
        kwargs = dict(zip(names, values[i:]))
        values = values[:i]
        return f.call(*values, **kwargs)
    return f.call(*<tuple>values)


cdef int execute(uint64_t handle) except -1:
    """Run a claimed task to its end, whatever the user's code does."""
    global _base, _counter, _running, _name
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s
    cdef uint64_t *rets
    cdef int i, attempt
    cdef Function f = None
    cdef list failed = []
    cdef object exit_code = None
    cdef object error
    PyErr_CheckSignals()    # a signal that came before the task did is none of its business
    s = at_load64(&t.state)
    at_store_release64(&t.state, (s & ~<uint64_t>0xFF) | TASK_RUNNING)
    C.me.started_ns = now_ns()
    C.me.depth = t.depth
    C.me.counter += 1
    _running = handle
    _base = None
    _counter = 0
    begin_task()
    try:
        found = _functions.get(t.func)
        if found is None:
            f = _load_function(t.func)
            _functions[t.func] = f
        else:
            f = <Function>found
        _name = f.name
        result = run(handle, t, f, failed)
        if C.forked:
            leave_fork(None)
        if failed:
            propagate(t, failed[0])
        elif t.nreturns == 1:
            store_value(t.ret0, result, 0, RESULT, "result")
        elif t.nreturns > 1:
            rets = returns_of(C, t)
            if not isinstance(result, (tuple, list)):
                try:
                    result = tuple(result)
                except TypeError:
                    raise TypeError(
                        f"{f.name} was to return {t.nreturns} values (num_returns), but returned "
                        f"one, of type {type(result).__name__}") from None
            if len(result) != t.nreturns:
                raise ValueError(f"{f.name} was to return {t.nreturns} values (num_returns), but "
                                 f"returned {len(result)}")
            for i in range(t.nreturns):
                # An earlier attempt may have sealed it, and its id been dropped since.
                if alive(C, rets[i]) and not sealed(C, rets[i]):
                    store_value(rets[i], result[i], 0,
                                RESULT if i == t.nreturns - 1 else RESULT_MORE, "result")
        result = None
    except BaseException as e:
        if C.forked:
            leave_fork(e)
        attempt = attempt_of(s)
        if isinstance(e, SystemExit):
            code = e.code
            exit_code = code if isinstance(code, int) else 0 if code is None else 1
        elif (t.flags & TASK_F_RETRY_EXC and (t.max_retries < 0 or attempt < t.max_retries)
                and (f is None or f.retry is None or isinstance(e, f.retry))):
            _running = 0
            _base = None
            end_task()
            retry(handle, t, s, attempt)
            return 0
        error = _make_error(e, f.name if f is not None else getattr(e, "task_name", None), False)
        store_error(t, error)
        error = None
    _running = 0
    _base = None
    end_task()
    C.me.depth = 0
    finish(handle)
    if exit_code is not None:
        raise WorkerExit(exit_code)
    if f is not None and f.max_calls:
        f.calls += 1
        if f.calls >= f.max_calls:
            raise WorkerExit(0)
    return 0


def leave_fork(error):
    """A child that the task forked has come back from the task's function: it ends here, and must
    touch nothing, since the task is its parent's."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    elif error is not None:
        import traceback
        traceback.print_exception(error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def running():
    """Whether a task of the user's runs in this process at this moment."""
    return _running != 0


def held_tasks():
    """Number of unfinished tasks that this process holds ids for."""
    sweep_held()
    return len(_held)


def unstarted_children():
    """Number of tasks that this process submitted and that no worker has started."""
    return count_unstarted(C)


cdef void retry(uint64_t handle, pr_task *t, uint64_t s, int attempt) noexcept nogil:
    cdef uint64_t status = TASK_READY if t.shape == 0 else TASK_NODE
    C.me.depth = 0
    at_store64(&C.me.moving, handle)
    at_store64(&t.state, (s & PR_GEN_MASK) | attempt_bits(attempt + 1) | status)
    at_store64(&C.me.current, 0)
    enqueue(C, handle)
    at_store64(&C.me.moving, 0)


def work(double seconds):
    """Run tasks until there was none for `seconds`, or the session ends.

    Returns the number of tasks run.

    Raises
    ------
    WorkerExit
        A task called ``sys.exit``, or a function reached its ``max_calls``.
    """
    cdef uint64_t task, assigned = 0
    cdef int64_t timeout = <int64_t>(seconds * 1e9)
    cdef Py_ssize_t n = 0
    global _sweeps
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
            if at_load_relaxed32(&C.dispatch.sweep) != _sweeps:
                _sweeps = at_load32(&C.dispatch.sweep)
                sweep()
            elif n % 16 == 0:
                if has_duties() or _held:
                    sweep()
    finally:
        set_task_thread(False)
        stop_searching(C)
        token_release(C)


cdef int run_assigned(uint64_t handle) except -1:
    """A task that came from the node with resources of its own."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s
    if handle == 1:
        raise WorkerExit(0)     # retired by the node
    s = at_load64(&t.state)
    if (s & 0xFF) != TASK_NODE or gen_of(s) != gen_in(handle):
        at_store32(&C.me.shaped, SHAPED_NONE)
        ring_node(C)
        return 0
    at_store64(&C.me.current, handle)
    if at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>C.self << 48)):
        try:
            _before_shaped((<const char *>C.me.gpus).decode())
            execute(handle)
        finally:
            at_store32(&C.me.shaped, SHAPED_NONE)
            ring_node(C)
            _before_shaped(";1")
    else:
        at_store32(&C.me.shaped, SHAPED_NONE)
        ring_node(C)
    return 0


# ---- the rest ---------------------------------------------------------------------------------

def reset():
    """Forget private state: after attach and detach, and in a freshly forked worker."""
    global _base, _counter, _running, _held_limit
    heap_reset()
    records_reset()
    if C.attached:
        queues_reset(C)
    store_reset()
    _base = None
    _counter = 0
    _running = 0
    _held_limit = 64
    _held.clear()
    _functions.clear()


def running_task():
    """(task id, attempt) of the running task, or None in the driver."""
    if not _running:
        return None
    return base(), attempt_of(at_load64(&task_at(C, _running).state))


def put_result(value, bint error):
    """local_mode's way to store a task's result: under an id of its own, sealed at once."""
    global _counter
    cdef uint64_t handle
    check_session()
    _counter += 1
    if not error:
        return put_value(value, base(), _counter, "result")
    handle = new_record()
    store_value(handle, value, OBJ_ERROR, OWN, "exception")
    return new_id(handle, base(), _counter, 0)


def running_shaped():
    """Whether the running task holds resources that the node lent it."""
    return bool(_running and C.me.shaped != SHAPED_NONE)
