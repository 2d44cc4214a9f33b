"""Submitting: the caller's end of the fast path.

`submit` writes a record and queues it, for any worker or in an actor's mailbox; whoever runs it
(running.pyx) claims it and seals its returns.  Nothing else takes part: no other process, no lock
and, while everybody is busy, no system call.
"""

cimport cython
from cpython.list cimport PyList_GET_ITEM
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport write

from pyray._core.by_reference cimport is_shared, shared
from pyray._core.compact cimport compact_encode_arguments
from pyray._core.dispatch cimport announce
from pyray._core.generators cimport new_generator
from pyray._core.heap cimport heap_free, heap_reset, heap_trim
from pyray._core.holds cimport (
    borrow_for_view, contained_ids, has_duties, holds_reset, set_sweep, sweep_contained,
)
from pyray._core.ids cimport task_digest
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.pins cimport pins_reset
from pyray._core.points cimport *
from pyray._core.mailboxes cimport box_push
from pyray._core.objects cimport (
    alive, await_object, deps_of, enqueue, returns_of, sealed, task_ready,
)
from pyray._core.queues cimport queue_push, queues_reset
from pyray._core.records cimport (
    attempt_of, count_unstarted, gen_in, gen_of, hopeless, records_reset, task_new,
    task_recycle, task_recycle_from,
)
from pyray._core.room cimport alloc, new_record
from pyray._core.shm cimport Ctx, get_ctx, object_at, task_at
from pyray._core.spilling cimport spilling_reset
from pyray._core.store cimport ObjectID, escape, ids_reset, name_record, new_id
from pyray._core.streams cimport holds_for_readers, streams_reset, sweep_streams
from pyray._core.values cimport (
    OWN, as_result, load_raw, new_object, put_arguments, put_value, store_value,
)

from pyray._core.errors import ObjectLostError, OutOfRecordsError

cdef Ctx *C = get_ctx()

cdef enum:
    NODE = 1                # the node's process slot

# Flag of a Target, for Python.
RETRY_EXCEPTIONS = TASK_F_RETRY_EXC
WRITABLE = TASK_F_WRITABLE

cdef list _held = []                # of Held: tasks that hold ids until they are done
cdef Py_ssize_t _held_limit = 64
cdef uint32_t _collected = 0        # dispatch.sweep when the garbage was collected for it
cdef bint _lends = False            # maybe shared arrays among them
cdef uint64_t _held_bytes = 0       # roughly what has come to be held since the last sweep
# What submits in this process: its task, or the one that ran last; the driver's script.
cdef TaskContext _only = TaskContext()
# The placement group that this process's task runs in, and the same if it captures its children.
cdef uint32_t _group = 0
cdef uint32_t _captor = 0
# In a process where several calls run at once: a context variable with the one that asks.
cdef object _variable = None
# An empty list, for use while a call's arguments are encoded.
cdef list _looks = []
cdef object _sweep_more = None      # what else is to be swept
cdef int _hold_fd = -1              # eventfd: a task has come to hold ids, and none did before


# ---- what tasks hold -----------------------------------------------------------------------

# Not a tuple: the collector would go through the queued tasks' again and again.
@cython.no_gc
@cython.final
@cython.freelist(512)
cdef class Held:
    """A task, and what it needs kept alive: an ObjectID, a list of them and ViewHolds, or None."""
    cdef uint64_t handle
    cdef object refs


cdef inline int add_held(uint64_t handle, object refs) except -1:
    cdef Held held = Held.__new__(Held)
    held.handle = handle
    held.refs = refs
    _held.append(held)
    return 0


# ---- who submits ---------------------------------------------------------------------------

cdef class TaskContext:
    """A task under way, as the source of what it submits and puts: ids hash from it."""


cdef TaskContext here():
    """The task that the calling code belongs to."""
    if _variable is None:
        return _only
    found = _variable.get(None)
    return _only if found is None else <TaskContext>found


cdef TaskContext the_only():
    return _only


cdef void set_variable(object variable):
    global _variable
    _variable = variable


