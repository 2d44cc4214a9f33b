"""Actors: calling their methods, being one, and what the node does to them.

An actor is a worker process that one task, the *creation task*, has turned into it for the rest of
its life.  Callers enter calls in its mailboxes (mailboxes.pyx) without asking anybody; the node
makes, restarts and ends actors, and settles what a dead one leaves.

An actor lives as long as its *ref*, an object with nothing in it: handles hold that, and so the
ordinary rules for objects (bits of holders, ids inside values, arguments of queued tasks) say when
the last handle is gone.  Its seal says that the constructor has returned.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from pyray._core.compact cimport compact_encode as encode_inline
from pyray._core.dispatch cimport ring_node, wake_process
from pyray._core.events cimport note, note_for, outcome_of
from pyray._core.heap cimport heap_free
from pyray._core.interrupts cimport begin_users_code, users_code
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.mailboxes cimport (
    Reader, actor_status, box_release, entry_at, Cursor, look, next_call, nothing_left, reader_open,
    settle, settle_all, spin,
)
from pyray._core.objects cimport (
    alive, await_object, deps_of, enqueue, hold_for, returns_of, sealed, task_ready,
)
from pyray._core.records cimport (
    attempt_bits, attempt_of, gen_in, gen_of, handle_of, next_record, plausible, stop_of, task_new,
)
from pyray._core.recovery cimport fail_task
from pyray._core.room cimport alloc, new_record
from pyray._core.running cimport (
    Function, do_chores, enter, execute, finish, new_call, put_error, run, set_running,
)
from pyray._core.shm cimport Ctx, actor_at, get_ctx, mailbox_at, object_at, task_at
from pyray._core.store cimport ObjectID, check_id, escape, name_record, new_id
from pyray._core.streams cimport settle_stream
from pyray._core.tasks cimport (
    Mailbox, Target, TaskContext, base, failed_call, here, split, submit, sweep_too, the_only,
)
from pyray._core.values cimport OWN, RESULT, load_raw, put_arguments, store_value
from pyray._core.waiting cimport begin_task, end_task, set_task_thread

from pyray._core.errors import OutOfRecordsError, SessionError
from pyray._core.running import leave_fork
from pyray._core.store import unpack
from pyray._core.tasks import ArgumentPath

cdef Ctx *C = get_ctx()

cdef enum:
    SOON_NS = 50000000
    MISSES = 8                  # after so many waits in vain in a row only one in 16 is made

# The mailboxes that this process calls into, by actor: kept until the actor is dead and settled.
cdef dict _boxes = {}
cdef Py_ssize_t _boxes_limit = 64   # so many make it look for those that can go
cdef uint32_t _epoch = 0


# ---- calling -------------------------------------------------------------------------------

cdef Mailbox box_of(uint64_t actor):
    global _boxes_limit, _epoch
    cdef Mailbox box
    if _epoch != C.epoch:
        _boxes.clear()
        _epoch = C.epoch
    found = _boxes.get(actor)
    if found is not None:
        return <Mailbox>found
    if len(_boxes) >= _boxes_limit:
        sweep_boxes()
        _boxes_limit = max(64, 2 * len(_boxes))
    box = Mailbox.__new__(Mailbox)
    box.actor = actor
    box.row = mailbox_at(C, actor, C.self)
    _boxes[actor] = box
    return box


def sweep_boxes():
    """Take back what mailboxes of dead actors occupy."""
    cdef Mailbox box
    if _epoch != C.epoch or not C.attached:
        _boxes.clear()
        return
    for actor in list(_boxes):
        if actor_status(C, actor) == ACTOR_SETTLED:
            box = <Mailbox>_boxes.pop(actor)
            box_release(&box.own)


sweep_too(sweep_boxes)


cdef uint32_t mailbox_segments():
    """Segments of the mailboxes that this process calls into."""
    cdef uint32_t n = 0
    for box in _boxes.values() if _epoch == C.epoch else ():
        n += (<Mailbox>box).own.count
    return n


cdef class MethodCaller(Target):
    """A method of an actor: ``.remote`` enters a call.

    Parameters
    ----------
    ref : ObjectID
        What keeps the actor alive.
    actor : int
        The actor's handle.
    name : str
        ``Class.method``, for errors.
    number : int
        Of the method, in the class.
    """
    cdef readonly ObjectID ref
    cdef readonly uint64_t actor
    cdef readonly str _name
    cdef Mailbox box
    cdef uint32_t epoch
    cdef public Py_ssize_t min_args, max_args
    cdef public uint32_t max_pending

    def __init__(self, ref, actor, name, number):
        self.ref = ref
        self.actor = actor
        self._name = name
        self.func = number
        self.path = ArgumentPath(name)
        self.nreturns = 1
        self.max_args = -1
        self.epoch = self.ref.epoch
        # A handle may be of a session that is over: `remote` says so.
        self.box = box_of(actor) if self.epoch == C.epoch and C.attached else None

    def check(self, args, kwargs):
        """Raise the TypeError that the call would raise."""

    def dead(self):
        """The error for a call of an actor that is dead for reasons no longer known."""
        return SessionError("this actor is dead")

    def settle(self):
        """Have the node look at a call that came too late for the actor."""

    def full(self, pending):
        """Raise, because so many calls wait."""

    def remote(self, *args, **kwargs):
        """Call the method: returns the result's ObjectID at once."""
        cdef Py_ssize_t pending
        if self.epoch != C.epoch or not C.attached or C.forked or C.broken:
            check_session()
            raise SessionError(f"{self._name} belongs to an actor of a session that has been shut "
                               "down")
        if kwargs or not self.min_args <= PyTuple_GET_SIZE(args) <= self.max_args:
            self.check(args, kwargs)
        if actor_status(C, self.actor) >= ACTOR_DEAD:
            return failed_call(self, self.cause(), self.dead)
        if self.max_pending:
            pending = self.pending()
            if pending >= self.max_pending:
                self.full(pending)
        C.inflight += 1
        try:
            result = submit(self, args, kwargs, self.box)
        finally:
            C.inflight -= 1
        if self.max_pending:
            self.box.unfinished.append(self.box.own.last)
        if actor_status(C, self.actor) >= ACTOR_DEAD:
            # It died meanwhile: the node may have looked into the mailbox before the call was in.
            self.settle()
        return result

    cdef uint64_t cause(self):
        cdef pr_actor *a = actor_at(C, self.actor)
        cdef uint64_t death = a.death
        # The entry may be another actor's by now.
        return death if gen_of(at_load64(&a.state)) == gen_in(self.actor) else 0

    cdef Py_ssize_t pending(self):
        """Calls of this process that the actor has not finished."""
        cdef uint64_t call, s
        cdef list calls = self.box.unfinished
        if calls is None:
            calls = self.box.unfinished = []
        if <Py_ssize_t>len(calls) >= <Py_ssize_t>self.max_pending:
            self.box.unfinished = []
            for call in calls:
                s = at_load64(&task_at(C, call).state)
                if (gen_of(s) == gen_in(call) and (s & 0xFF) != TASK_DONE
                        and (s & 0xFF) != TASK_FREE):
                    self.box.unfinished.append(call)
        return len(self.box.unfinished)


