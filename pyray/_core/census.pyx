"""Who lists what there is: the calling task, tasks that have not ended, objects and who holds them.

Records change while they are read, so each is copied, and the copy thrown away if its state has
moved meanwhile.  Nobody waits for a reader, and a list is not of one instant.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pyray._core.ids cimport object_digest, task_digest
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.mailboxes cimport actor_status
from pyray._core.objects cimport alive, sealed
from pyray._core.records cimport (
    attempt_of, gen_in, gen_of, handle_of, plausible, shape_of, stop_of, used_chunks,
)
from pyray._core.shm cimport Ctx, get_ctx, object_at, task_at
from pyray._core.pins cimport place_of
from pyray._core.store cimport PACKED_BYTES
from pyray._core.tasks cimport TaskContext, here

cdef extern from *:
    """
    static inline void loads_before_loads(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    """
    void loads_before_loads() nogil

cdef enum:
    TRIES = 10          # how often a record is read again that changes under our eyes
    IS_ENDING = 100     # no status of a record's
    NODE = 1            # the node's process slot

cdef Ctx *C = get_ctx()

# Where a task stands.
WAITING = TASK_WAITING
READY = TASK_READY
CLAIMED = TASK_CLAIMED
RUNNING = TASK_RUNNING
AT_NODE = TASK_NODE
ENDING = IS_ENDING      # RUNNING in its record; its results are there, and it ends in a moment

ERROR = OBJ_ERROR
ACTOR = OBJ_ACTOR


def calling_task():
    """(id, how often it was run again, whether it is cancelled, shape, actor, whether it makes that
    actor) of the task that the calling code belongs to, or None outside of one.

    The id is the same for all attempts; what an attempt submits hashes from that and its number.
    """
    cdef TaskContext me = here()
    cdef pr_task *t
    cdef uint64_t s
    cdef uint8_t out[20]
    check_session()
    if me.handle == 0 or C.me.role < ROLE_WORKER:
        return None
    t = task_at(C, me.handle)
    s = at_load64(&t.state)
    # What a call has left behind in its thread or loop outlives the call.
    if gen_of(s) != gen_in(me.handle) or (s & 0xFF) != TASK_RUNNING:
        return None
    task_digest(t.parent_id, t.counter, out)
    return ((<const char *>out)[:20], attempt_of(s), bool(stop_of(t, me.handle)),
            shape_of(t), t.actor, bool(t.flags & TASK_F_CREATES))


def chunks():
    """Number of chunks of records that have been used."""
    check_session()
    return used_chunks(C)


cdef bint snapshot(uint64_t slot, pr_task *copy) noexcept nogil:
    """Copy a task's record; False if there is none, or it does not keep still."""
    cdef pr_task *t = task_at(C, slot)
    cdef uint64_t s
    cdef int _
    for _ in range(TRIES):
        s = at_load64(&t.state)
        if (s & 0xFF) == TASK_FREE or (s & 0xFF) == TASK_NEW:
            return False
        copy[0] = t[0]
        loads_before_loads()
        if at_load64(&t.state) == s:
            copy.state = s
            return True
    return False


cdef bint in_payload(uint64_t off, uint64_t size) noexcept nogil:
    cdef uint64_t total = (C.head.n_units + C.head.n_spill_units) * PR_UNIT
    return off < total and size <= total - off


cdef bint results_there(pr_task *t) noexcept nogil:
    """Whether a running task has sealed all its returns: of a copy, and sure only while the task is
    still what it was."""
    cdef uint64_t *rets = &t.ret0
    cdef uint64_t size = t.nreturns * sizeof(uint64_t)
    cdef uint32_t i
    if t.nreturns == 0:
        return False
    if t.flags & TASK_F_CREATES:
        # Its record stays for as long as the actor lives.
        return actor_status(C, t.actor) != ACTOR_PENDING
    if t.nreturns > 1:
        if t.ndeps > PR_INLINE_DEPS:
            size += t.ndeps * sizeof(pr_dep)
        if size > t.ext_size or not in_payload(t.ext, t.ext_size):
            return False
        rets = <uint64_t *>(C.payload + t.ext + (size - t.nreturns * sizeof(uint64_t)))
    if t.flags & TASK_F_STREAM and alive(C, rets[0]):
        return ends_stream(rets[0])
    for i in range(1 if t.flags & TASK_F_STREAM else 0, t.nreturns):
        if alive(C, rets[i]) and not sealed(C, rets[i]):
            return False
    return True


cdef bint ends_stream(uint64_t cell) noexcept nogil:
    """Whether a cell is filled, and the last one."""
    cdef pr_object *o = object_at(C, cell)
    cdef uint64_t s = at_load64(&o.state)
    return (s & 0xFF) == OBJ_SEALED and (s & OBJ_ERROR or (<pr_cell *>o.data).next == 0)


cdef list tasks_of(uint32_t chunk):
    cdef pr_task t
    cdef uint64_t slot, handle
    cdef uint32_t i, p
    cdef int status
    cdef uint8_t out[20]
    cdef list found = []
    if C.chunks[chunk].kind != KIND_TASKS:
        return found
    for i in range(0, PR_CHUNK_GRANULES, 2):
        slot = <uint64_t>chunk * PR_CHUNK_GRANULES + i
        if not snapshot(slot, &t):
            continue
        status = t.state & 0xFF
        if status == TASK_DONE or status == TASK_ENDING:
            continue        # what its submitter holds for it is all that is left
        if status == TASK_RUNNING and results_there(&t):
            if at_load64(&task_at(C, slot).state) != t.state:
                continue
            status = IS_ENDING
        p = (t.state >> 48) & 0xFF
        if status == TASK_CLAIMED and p == NODE:
            # The node fails it, and its end is told already.  Its record may stay for long after.
            if t.nreturns == 0 or results_there(&t):
                continue
            status = TASK_READY
        handle = handle_of(slot, t.state)
        taken = status in (TASK_CLAIMED, TASK_RUNNING, IS_ENDING)
        started = 0
        if status == TASK_RUNNING and at_load64(&C.procs[p].current) == handle:
            started = C.procs[p].started_ns
        task_digest(t.parent_id, t.counter, out)
        found.append((
            (<const char *>out)[:20], (<const char *>t.parent_id)[:20], attempt_of(t.state), status,
            p if taken else None, started, t.actor, bool(t.flags & TASK_F_CREATES), t.func,
            shape_of(&t)))
    return found


cdef list ending_of(uint32_t chunk):
    cdef pr_task t
    cdef uint32_t i
    cdef uint64_t slot
    if C.chunks[chunk].kind != KIND_TASKS:
        return []
    for i in range(0, PR_CHUNK_GRANULES, 2):
        slot = <uint64_t>chunk * PR_CHUNK_GRANULES + i
        if ((at_load64(&task_at(C, slot).state) & 0xFF) == TASK_RUNNING and snapshot(slot, &t)
                and not t.flags & TASK_F_CREATES and results_there(&t)
                and at_load64(&task_at(C, slot).state) == t.state):
            return [True]
    return []


cdef list retried_of(uint32_t chunk):
    cdef pr_task t
    cdef uint32_t i
    cdef uint64_t slot
    cdef uint8_t out[20]
    cdef list found = []
    if C.chunks[chunk].kind != KIND_TASKS:
        return found
    for i in range(0, PR_CHUNK_GRANULES, 2):
        slot = <uint64_t>chunk * PR_CHUNK_GRANULES + i
        if attempt_of(at_load64(&task_at(C, slot).state)) and snapshot(slot, &t):
            task_digest(t.parent_id, t.counter, out)
            found.append(((<const char *>out)[:20], attempt_of(t.state)))
    return found


# ---- objects -------------------------------------------------------------------------------

cdef object name_of(uint64_t slot, uint64_t s):
    """The 20 bytes of an object whose state is `s`; None if its maker has not said yet."""
    cdef pr_object *o = object_at(C, slot)
    cdef pr_name *at = <pr_name *>(o.data + PR_NAME_AT)
    cdef pr_name name
    cdef uint64_t tag
    cdef int look
    cdef uint8_t out[20]
    for look in range(2):
        # In the record; where the value needs the room, in the table.
        if look or ((s & 0xFF) == OBJ_SEALED and s & OBJ_INLINE and o.size > PR_NAME_AT):
            at = &C.names[slot]
        tag = at_load64(&at.counter)
        loads_before_loads()
        name = at[0]
        loads_before_loads()
        if (tag >> 48 == (gen_of(s) & 0xFFFF) and at_load64(&at.counter) == tag
                and name.counter == tag):
            object_digest(name.parent_id, tag & <uint64_t>0xFFFFFFFFFFFF, name.index, out)
            return (<const char *>out)[:20]
    return None


cdef bint on_disk(pr_object *o, uint64_t s) noexcept nogil:
    return ((s & 0xFF) != OBJ_CREATED and not s & (OBJ_INLINE | OBJ_CELL) and o.size != 0
            and place_of(o) >= C.head.n_units * PR_UNIT)


cdef list objects_of(uint32_t chunk):
    cdef pr_object *o
    cdef pr_object copy
    cdef pr_task t
    cdef uint64_t slot, s
    cdef uint32_t i
    cdef list found = []
    if C.chunks[chunk].kind != KIND_OBJECTS:
        return found
    for i in range(PR_CHUNK_GRANULES):
        slot = <uint64_t>chunk * PR_CHUNK_GRANULES + i
        o = object_at(C, slot)
        s = at_load64(&o.state)
        if (s & 0xFF) != OBJ_CREATED and (s & 0xFF) != OBJ_SEALED and (s & 0xFF) != OBJ_OPEN:
            continue
        name = name_of(slot, s)
        copy = o[0]
        loads_before_loads()
        if name is None or gen_of(at_load64(&o.state)) != gen_of(s):
            continue
        holders = [p for p in range(PR_MAX_PROCS) if copy.holders[p // 64] >> (p % 64) & 1]
        task = None
        if copy.task and plausible(C, copy.task) and snapshot(<uint32_t>copy.task, &t) and (
                gen_of(t.state) == gen_in(copy.task)):
            task = <int>(t.state & 0xFF), attempt_of(t.state)
        found.append((
            handle_of(slot, s), name, (s & 0xFF) == OBJ_SEALED, s & 0xFF00,
            copy.size if (s & 0xFF) != OBJ_CREATED else 0, copy.owner, holders, task,
            on_disk(&copy, s)))
    return found


cdef list used_of(uint32_t chunk):
    cdef uint32_t i
    cdef list found = []
    if C.chunks[chunk].kind == KIND_TASKS:
        for i in range(0, PR_CHUNK_GRANULES, 2):
            arguments(<uint64_t>chunk * PR_CHUNK_GRANULES + i, found)
    elif C.chunks[chunk].kind == KIND_OBJECTS:
        for i in range(PR_CHUNK_GRANULES):
            contents(<uint64_t>chunk * PR_CHUNK_GRANULES + i, found)
    return found


def has_tasks(uint32_t chunk):
    """Whether a chunk holds records of tasks."""
    check_session()
    return C.chunks[chunk].kind == KIND_TASKS


cdef int arguments(uint64_t slot, list found) except -1:
    cdef pr_task t
    cdef pr_dep *d = t.dep
    cdef uint32_t i
    cdef Py_ssize_t before = len(found)
    if not snapshot(slot, &t) or not t.flags & TASK_F_HELD or (t.state & 0xFF) == TASK_DONE:
        return 0
    if t.flags & TASK_F_ARGS_OBJECT:
        found.append((t.args_object, t.submitter))
    if t.ndeps > PR_INLINE_DEPS:
        if t.ndeps * sizeof(pr_dep) > t.ext_size or not in_payload(t.ext, t.ext_size):
            return 0
        d = <pr_dep *>(C.payload + t.ext)
    for i in range(t.ndeps):
        found.append((d[i].object, t.submitter))
    loads_before_loads()
    if gen_of(at_load64(&task_at(C, slot).state)) != gen_of(t.state):
        del found[before:]
    return 0


cdef list ids_inside(uint64_t slot, uint32_t *liable):
    """Handles of the objects whose ids are inside an object's value, and the process that holds
    them for that.  Nobody holds the object here: if it goes meanwhile, there are none."""
    cdef pr_object *o = object_at(C, slot)
    cdef uint64_t s = at_load64(&o.state)
    cdef uint64_t off = o.off, size = o.size, count = 0, i, place, now
    cdef const char *end
    cdef list found = []
    liable[0] = o.owner if s & OBJ_ACKED else o.liable
    if (s & 0xFF) != OBJ_SEALED or not s & OBJ_NESTED:
        return found
    if s & OBJ_CELL:
        # Once its reader has taken out what it needs, the ids there are stale.
        off, size = (<pr_cell *>o.data).value, (<pr_cell *>o.data).next
        loads_before_loads()
        now = at_load64(&o.state)
        if gen_of(now) == gen_of(s) and now & 0xFF == OBJ_SEALED and not now & OBJ_ACKED:
            found = [off, size]
        return found
    place = off = place_of(o)
    if not in_payload(off, size) or size < 8:
        return found
    end = C.payload + off + size - 8
    count = (<const uint64_t *>end)[0]
    if count * PACKED_BYTES + 8 > size or count > size:
        return found
    for i in range(count):
        # A packed id: the session's nonce, then the handle.
        found.append((<const uint64_t *>(end - (count - i) * PACKED_BYTES + 8))[0])
    loads_before_loads()
    now = at_load64(&o.state)
    # Gone, or moved to disk: the block may have been another's.
    if gen_of(now) != gen_of(s) or now & 0xFF != OBJ_SEALED or place_of(o) != place:
        found.clear()
    return found


cdef int contents(uint64_t slot, list found) except -1:
    cdef uint32_t liable
    for handle in ids_inside(slot, &liable):
        found.append((handle, liable))
    return 0


def definitions():
    """Handles of the objects that hold pickled functions and classes."""
    cdef uint32_t i
    check_session()
    return {C.funcs[i].object for i in range(min(at_load32(&C.head.funcs_used),
                                                 <uint32_t>PR_MAX_FUNCS))}


def process(uint32_t p):
    """(pid, status, role) of a process slot."""
    check_session()
    return C.procs[p].pid, at_load32(&C.procs[p].status), C.procs[p].role


# ---- for Python ------------------------------------------------------------------------------

ctypedef list (*Lister)(uint32_t)


cdef list listed(Lister lister, uint32_t chunk):
    check_session()
    C.inflight += 1     # what is made here may run destructors, and they other threads
    try:
        return lister(chunk)
    finally:
        C.inflight -= 1


def tasks_in(uint32_t chunk):
    """Tasks of a chunk that have not ended: (id, parent's id, number of retries, where it stands,
    slot of the process that has taken it or None, when it started in ns of the monotonic clock or
    0, actor's handle, whether it makes that, number of the function, shape)."""
    return listed(tasks_of, chunk)


def ending_in(uint32_t chunk):
    """Whether a chunk has a task whose results are there and which has not quite ended."""
    return bool(listed(ending_of, chunk))


def retried_in(uint32_t chunk):
    """[(id, number of retries)] of the tasks of a chunk that are being run again."""
    return listed(retried_of, chunk)


def objects_in(uint32_t chunk):
    """Objects of a chunk: (handle, id, whether it is there, flags, bytes, slot of its owner, slots
    of its holders, where the task that makes it stands and its number of retries, or None, whether
    it lies on disk)."""
    return listed(objects_of, chunk)


def used_in(uint32_t chunk):
    """[(object's handle, slot of the process that holds it for that)] of a chunk: arguments of
    tasks that have not ended, or ids inside values, whichever the chunk has."""
    return listed(used_of, chunk)