cdef bytes base(TaskContext me):
    """The 20 bytes that ids made there hash from: the running task's own id."""
    cdef uint8_t out[20]
    cdef pr_task *t
    if me.base is None:
        if me.handle:
            t = task_at(C, me.handle)
            me.base = task_id(t, attempt_of(at_load64(&t.state)))
        elif C.me.role >= ROLE_NODE:
            # The node, or a thread that a task left behind in its worker: a root of its own.
            task_digest(C.head.root_id, (<uint64_t>C.self << 32) | C.me.pid, out)
            me.base = (<const char *>out)[:20]
        else:
            me.base = (<const char *>C.head.root_id)[:20]
    return me.base


cdef bytes task_id(pr_task *t, int attempt):
    """A task's own 20 bytes.  Each attempt but the first has others, for its children's sake."""
    cdef uint8_t out[20]
    task_digest(t.parent_id, t.counter, out)
    if attempt:
        task_digest(out, <uint64_t>attempt << 32, out)
    return (<const char *>out)[:20]


cdef bytes current_base():
    return base(here())


def current_task_id():
    """The running task's 20 bytes; in the driver, those of its root task."""
    check_session()
    return base(here())


def put(value):
    """Place a value in the store: see pyray.put."""
    cdef TaskContext me = here()
    check_session()
    if type(value) is ObjectID:
        raise TypeError("put takes a value, and this is an ObjectID already; to store an id, put "
                        "it into a list")
    if len(_held) > _held_limit:
        sweep_held()
    me.counter += 1
    # Pickling runs code of the user's, and so may other threads: shutdown waits for this to end.
    C.inflight += 1
    try:
        if is_shared(value):
            value = shared().seal(value)
            if type(value) is ObjectID:
                return value
        return put_value(value, base(me), me.counter, "x")
    finally:
        C.inflight -= 1


cdef int sweep_held() except -1:
    """Let go of what finished tasks needed, and free their records."""
    global _held, _held_limit, _held_bytes, _lends
    cdef list keep = []
    cdef uint64_t handle
    cdef pr_task *t
    cdef uint64_t s
    cdef Held entry
    for held in _held:
        entry = <Held>held
        handle = entry.handle
        t = task_at(C, handle)
        s = at_load64(&t.state)
        if gen_of(s) != gen_in(handle):
            continue
        if (s & 0xFF) == TASK_DONE:
            task_recycle_from(C, handle, s)
        elif (s & 0xFF) == TASK_CLAIMED and (s >> 48) & 0xFF == NODE:
            # It failed while it waited for arguments, and other tasks hang on its links: its record
            # stays until they are there, but nobody is going to read them.
            entry.refs = None
            keep.append(entry)
        elif _lends and t.nreturns and all_sealed(t):
            # Its worker has what it needs by holds of its own, and is about to say that it is done;
            # whoever wants to seal an array among its arguments is not to wait for our next look.
            entry.refs = None
            keep.append(entry)
        else:
            keep.append(entry)
    _held, keep = keep, _held
    _held_limit = max(64, 2 * len(_held))
    _held_bytes = 0
    _lends = _lends and len(_held) != 0
    keep.clear()
    return 0


cdef bint all_sealed(pr_task *t) noexcept nogil:
    cdef uint64_t *rets = returns_of(C, t)
    cdef int i
    for i in range(t.nreturns):
        # One that is gone was sealed: until then its record waits for that.
        if alive(C, rets[i]) and not sealed(C, rets[i]):
            return False
    return True


def sweep():
    """Let go of everything that is held for nothing; returns how much is still held for cause."""
    if not C.attached or C.forked:
        return 0
    sweep_held()
    sweep_streams()
    sweep_contained()
    if _sweep_more is not None:
        _sweep_more()
    heap_trim(C)
    if at_load_relaxed32(&C.dispatch.audit) != C.me.audit_number:
        answer_audit()
    return len(_held) + (1 if has_duties() or holds_for_readers() else 0)


set_sweep(sweep)


cdef int answer_audit() except -1:
    # Imported where somebody asks, which hardly ever happens outside of tests.
    from pyray._core.audit import answer
    answer()
    return 0


cdef set tasks_to_free():
    """Handles of the tasks that this process frees the records of."""
    cdef Held held
    return {held.handle for held in _held}