def actor_state(uint64_t actor):
    """An actor's status, 4 (settled) if it is long gone."""
    check_session()
    return actor_status(C, actor)


def depth():
    """How deeply the calling task is nested; 0 for the driver."""
    return here().depth


def prepare(args, kwargs, path):
    """A constructor's arguments for the node: (flags, bytes or ObjectID, [(position, id)])."""
    cdef char inline_args[PR_INLINE_ARGS]
    cdef TaskContext me = here()
    cdef list deps = []
    cdef int flags = TASK_F_KWARGS if kwargs else 0
    check_session()
    payload = split(args, kwargs, deps)
    cdef Py_ssize_t n = encode_inline(payload, inline_args, PR_INLINE_ARGS)
    if n >= 0:
        return flags, inline_args[:n], deps
    me.counter += 1
    return flags | TASK_F_ARGS_OBJECT, put_arguments(payload, base(me), me.counter, path), deps


def check_ref(ObjectID ref):
    """Raise unless an actor's ref is of this process's session."""
    check_session()
    check_id(ref)


def new_ref():
    """An object without a value yet: what an actor lives as long as, or what the node seals."""
    cdef TaskContext me = here()
    cdef uint64_t handle
    cdef ObjectID oid
    check_session()
    me.counter += 1
    handle = new_record(C)
    name_record(object_at(C, handle), handle, base(me), me.counter, 0)
    oid = new_id(handle, base(me), me.counter, 0)
    escape(oid)
    return oid