def sweep_idly():
    """`sweep`, when nothing is to do. Asked by somebody, also of what only the garbage collector
    finds, if shared arrays are among what is held: they wait to be sealed."""
    global _collected
    if C.attached:
        C.swept = at_load32(&C.dispatch.sweep)      # first: who asks from now on is to be heard
        if _collected != C.swept:
            _collected = C.swept
            if shared().regions:
                import gc
                gc.collect()
    return sweep()


def set_hold_fd(int fd):
    """The eventfd that is rung when this process begins to hold ids for a task: somebody is to
    sweep from time to time until it holds none any more.  -1: none.

    No callback: one in Python could be interrupted, with the task's record half written.
    """
    global _hold_fd
    _hold_fd = fd


cdef bint holds_for_others():
    """Whether there is anything that `sweep` may let go of now or later."""
    return len(_held) != 0 or has_duties() or holds_for_readers()


cdef bint holds_arrays():
    """Whether there are few tasks that this process holds shared arrays for: `sweep` is quick."""
    return _lends and len(_held) < 64


cdef int hold_for_task(uint64_t handle, list ids) except -1:
    """Keep what a task needs until it is done, and free its record then."""
    return add_held(handle, ids)


def tasks_that_hold(ObjectID oid):
    """Handles of tasks that this process has submitted, and not let go of, that an object is kept
    alive for: it is among their arguments, or inside of them."""
    cdef dict inside = contained_ids()
    cdef list found = []
    for entry in _held:
        refs = (<Held>entry).refs
        for ref in [refs] if type(refs) is ObjectID else refs or ():
            parts = inside.get((<ObjectID>ref).handle, ()) if type(ref) is ObjectID else ()
            if ref is oid or oid in parts:
                found.append((<Held>entry).handle)
                break
    return found


def holding():
    """Whether this process holds ids on behalf of tasks."""
    return bool(_held)


cdef void sweep_too(object more):
    """Have `more()` called by each sweep."""
    global _sweep_more
    _sweep_more = more


# ---- placement groups ----------------------------------------------------------------------

def set_group(uint32_t number, bint captures):
    """The placement group that the task of this process runs in, 0: none; whether what it submits
    runs there too."""
    global _group, _captor
    _group = number
    _captor = number if captures else 0


def group():
    """Number of the placement group that the task of this process runs in, 0: none."""
    return _group


def captor():
    """Number of the placement group that what is submitted here is to run in, 0: none."""
    return _captor


# ---- submitting ----------------------------------------------------------------------------

cdef class Target:
    """What is called, and how: what a call's record takes from the function or method."""

    def returns(self, n, window):
        """Set what a call returns.

        Parameters
        ----------
        n : int, "streaming" or "dynamic"
            Number of values, or how those that it yields come.
        window : int
            For a stream: how many may be unread before the generator waits; 0: no limit.
        """
        self.flags &= ~(TASK_F_STREAM | TASK_F_DYNAMIC)
        self.window = 0
        if n == "streaming":
            self.nreturns = 2       # the next cell, and the end
            self.flags |= TASK_F_STREAM
            self.window = window
        elif n == "dynamic":
            self.nreturns = 1
            self.flags |= TASK_F_DYNAMIC
        else:
            self.nreturns = n


@cython.final
cdef class Caller(Target):
    """``.remote`` of a remote function: checks a call, records it and queues it.

    Bound to a session lazily, by `bind(self)`, which fills in what follows from the session: the
    function's number and the shape of its resources.
    """
    cdef readonly object function       # the RemoteFunction that this belongs to
    cdef object bind                    # (Caller) -> None, or a callable to use instead
    cdef object check                   # (args, kwargs) -> None, raises TypeError
    cdef uint32_t epoch
    cdef uint32_t captor                # `_captor` when it was bound: the shape depends on it
    cdef public Py_ssize_t min_args, max_args

    def __init__(self, function, bind, check):
        self.function = function
        self.path = ArgumentPath(getattr(function, "_name", "the task"))
        self.bind = bind
        self.check = check
        self.min_args = 0
        self.max_args = -1
        self.nreturns = 1

    def bound(self):
        """Called by `bind` when it is done."""
        self.epoch = C.epoch
        self.captor = _captor

    @property
    def __doc__(self):
        return self.function.__doc__

    def __call__(self, *args, **kwargs):
        if self.epoch != C.epoch or self.captor != _captor or not C.attached:
            instead = self.bind(self)
            if instead is not None:
                return instead(*args, **kwargs)
        if C.forked or C.broken:
            check_session()
        if kwargs or not self.min_args <= PyTuple_GET_SIZE(args) <= self.max_args:
            self.check(args, kwargs)
        C.inflight += 1
        try:
            return submit(self, args, kwargs, None)
        finally:
            C.inflight -= 1