def seal_ref(ObjectID ref, value, bint error):
    """Give it a value, or have it raise an exception; not where it has one."""
    if alive(C, ref.handle) and not sealed(C, ref.handle):
        store_value(ref.handle, value, OBJ_ERROR if error else 0, OWN, None)


def abandon_ref(ObjectID ref):
    """It was not used: no actor will seal it."""
    if not sealed(C, ref.handle):
        store_value(ref.handle, None, 0, OWN, None)


# ---- being one -----------------------------------------------------------------------------

def construct(uint64_t task, Function f):
    """Run the creation task, which this process has claimed: None if the actor is made now, else
    the error, stored.

    The record stays, with the arguments, in case the actor has to be made again.
    """
    cdef pr_task *t = task_at(C, task)
    cdef TaskContext me = the_only()
    cdef pr_actor *a = actor_at(C, t.actor)
    cdef uint64_t failed = 0, s
    cdef object error = None
    cdef int attempt = set_running(task, t)
    C.me.depth = t.depth
    enter(me, task, t.depth)
    set_task_thread(True)
    begin_task()
    try:
        begin_users_code()
        run(t, f.call, &failed)
        users_code(False)
        if C.forked:
            leave_fork(None)
        if failed:
            error = put_error(f, load_raw(failed, None))
        elif alive(C, t.ret0) and not sealed(C, t.ret0):
            store_value(t.ret0, None, 0, RESULT, None)
    except BaseException as e:
        users_code(False)
        if C.forked:
            leave_fork(e)
        error = put_error(f, e)
    finally:
        end_task()
        set_task_thread(False)
        enter(me, 0, 0)
        C.me.depth = 0
        note(t, attempt, C.me.started_ns, 0 if error is None else EVENT_FAILED)
        at_store64(&C.me.current, 0)
    if error is None:
        s = at_load64(&a.state)
        if (s & 0xFF) == ACTOR_PENDING:
            at_cas64(&a.state, s, (s & ~<uint64_t>0xFF) | ACTOR_ALIVE)
    return error


def actor_of(uint64_t task):
    """The actor that a creation task makes."""
    return task_at(C, task).actor


def release_cpus():
    """The actor goes on without the CPUs that it was placed with."""
    at_store32(&C.me.shaped, SHAPED_ACTOR)
    ring_node(C)