cdef object split(tuple args, dict kwargs, list deps):
    """What is stored of a call's arguments; ids among them go to `deps`, as (position, id)."""
    cdef Py_ssize_t i
    cdef list values = list(args)
    if kwargs:
        for value in kwargs.values():
            values.append(value)
    for i in range(len(values)):
        if type(<object>PyList_GET_ITEM(values, i)) is ObjectID:
            deps.append((i, values[i]))
            values[i] = None
    if len(deps) > PR_MAX_DEPS:
        raise ValueError(f"a task takes at most {PR_MAX_DEPS} ObjectIDs as arguments, not "
                         f"{len(deps)}; pass them in a list and get them in the task")
    if kwargs:
        return tuple(values), tuple(kwargs)
    return tuple(values)


cdef object submit(Target f, tuple args, dict kwargs, Mailbox box):
    """Record a call and queue it: for any worker, or in a mailbox."""
    global _held_bytes, _lends, _looks
    cdef TaskContext me = here()
    cdef Py_ssize_t nargs = PyTuple_GET_SIZE(args)
    cdef Py_ssize_t i, n, ndeps = 0, nlooks = 0
    cdef uint64_t handle, ret, ext, ext_size, counter, one = 1
    cdef pr_task *t
    cdef pr_dep *d
    cdef uint64_t *rets
    cdef char inline_args[PR_INLINE_ARGS]
    cdef uint16_t flags = f.flags
    cdef list deps = None
    cdef list ids
    cdef list refs = None
    cdef list found, looks = None       # shared arrays that the arguments look into
    cdef ObjectID oid, args_object = None
    cdef object payload = args
    cdef bytes parent = base(me)
    if len(_held) > _held_limit or _held_bytes > C.head.n_units * (PR_UNIT // 8):
        sweep_held()
    for i in range(nargs):
        if type(<object>PyTuple_GET_ITEM(args, i)) is ObjectID:
            ndeps += 1
    if ndeps or kwargs:
        deps = []
        payload = split(args, kwargs, deps)
        ndeps = len(deps)
        if kwargs:
            flags |= TASK_F_KWARGS
        if ndeps:
            refs = []
            for _, oid in deps:
                escape(oid)
                refs.append(oid)
    # Everything that can fail comes before anything that others can see.
    # A destructor may run meanwhile, and submit a task as well.
    found, _looks = [] if _looks is None else _looks, None
    n = compact_encode_arguments(payload, inline_args, PR_INLINE_ARGS,
                                 None if flags & TASK_F_WRITABLE else found)
    if found:
        looks = found
    else:
        _looks = found
    if n < 0:
        me.counter += 1
        counter = me.counter
        args_object = put_arguments(payload, parent, counter, f.path)
        _lends = _lends or object_at(C, args_object.handle).state & OBJ_NESTED
        escape(args_object)
        flags |= TASK_F_ARGS_OBJECT
        if refs is None:
            refs = []
        refs.append(args_object)
    elif looks is not None:
        if refs is None:
            refs = looks
        for oid in looks:
            escape(oid)
            if refs is not looks:
                refs.append(oid)
        nlooks = len(looks)
        _lends = True
        ndeps += nlooks
    if refs is not None:
        flags |= TASK_F_HELD
    ext = ext_size = 0
    if ndeps > PR_INLINE_DEPS:
        ext_size += ndeps * sizeof(pr_dep)
    if f.nreturns > 1:
        ext_size += f.nreturns * sizeof(uint64_t)
    if ext_size:
        ext = alloc(ext_size)
    me.counter += 1
    counter = me.counter    # a copy: what is allocated below may run a destructor that submits
    ids = []
    try:
        for i in range(f.nreturns):
            ids.append(new_return(parent, counter, <uint32_t>i, flags))
        handle = task_new(C)
        if handle == 0:
            raise OutOfRecordsError(
                f"no room for another task's record: all {C.head.n_chunks * PR_CHUNK_BYTES >> 20} "
                "MiB of records are in use; get or drop some results before submitting more")
    except BaseException:
        if ext_size:
            heap_free(C, ext, ext_size)
        abandon(ids)
        raise
    t = task_at(C, handle)
    t.ext = ext
    t.ext_size = <uint32_t>ext_size
    t.counter = counter
    memcpy(t.parent_id, <const char *>parent, 20)
    at_store_relaxed64(&t.actor, 0 if box is None else box.actor)
    t.cell = 0
    t.produced = 0
    t.window = f.window
    t.func = f.func
    t.shape = <uint16_t>f.shape
    t.group = f.group | <uint16_t>(f.shape >> 16)   # an actor's call has no shape
    t.depth = <uint16_t>(me.depth + 1)
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
        if not _held and _hold_fd >= 0:
            write(_hold_fd, &one, 8)
        add_held(handle, refs[0] if len(refs) == 1 else refs)
        # Not what is looked into: letting go of that frees nothing, since the views here hold it.
        if refs is not looks:
            for oid in refs[:len(refs) - nlooks]:
                _held_bytes += object_at(C, oid.handle).size
    if ndeps:
        d = deps_of(C, t)
        i = 0
        if deps is not None:
            for position, oid in deps:
                d[i].object = oid.handle
                d[i].position = position
                d[i].next = 0
                d[i].ready = 0
                i += 1
        if looks is not None:
            for oid in looks:
                d[i].object = oid.handle
                d[i].position = PR_NOWHERE
                d[i].next = 0
                d[i].ready = 1
                i += 1
            if refs is looks and nlooks == 1:
                looks.clear()
                _looks = looks
        at_store64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_WAITING)
        if box is not None and not box_push(C, box.row, box.actor, &box.own, handle):
            take_back(handle, t, ids)
            raise mailbox_full()
        for i in range(ndeps - nlooks):
            await_object(C, d[i].object, handle, <uint32_t>i)
        if task_ready(C, handle):
            enqueue(C, handle)
    elif box is not None:
        at_store_release64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_READY)
        if not box_push(C, box.row, box.actor, &box.own, handle):
            take_back(handle, t, ids)
            raise mailbox_full()
    elif f.shape == 0:
        at_store_release64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_READY)
        PR_HOT_POINT(C, POINT_SUBMITTED)
        if not queue_push(C, handle, t.depth):
            take_back(handle, t, ids)
            raise OutOfRecordsError("this process's queue of ready tasks is full (8 million); "
                                    "get some results before submitting more")
        announce(C)
    else:
        at_store_release64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_NODE)
        enqueue(C, handle)
    if f.nreturns == 1:
        return <object>PyList_GET_ITEM(ids, 0)
    if flags & TASK_F_STREAM:
        return new_generator(ids[0], ids[1])
    if f.nreturns == 0:
        return None
    return ids


cdef ObjectID new_return(bytes parent, uint64_t counter, uint32_t i, uint16_t flags):
    """The record and the id of a task's return."""
    cdef uint64_t handle = new_record(C)
    if flags & TASK_F_STREAM:
        if i == 0:      # the first cell; without a name, for whose room it has another use
            return new_id(handle, parent, counter | PR_CELLS, 0)
        i = 0           # the end: from 1 on the numbers are those of what is yielded
    name_record(object_at(C, handle), handle, parent, counter, i)
    return new_id(handle, parent, counter, i)


cdef int take_back(uint64_t handle, pr_task *t, list ids) except -1:
    """A call that could not be queued: nobody else knows of it, but whoever scans may claim it."""
    cdef uint64_t s = at_load64(&t.state)
    cdef uint64_t size = t.ext_size
    if ((s & 0xFF) == TASK_READY or (s & 0xFF) == TASK_WAITING) and at_cas64(
            &t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>C.self << 48)):
        abandon(ids)
        if size:
            t.ext_size = 0
            heap_free(C, t.ext, size)
        task_recycle(C, handle)
    return 0


cdef int abandon(list ids) except -1:
    """Seal ids that no task will: a record that is dropped unsealed waits for whoever seals it."""
    for oid in ids:
        store_value((<ObjectID>oid).handle, None, 0, OWN, None)
    return 0