@cython.final
cdef class Host:
    """The actor's end of its mailboxes, in its process.

    Parameters
    ----------
    actor : int
        Which actor this process is.
    in_order : bool
        A call starts only after those before it of the same caller.
    sequential : bool
        And after they have ended: there is one at a time.
    """
    cdef Reader *reader
    cdef uint64_t actor
    cdef uint32_t misses

    def __cinit__(self, actor, bint in_order, bint sequential):
        self.reader = <Reader *>calloc(1, sizeof(Reader))
        if self.reader == NULL:
            raise MemoryError
        reader_open(self.reader, actor, in_order)
        self.reader.sequential = sequential
        self.actor = actor

    def __dealloc__(self):
        free(self.reader)

    def serve(self, double seconds):
        """Run calls, one at a time, until there was none for `seconds` (after a call, not longer
        than SOON_NS), or it is time to end.

        Returns the number of calls run; raises WorkerExit if one ended the actor.
        """
        cdef uint64_t call
        cdef int64_t timeout = <int64_t>(seconds * 1e9)
        cdef Py_ssize_t n = 0
        set_task_thread(True)
        try:
            while True:
                with nogil:
                    call = next_call(C, self.reader, timeout)
                if call == 0:
                    PyErr_CheckSignals()
                    return n
                # Again at once, in its place: calls behind it wait for it.
                while execute(call) and claim_again(call):
                    pass
                settle(C, self.reader, self.reader.last)
                n += 1
                timeout = min(timeout, SOON_NS)     # what it left is to be let go of soon
                do_chores(n)
        finally:
            set_task_thread(False)

    def take(self, double seconds, Py_ssize_t most):
        """Claim up to `most` calls that are there; waits up to `seconds` for the first."""
        cdef uint64_t call
        cdef int64_t timeout = <int64_t>(seconds * 1e9)
        with nogil:
            call = next_call(C, self.reader, timeout)
        return self.claimed(call, most)

    def poll(self, Py_ssize_t most, bint idle):
        """Claim up to `most` calls that are there.

        If the caller is `idle` it waits for a moment for the first, as long as such waits have
        paid; then only now and then.
        """
        cdef uint64_t call = look(C, self.reader, False)
        if call == 0 and idle:
            if self.misses >= MISSES:
                self.misses += 1
                if self.misses % 16:
                    return []
            with nogil:
                call = spin(C, self.reader)
            if call:
                self.misses = 0
            elif self.misses < MISSES:
                self.misses += 1
        return self.claimed(call, most)

    cdef list claimed(self, uint64_t call, Py_ssize_t most):
        """A claimed call, and those after it that are there."""
        # Without a pause between two for others to take the GIL: it would take long to get back.
        cdef list found = []
        while call:
            at_store64(&C.me.current, 0)
            taken = new_call(call)
            if taken is not None:
                found.append(taken)
            if <Py_ssize_t>len(found) >= most:
                break
            call = look(C, self.reader, False)
        return found

    def settle(self):
        """Say which calls are done."""
        settle_all(C, self.reader)

    @property
    def over(self):
        """Nobody holds the actor, and there is no call left."""
        return bool(at_load32(&actor_at(C, self.actor).released)) and bool(
            nothing_left(C, self.reader))

    def leave(self):
        """This process ends on purpose."""
        at_store32(&actor_at(C, self.actor).leaving, LEAVE_INTENDED)


def leave_unmade(uint64_t actor):
    """This process ends because the constructor has failed."""
    at_store32(&actor_at(C, actor).leaving, LEAVE_UNMADE)


cdef bint claim_again(uint64_t call) noexcept nogil:
    cdef pr_task *t = task_at(C, call)
    cdef uint64_t s = at_load64(&t.state)
    if (s & 0xFF) != TASK_READY or gen_of(s) != gen_in(call):
        return False
    at_store64(&C.me.current, call)
    return at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED
                    | (<uint64_t>C.self << 48))


# ---- the node's part -----------------------------------------------------------------------

def node_open(uint32_t index, ObjectID ref):
    """Make an entry for a new actor; its handle."""
    cdef pr_actor *a = &C.actors[index]
    cdef uint64_t s = at_load64(&a.state)
    cdef uint32_t gen = gen_of(s) + 1
    cdef pr_object *o = object_at(C, ref.handle)
    cdef int w
    check_id(ref)
    if index >= C.head.actors_high:
        C.head.actors_high = index + 1
    a.ref = ref.handle
    a.creation = 0
    a.death = 0
    a.proc = 0
    a.released = 0
    a.leaving = LEAVE_NO
    a.restarts = 0
    for w in range(4):
        a.waiting[w] = 0
        a.callers[w] = 0
    at_store64(&a.state, (<uint64_t>gen << PR_GEN_SHIFT) | ACTOR_PENDING)
    at_or64(&o.state, OBJ_ACTOR)
    return (<uint64_t>gen << 32) | index