cdef object mailbox_full():
    return OutOfRecordsError("this process has two million calls in one actor's mailbox, or "
                             "records are full; get some results before calling it again")


class ArgumentPath:
    """Names the root of a call's arguments in a serialization error; made before it is needed, so
    it says it only when asked.

    Parameters
    ----------
    name : str
        Of what is called. Not the function or method itself: that one keeps this, and a cycle would
        keep an actor alive after its last handle.
    """

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"arguments of {self.name}: args"


# ---- the rest ---------------------------------------------------------------------------------

def held_tasks():
    """Number of unfinished tasks that this process holds ids for; lets go of what others needed."""
    if not C.attached or C.forked:
        return 0
    sweep_held()
    sweep_contained()
    return len(_held)


def unfinished_business(bint calls):
    """Number of tasks that this process submitted and that need it still: nobody has started them,
    or it holds ids for them.  With `calls`, also those that others are to come before: calls of
    actors (but for those that end as well), and tasks that wait for arguments.
    """
    cdef uint64_t handle
    cdef Py_ssize_t n = count_unstarted(C, calls)
    cdef pr_task *t
    sweep_held()
    for entry in _held:
        handle = (<Held>entry).handle
        t = task_at(C, handle)
        if calls:
            n += not hopeless(C, t)
        elif not t.actor and (at_load64(&t.state) & 0xFF) != TASK_WAITING:
            n += 1
    return n


def reset():
    """Forget private state: after attach and detach, and in a freshly forked worker."""
    global _held_limit, _only, _variable, _group, _captor
    heap_reset(C)
    records_reset()
    if C.attached:
        queues_reset(C)
    if shared().forget != NULL:
        shared().forget()
    ids_reset()
    holds_reset()
    spilling_reset()
    pins_reset()
    streams_reset()
    _only = TaskContext()
    _variable = None
    _group = _captor = 0
    _held_limit = 64
    _held.clear()
    if _sweep_more is not None:
        _sweep_more()


def current_task():
    """(task id, attempt) of the running task, or None outside of one."""
    cdef TaskContext me = here()
    if not me.handle:
        return None
    return base(me), attempt_of(at_load64(&task_at(C, me.handle).state))


def counter():
    """How much the calling task has submitted and put: for `put_result`."""
    return here().counter


def put_call(payload):
    """local_mode's way to store a call's arguments, as they are stored elsewhere."""
    cdef TaskContext me = here()
    check_session()
    me.counter += 1
    return put_arguments(payload, base(me), me.counter, "args")


def put_result(value, bint error, uint64_t since=0):
    """local_mode's way to store a task's result: under an id of its own, sealed at once.

    `since` is the `counter` with which the call began: what was made before is not the call's own.
    """
    cdef TaskContext me = here()
    check_session()
    me.counter += 1
    if not error:
        value = as_result(value, since)
        return put_value(value, base(me), me.counter, "result")
    return new_object(value, OBJ_ERROR, "exception", base(me), me.counter, 0)


cdef object failed_call(Target f, uint64_t error, object instead):
    """Returns for a call that can only fail: with the error object, or `instead`."""
    cdef TaskContext me = here()
    cdef ObjectID oid
    cdef list ids = []
    me.counter += 1
    counter = me.counter
    value = instead() if error == 0 else error_value(error, instead)
    for i in range(f.nreturns):
        oid = new_return(base(me), counter, <uint32_t>i, f.flags)
        ids.append(oid)
        store_value(oid.handle, value, OBJ_ERROR, OWN, "exception")
    if f.nreturns == 1:
        return ids[0]
    if f.flags & TASK_F_STREAM:
        return new_generator(ids[0], ids[1])
    return None if f.nreturns == 0 else ids


cdef object error_value(uint64_t error, object instead):
    if not alive(C, error):
        return instead()
    try:
        # Held meanwhile: the node forgets actors that died long ago, and their errors.
        return load_raw(error, borrow_for_view(error))
    except ObjectLostError:
        return instead()