def node_create(uint64_t actor, ObjectID ref, uint32_t func, int shape, int depth, int flags,
                payload, list deps):
    """Record the creation task of an actor and queue it; its handle.

    The caller keeps the ids among the arguments for as long as the actor may have to be made again.
    """
    cdef uint64_t ext = 0, ext_size = 0, handle
    cdef Py_ssize_t i
    cdef pr_task *t
    cdef pr_dep *d
    cdef ObjectID oid
    if len(deps) > PR_INLINE_DEPS:
        ext_size = len(deps) * sizeof(pr_dep)
        ext = alloc(ext_size)
    handle = task_new(C)
    if handle == 0:
        if ext_size:
            heap_free(C, ext, ext_size)
        raise OutOfRecordsError("no room for the record of an actor's creation task")
    t = task_at(C, handle)
    t.ext = ext
    t.ext_size = <uint32_t>ext_size
    # The creator's child, not the node's: its ref is its return.
    t.counter = ref.counter
    memcpy(t.parent_id, <const char *>ref.parent, 20)
    t.actor = actor
    t.cell = 0
    t.produced = 0
    t.window = 0
    t.func = func
    t.shape = <uint16_t>shape
    t.group = <uint16_t>(shape >> 16)
    t.depth = <uint16_t>depth
    t.submitter = <uint16_t>C.self
    t.nreturns = 1
    t.ndeps = <uint16_t>len(deps)
    t.max_retries = 0
    t.ret0 = ref.handle
    t.flags = <uint16_t>(flags | TASK_F_CREATES)
    if isinstance(payload, bytes):
        t.args_len = <uint16_t>len(payload)
        memcpy(t.args, <const char *>payload, len(payload))
    else:
        t.args_object = (<ObjectID>payload).handle
    object_at(C, ref.handle).task = handle
    actor_at(C, actor).creation = handle
    d = deps_of(C, t)
    for i in range(len(deps)):
        d[i].position = deps[i][0]
        oid = deps[i][1]
        d[i].object = oid.handle
        d[i].next = 0
        d[i].ready = 0
    at_store64(&t.state, (at_load_relaxed64(&t.state) & ~<uint64_t>0xFF) | TASK_WAITING)
    for i in range(len(deps)):
        await_object(C, d[i].object, handle, <uint32_t>i)
    if task_ready(C, handle):
        enqueue(C, handle)
    return handle


def node_view(uint64_t actor):
    """(status, slot of its process, leaving, whether its ref is held, calls wait) of an actor."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef pr_object *o = object_at(C, a.ref)
    cdef bint held = alive(C, a.ref) and not at_load64(&o.state) & OBJ_DROPPED
    cdef bint waits = (at_load64(&a.waiting[0]) | at_load64(&a.waiting[1])
                       | at_load64(&a.waiting[2]) | at_load64(&a.waiting[3])) != 0
    return actor_status(C, actor), a.proc, a.leaving, held, waits


def node_placed(uint64_t actor, uint32_t slot):
    """Its process is this one."""
    at_store32(&actor_at(C, actor).proc, slot)


def node_release(uint64_t actor):
    """Nobody holds the actor: it is to end when it has run what it was asked to."""
    cdef pr_actor *a = actor_at(C, actor)
    at_store32(&a.released, 1)
    if a.proc:
        wake_process(C, a.proc)


def node_lost(uint64_t actor, uint32_t slot, error, bint settle_all_of_them):
    """After the death of an actor's process: what becomes of the calls that it had taken.

    Those not begun, and those with retries left, are READY again; the others fail with `error`.
    Returns how many failed.  With `settle_all_of_them` (the actor is dead) every call fails.
    """
    cdef pr_actor *a = actor_at(C, actor)
    cdef uint32_t p
    cdef Py_ssize_t failed = 0
    at_store32(&a.proc, 0)
    for p in range(at_load32(&C.head.procs_high)):
        if at_load64(&a.callers[p // 64]) & (<uint64_t>1 << (p % 64)):
            failed += lost_calls(actor, p, slot, error, settle_all_of_them)
    return failed + (lost_orphans(actor, slot, error) if slot else 0)


def node_settle(uint64_t actor, uint32_t p, error):
    """Fail a call that process p entered after the actor was dead."""
    return lost_calls(actor, p, 0, error, True)


cdef Py_ssize_t lost_calls(uint64_t actor, uint32_t p, uint32_t slot, object error,
                           bint all_of_them) except -1:
    cdef pr_mailbox *row = mailbox_at(C, actor, p)
    cdef uint64_t at, tail, start, call, s, status
    cdef pr_task *t
    cdef Cursor u
    cdef Py_ssize_t failed = 0
    cdef int attempt
    if at_load64(&row.actor) != actor:
        return 0
    u.next = u.index = u.slot = 0
    tail = at_load64(&row.tail)
    start = (at_load64(&row.first) >> 32) * PR_CALLS
    at = at_load64(&row.head)
    if at < start:
        at = start
    while at < tail:
        call = entry_at(C, row, &u, at)
        at += 1
        if not plausible(C, call):
            continue
        t = task_at(C, call)
        s = at_load64(&t.state)
        status = s & 0xFF
        if gen_of(s) != gen_in(call) or t.actor != actor:
            continue
        if (status == TASK_CLAIMED or status == TASK_RUNNING) and (s >> 48) & 0xFF == slot:
            attempt = attempt_of(s)
            if status == TASK_RUNNING and returns_sealed(t):
                note_for(slot, t, attempt, C.procs[slot].started_ns, outcome_of(t))
                finish(call)
                continue
            # One that was cancelled is not run again.
            if not all_of_them and not stop_of(t, call) and (
                    status == TASK_CLAIMED or t.max_retries < 0 or attempt < t.max_retries):
                if status == TASK_RUNNING:
                    note_for(slot, t, attempt, C.procs[slot].started_ns,
                             EVENT_FAILED | EVENT_DIED)
                    attempt += 1
                at_store64(&t.state, (s & PR_GEN_MASK) | attempt_bits(attempt) | TASK_READY)
                continue
            if status == TASK_RUNNING:
                note_for(slot, t, attempt, C.procs[slot].started_ns, EVENT_FAILED | EVENT_DIED)
            fail_task(call, error)
            failed += 1
        elif all_of_them and (status == TASK_READY or status == TASK_WAITING):
            fail_task(call, error)
            failed += 1
    # What was taken from it by the one that died is to be seen by the one that comes.
    at_or64(&actor_at(C, actor).waiting[p // 64], <uint64_t>1 << (p % 64))
    return failed


def node_died(uint64_t actor, uint32_t slot):
    """Its process has died: if the constructor was under way, that has ended too."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef pr_task *t
    cdef uint64_t s
    if actor_status(C, actor) != ACTOR_PENDING or a.leaving == LEAVE_UNMADE:
        return
    if not plausible(C, a.creation):
        return
    t = task_at(C, a.creation)
    s = at_load64(&t.state)
    if gen_of(s) == gen_in(a.creation) and (s & 0xFF) == TASK_RUNNING:
        note_for(slot, t, attempt_of(s), C.procs[slot].started_ns, EVENT_FAILED | EVENT_DIED)


cdef Py_ssize_t lost_orphans(uint64_t actor, uint32_t slot, object error) except -1:
    """Calls that the dead process had begun and that stand in no mailbox any more, since their
    caller died before it: they cannot be run again."""
    cdef uint64_t at = 0, call, s
    cdef pr_task *t
    cdef Py_ssize_t failed = 0
    while next_record(C, KIND_TASKS, &at):
        t = task_at(C, at)
        s = at_load64(&t.state)
        if (t.actor != actor or t.flags & TASK_F_CREATES or (s >> 48) & 0xFF != slot
                or ((s & 0xFF) != TASK_CLAIMED and (s & 0xFF) != TASK_RUNNING)):
            continue
        call = handle_of(at, s)
        if returns_sealed(t):
            note_for(slot, t, attempt_of(s), C.procs[slot].started_ns, outcome_of(t))
            finish(call)
            continue
        if (s & 0xFF) == TASK_RUNNING:
            note_for(slot, t, attempt_of(s), C.procs[slot].started_ns,
                     EVENT_FAILED | EVENT_DIED)
        fail_task(call, error)
        failed += 1
    return failed


def node_busy(uint64_t actor):
    """Whether an actor has calls that are not done."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef pr_mailbox *row
    cdef uint32_t p
    for p in range(at_load32(&C.head.procs_high)):
        if at_load64(&a.callers[p // 64]) & (<uint64_t>1 << (p % 64)):
            row = mailbox_at(C, actor, p)
            if at_load64(&row.actor) == actor and at_load64(&row.head) < at_load64(&row.tail):
                return True
    return False


def node_left(uint64_t actor, uint32_t slot):
    """Calls that an actor would run if it were made again, after the death of its process."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef uint32_t p
    cdef Py_ssize_t n = 0
    for p in range(at_load32(&C.head.procs_high)):
        if at_load64(&a.callers[p // 64]) & (<uint64_t>1 << (p % 64)):
            n += calls_left(actor, p, slot)
    return n


cdef Py_ssize_t calls_left(uint64_t actor, uint32_t p, uint32_t slot) noexcept nogil:
    cdef pr_mailbox *row = mailbox_at(C, actor, p)
    cdef uint64_t at, tail, call, s, status
    cdef pr_task *t
    cdef Cursor u
    cdef Py_ssize_t n = 0
    if at_load64(&row.actor) != actor:
        return 0
    u.next = u.index = u.slot = 0
    tail = at_load64(&row.tail)
    at = max(at_load64(&row.head), (at_load64(&row.first) >> 32) * PR_CALLS)
    while at < tail:
        call = entry_at(C, row, &u, at)
        at += 1
        if not plausible(C, call):
            continue
        t = task_at(C, call)
        s = at_load64(&t.state)
        status = s & 0xFF
        if gen_of(s) != gen_in(call) or t.actor != actor:
            continue
        if status == TASK_READY or status == TASK_WAITING:
            n += 1
        elif (s >> 48) & 0xFF == slot and not stop_of(t, call) and (status == TASK_CLAIMED or (
                status == TASK_RUNNING and not returns_sealed(t)
                and (t.max_retries < 0 or attempt_of(s) < t.max_retries))):
            n += 1
    return n


cdef bint returns_sealed(pr_task *t) noexcept nogil:
    """Whether a task whose process is dead had come to its end."""
    cdef uint64_t *rets = returns_of(C, t)
    cdef int i
    if t.flags & TASK_F_STREAM:
        settle_stream(C, t)
    for i in range(t.nreturns):
        if alive(C, rets[i]) and not sealed(C, rets[i]):
            return False
    return t.nreturns != 0


def node_pending(uint64_t actor):
    """An actor is to be made again: its creation task goes back to the node. Its handle."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef pr_task *t = task_at(C, a.creation)
    cdef uint64_t s = at_load64(&t.state)
    a.restarts += 1
    at_store32(&a.leaving, LEAVE_NO)
    at_store64(&t.state, (s & PR_GEN_MASK) | attempt_bits(attempt_of(s) + 1) | TASK_NODE)
    s = at_load64(&a.state)
    at_store64(&a.state, (s & ~<uint64_t>0xFF) | ACTOR_PENDING)
    return a.creation


def node_dead(uint64_t actor, ObjectID cause):
    """From now on calls of the actor fail; those that it has are to be settled next."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef uint64_t s = at_load64(&a.state)
    if cause is not None:
        escape(cause)       # callers hold it while they look into it
    a.death = 0 if cause is None else cause.handle
    at_store64(&a.state, (s & ~<uint64_t>0xFF) | ACTOR_DEAD)


def node_settled(uint64_t actor, error):
    """The calls are settled: the creation task goes, and callers may let go of their mailboxes."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef uint64_t s
    cdef uint64_t creation = a.creation
    a.creation = 0
    if creation and plausible(C, creation) and gen_of(
            at_load64(&task_at(C, creation).state)) == gen_in(creation):
        fail_task(creation, error)
    s = at_load64(&a.state)
    at_store64(&a.state, (s & ~<uint64_t>0xFF) | ACTOR_SETTLED)


def node_cause(uint64_t actor):
    """The error that a constructor left in the actor's ref, or None."""
    cdef pr_actor *a = actor_at(C, actor)
    cdef uint64_t s
    if not alive(C, a.ref):
        return None
    s = at_load64(&object_at(C, a.ref).state)
    if (s & 0xFF) == OBJ_SEALED and s & OBJ_ERROR:
        return load_raw(a.ref, None)
    return None


def node_lend(ObjectID ref, uint32_t p):
    """Hold an actor's ref in process p's name, which waits for this answer and then holds it
    itself."""
    hold_for(C, ref.handle, p)


def node_ref(uint64_t actor, bytes packed):
    """The actor's ref as an ObjectID, or None when nobody holds it."""
    cdef pr_actor *a = actor_at(C, actor)
    if not alive(C, a.ref) or at_load64(&object_at(C, a.ref).state) & OBJ_DROPPED:
        return None
    return unpack(packed)


def actors_dropped():
    """Whether some actor has lost its last handle since the last call."""
    return bool(at_load32(&C.head.actors_dropped)) and bool(
        at_xchg32(&C.head.actors_dropped, 0))
