"""The life of an object's record: held, sealed, awaited, freed.  No Python object in here.

An object is freed when it is sealed and nobody holds it.  An id that never left its process is held
by that process's ObjectID alone, privately.  Once it escapes, each process that holds it has a bit
in the record, which it sets and clears itself; whoever clears the last one frees.  A bit and not a
count, because after a crash between adding one and noting it nobody could tell whether it was
added, while setting a bit twice, or clearing a dead process's bits, does no harm.

Whoever hands an id on keeps its own hold until the receiver has set its bit: a queued task's ids
are held by its submitter, the ids inside a value by its writer, then by its owner.

The seal is the one point of publication: before it the record is its maker's alone, after it
the value does not change, nor its place, but for a move to the spill file (spilling.pyx).
"""

from libc.stdint cimport uint32_t, uint64_t
from pyray._core.dispatch cimport announce, expect_here, ring_node, wake_process
from pyray._core.heap cimport heap_begin_free, heap_free, heap_free_again, heap_is_small
from pyray._core.layout cimport *
from pyray._core.mailboxes cimport wake_actor
from pyray._core.points cimport *
from pyray._core.queues cimport node_queue_push, queue_push
from pyray._core.records cimport gen_in, gen_of, object_recycle, plausible
from pyray._core.pins cimport place_of, settle_place
from pyray._core.shm cimport Ctx, object_at, task_at

cdef enum:
    MAX_LEVELS = 64


cdef bint sealed(Ctx *c, uint64_t handle) noexcept nogil:
    return (at_load64(&object_at(c, handle).state) & 0xFF) == OBJ_SEALED


cdef bint alive(Ctx *c, uint64_t handle) noexcept nogil:
    cdef uint64_t s
    if not plausible(c, handle):
        return False
    s = at_load64(&object_at(c, handle).state)
    return gen_of(s) == gen_in(handle) and (
        (s & 0xFF) == OBJ_SEALED or (s & 0xFF) == OBJ_CREATED or (s & 0xFF) == OBJ_OPEN)


cdef bint hold(Ctx *c, uint64_t handle) noexcept nogil:
    """Set this process's bit.  False if the object is gone.  Somebody must hold it meanwhile."""
    cdef pr_object *o
    cdef uint64_t s, bit = <uint64_t>1 << (c.self % 64)
    cdef bint had
    if not alive(c, handle):
        return False
    o = object_at(c, handle)
    had = (at_or64(&o.holders[c.self // 64], bit) & bit) != 0
    PR_POINT(c, POINT_HOLD_SET)
    while True:
        s = at_load64(&o.state)
        if gen_of(s) != gen_in(handle) or not is_there(s):
            if not had:
                at_and64(&o.holders[c.self // 64], ~bit)
            return False
        # The version moves after the bit is set: a scan of the holders that began before fails to
        # free, and one that begins now sees the bit.
        if at_cas64(&o.state, s, next_version(s)):
            return True


cdef void hold_for(Ctx *c, uint64_t handle, uint32_t p) noexcept nogil:
    """Set another process's bit, of an object that this one holds."""
    cdef pr_object *o = object_at(c, handle)
    cdef uint64_t s
    at_or64(&o.holders[p // 64], <uint64_t>1 << (p % 64))
    while True:
        s = at_load64(&o.state)
        if at_cas64(&o.state, s, next_version(s)):
            return


cdef void unhold(Ctx *c, uint64_t handle) noexcept nogil:
    cdef pr_object *o = object_at(c, handle)
    at_and64(&o.holders[c.self // 64], ~(<uint64_t>1 << (c.self % 64)))
    PR_POINT(c, POINT_HOLD_CLEARED)
    try_free(c, handle)


cdef void free_object(Ctx *c, pr_object *o, uint64_t handle, uint64_t s) noexcept nogil:
    """The record is in FREEING, by us.  Should we die here, the node does it again from the step
    that the state tells: see finish_free."""
    cdef uint32_t liable = o.liable
    cdef bint tell = (s & OBJ_NESTED) and not (s & OBJ_ACKED) and liable != c.self
    PR_POINT(c, POINT_FREEING)
    if s & OBJ_CELL and o.off:
        # Nobody will read the cell: its writer waits no longer.
        seal(c, o.off, OBJ_INLINE)
    if s & OBJ_ACTOR:
        tell_of_actor(c)
    if has_block(o, s):
        free_block(c, o, handle)
    object_recycle(c, handle)
    if tell:
        wake_process(c, liable)      # it holds the ids inside for nothing now


cdef void free_block(Ctx *c, pr_object *o, uint64_t handle) noexcept nogil:
    cdef uint64_t off = settle_place(o), size = o.size
    cdef uint64_t by = (handle >> 32) << PR_GEN_SHIFT | PR_BY(c.self)
    (<uint64_t *>o.data)[0] = heap_begin_free(c, off, size)
    # A small block may be another object's as soon as it is free, so from now on it is in doubt; of
    # a large one all that is not free yet is ours, and no record's.
    at_store_release64(&o.state, by | (OBJ_RELEASING if heap_is_small(size) else OBJ_EMPTY))
    heap_free(c, off, size)
    PR_POINT(c, POINT_BLOCK_FREED)


cdef void finish_free(Ctx *c, uint64_t handle, uint64_t s) noexcept nogil:
    """What a dead process was freeing, as its state `s` tells, is freed by the node."""
    cdef pr_object *o = object_at(c, handle)
    if (s & 0xFF) == OBJ_FREEING:
        at_store64(&o.state, freeing(c, s))
        free_object(c, o, handle, s)
        return
    if (s & 0xFF) == OBJ_RELEASING:
        heap_free_again(c, place_of(o), o.size, (<uint64_t *>o.data)[0])
    object_recycle(c, handle)


cdef void tell_of_actor(Ctx *c) noexcept nogil:
    """Some actor has lost its last handle: the node is to look which."""
    at_store32(&c.head.actors_dropped, 1)
    ring_node(c)


cdef void try_free(Ctx *c, uint64_t handle) noexcept nogil:
    """Free the object if nobody holds it; if it is not sealed yet, leave that to who seals it."""
    cdef pr_object *o = object_at(c, handle)
    cdef uint64_t s
    while True:
        s = at_load64(&o.state)
        if gen_of(s) != gen_in(handle):
            return
        if (at_load64(&o.holders[0]) | at_load64(&o.holders[1]) | at_load64(&o.holders[2])
                | at_load64(&o.holders[3])) != 0:
            return
        if (s & 0xFF) == OBJ_CREATED:
            if at_cas64(&o.state, s, s | OBJ_DROPPED):
                if s & OBJ_ACTOR:
                    tell_of_actor(c)
                return
        elif (s & 0xFF) == OBJ_SEALED or (s & 0xFF) == OBJ_OPEN:
            if at_cas64(&o.state, s, freeing(c, s)):
                free_object(c, o, handle, s)
                return
        else:
            return


# ---- tasks that wait for an object ---------------------------------------------------------

cdef bint task_ready(Ctx *c, uint64_t handle) noexcept nogil:
    """If all arguments are there, move the task from WAITING on.  True for who moved it."""
    cdef pr_task *t = task_at(c, handle)
    cdef pr_dep *d = deps_of(c, t)
    cdef uint64_t s
    cdef uint32_t i
    cdef uint64_t to = TASK_READY if t.shape == 0 else TASK_NODE
    for i in range(t.ndeps):
        if not at_load32(&d[i].ready):
            return False
    s = at_load64(&t.state)
    if (s & 0xFF) != TASK_WAITING or gen_of(s) != gen_in(handle):
        return False
    return at_cas64(&t.state, s, (s & ~<uint64_t>0xFF) | to)


cdef void enqueue(Ctx *c, uint64_t handle) noexcept nogil:
    """Queue a task that is READY (for any worker) or NODE (for the node to place).

    A full lane is no loss: the task stays READY and whoever waits for it queues it again.
    """
    cdef pr_task *t = task_at(c, handle)
    if t.actor and t.shape == 0:
        wake_actor(c, t.actor)      # it stands in the mailbox already
    elif t.shape == 0:
        queue_push(c, handle, t.depth)
        announce(c)
    else:
        node_queue_push(c, handle)
        ring_node(c)


cdef pr_dep *dep_of(Ctx *c, uint64_t link, uint64_t handle) noexcept nogil:
    """The dep entry that a link means, or NULL if that is no longer one that awaits `handle`."""
    cdef pr_task *t = task_at(c, link & 0xFFFFFF)
    cdef uint32_t index = (link >> 24) & 0xFFFF
    cdef pr_dep *d
    if (gen_of(at_load64(&t.state)) & 0xFFFFFF) != <uint32_t>(link >> 40) or index >= t.ndeps:
        return NULL
    d = deps_of(c, t) + index
    return d if d.object == handle else NULL


cdef void tell_dependents(Ctx *c, uint64_t handle) noexcept nogil:
    """Take a sealed object's list and tell each task on it; may be repeated.

    Whoever held the object last may have let go of it since the seal, and its record may be another
    object's by now: so the list is looked at before it is taken.
    """
    cdef pr_object *o = object_at(c, handle)
    cdef uint64_t first
    while True:
        first = at_load64(&o.dependents)
        if first == 0 or dep_of(c, first, handle) == NULL:
            return
        if at_cas64(&o.dependents, first, 0):
            PR_POINT(c, POINT_LIST_TAKEN)
            walk(c, first, handle)
            return


cdef void walk(Ctx *c, uint64_t link, uint64_t handle) noexcept nogil:
    cdef uint64_t slot, next
    cdef uint32_t gen
    cdef pr_dep *d
    while link:
        d = dep_of(c, link, handle)
        if d == NULL:
            return      # the rest of the list went with a task that is gone
        slot = link & 0xFFFFFF
        gen = gen_of(at_load64(&task_at(c, slot).state))
        next = d.next
        at_store32(&d.ready, 1)
        # The intent first: should we die between the two, the node queues the task.
        at_store64(&c.me.moving, (<uint64_t>gen << 32) | slot)
        if task_ready(c, (<uint64_t>gen << 32) | slot):
            PR_POINT(c, POINT_MADE_READY)
            enqueue(c, (<uint64_t>gen << 32) | slot)
        at_store64(&c.me.moving, 0)
        link = next


cdef bint await_object(Ctx *c, uint64_t handle, uint64_t task, uint32_t index) noexcept nogil:
    """Put dep `index` of a WAITING task on the object's list.  True if it is sealed already."""
    cdef pr_object *o = object_at(c, handle)
    cdef pr_dep *d = deps_of(c, task_at(c, task)) + index
    cdef uint64_t link = PR_LINK(<uint32_t>task, gen_in(task), index)
    cdef uint64_t first
    while True:
        if sealed(c, handle):
            at_store32(&d.ready, 1)
            return True
        first = at_load64(&o.dependents)
        d.next = first
        if at_cas64(&o.dependents, first, link):
            break
    PR_POINT(c, POINT_AWAITED)
    if sealed(c, handle):
        # Sealed between the look and the push: the sealer may have missed us.
        tell_dependents(c, handle)
    return False


# ---- processes that wait for an object -----------------------------------------------------

cdef void bump(pr_proc *p, pr_waiter *w, uint32_t by) noexcept nogil:
    cdef uint32_t n = at_add32(&w.events, by) + by
    # Only one of those who find it parked wakes it: until it runs, that takes a while.
    if (<int>(n - at_load32(&w.target)) >= 0 and at_load32(&w.parked)
            and at_cas32(&w.parked, 1, 0)):
        expect_here(p)
        futex_wake(&w.parked, 1)


cdef void bump_all(Ctx *c, uint32_t by) noexcept nogil:
    cdef uint32_t p, i
    for p in range(at_load32(&c.head.procs_high)):
        for i in range(PR_WAITERS):
            if at_load32(&c.procs[p].waiter[i].active):
                bump(&c.procs[p], &c.procs[p].waiter[i], by)


cdef void notify_all(Ctx *c) noexcept nogil:
    """Make every waiting process look again: after a death, and at the end."""
    bump_all(c, ALARM)


cdef int waiter_open(Ctx *c) noexcept nogil:
    """A waiter of this process for the calling thread: its number, or -1 if all are in use."""
    cdef int i
    for i in range(PR_BRIDGE):
        if (at_load32(&c.me.waiter[i].active) == 0
                and at_cas32(&c.me.waiter[i].active, 0, 1)):
            return <int>c.self * PR_WAITERS + i
    return -1


cdef int waiter_of_bridge(Ctx *c) noexcept nogil:
    """The waiter of this process's one thread that resolves futures."""
    at_store32(&c.me.waiter[PR_BRIDGE].active, 1)
    return <int>c.self * PR_WAITERS + PR_BRIDGE


cdef void waiter_close(Ctx *c, int waiter) noexcept nogil:
    at_store32(&c.procs[waiter // PR_WAITERS].waiter[waiter % PR_WAITERS].active, 0)


cdef bint register_waiter(Ctx *c, uint64_t handle, int waiter) noexcept nogil:
    """Ask to be told of the seal.  True if the object is sealed by now.  Called with the GIL held,
    which keeps a closed waiter of this process from being opened meanwhile."""
    cdef pr_object *o = object_at(c, handle)
    cdef uint32_t me = <uint32_t>waiter + 1
    cdef uint32_t w
    while True:
        w = at_load32(&o.waiter)
        if w == me or w == PR_WAITER_MULTI:
            break
        if at_cas32(&o.waiter, w, me if w == 0 or is_closed(c, w - 1) else PR_WAITER_MULTI):
            break
    return sealed(c, handle)


cdef bint is_closed(Ctx *c, uint32_t waiter) noexcept nogil:
    """Whether a waiter is one of this process's that nobody uses: a wait that timed out."""
    return (waiter // PR_WAITERS == c.self
            and at_load32(&c.me.waiter[waiter % PR_WAITERS].active) == 0)


cdef void note_done(pr_proc *q, uint64_t handle) noexcept nogil:
    """Tell a bridge which of its many objects it is; the event that wakes it comes after."""
    cdef uint32_t i = at_add32(&q.done_tail, 1)
    at_store64(&q.done[i % PR_DONE], handle)


cdef void tell_waiters(Ctx *c, uint32_t w, uint64_t handle, uint32_t by) noexcept nogil:
    """`w`: what the sealed object's record says of who waits for it."""
    cdef uint32_t p
    if w == PR_WAITER_MULTI:
        for p in range(at_load32(&c.head.procs_high)):
            if at_load32(&c.procs[p].waiter[PR_BRIDGE].active):
                note_done(&c.procs[p], handle)
        bump_all(c, by)
        return
    w -= 1
    p = w // PR_WAITERS
    w %= PR_WAITERS
    if w == PR_BRIDGE:
        note_done(&c.procs[p], handle)
        by = 1      # it looks at every event: an alarm would have it look at everything
    bump(&c.procs[p], &c.procs[p].waiter[w], by)


cdef bint seal(Ctx *c, uint64_t handle, uint64_t flags) noexcept nogil:
    """Publish the value that lies in the record; tell who waits; free it if nobody wants it.
    False if it was sealed before, by an earlier attempt of its task."""
    cdef pr_object *o = object_at(c, handle)
    cdef uint64_t s
    cdef uint32_t w
    while True:
        s = at_load64(&o.state)
        if gen_of(s) != gen_in(handle) or (s & 0xFF) != OBJ_CREATED:
            return False
        if s & OBJ_DROPPED:
            if at_cas64(&o.state, s, freeing(c, s | flags)):
                free_object(c, o, handle, s | flags)
                return True
        elif at_cas64(&o.state, s, (s & ~<uint64_t>0xFF) | OBJ_SEALED | flags):
            break
    PR_POINT(c, POINT_SEALED)
    if at_load64(&o.dependents) != 0:
        tell_dependents(c, handle)
    w = at_load32(&o.waiter)
    if w:
        tell_waiters(c, w, handle, ALARM if flags & OBJ_ERROR else 1)
    return True


cdef void open_object(Ctx *c, uint64_t handle) noexcept nogil:
    """A shared array has its payload: from now on the record keeps that alive."""
    cdef pr_object *o = object_at(c, handle)
    at_store_release64(&o.state, (at_load_relaxed64(&o.state) & ~<uint64_t>0xFF) | OBJ_OPEN)
    PR_POINT(c, POINT_ARRAY_OPENED)


cdef bint seal_open(Ctx *c, uint64_t handle, uint64_t s) noexcept nogil:
    """Make a shared array an object like any other, where it lies, if its state is still `s`.

    Whoever sees it sealed sees what was written before; nobody can have waited for it, since its id
    has been nowhere but in views.
    """
    if gen_of(s) != gen_in(handle) or (s & 0xFF) != OBJ_OPEN:
        return False
    if not at_cas64(&object_at(c, handle).state, s, (s & ~<uint64_t>0xFF) | OBJ_SEALED):
        return False
    PR_POINT(c, POINT_ARRAY_SEALED)
    return True


# ---- what a blocked worker awaits goes first -----------------------------------------------

cdef void raise_depth(Ctx *c, uint64_t handle, uint32_t depth, int levels) noexcept nogil:
    """Make the task behind an object, and what that one waits for, count as `depth` deep."""
    cdef pr_object *o = object_at(c, handle)
    cdef uint64_t task = o.task
    cdef pr_task *t
    cdef pr_dep *d
    cdef uint64_t s
    cdef uint32_t i, status
    if task == 0 or levels >= MAX_LEVELS:
        return
    t = task_at(c, task)
    s = at_load64(&t.state)
    if gen_of(s) != gen_in(task):
        return
    status = s & 0xFF
    if status == TASK_READY or status == TASK_NODE:
        if t.depth < depth:
            t.depth = <unsigned short>depth
            # A second entry in a queue is harmless: the task's state decides who runs it.
            enqueue(c, task)
    elif status == TASK_WAITING:
        if t.depth < depth:
            t.depth = <unsigned short>depth
        d = deps_of(c, t)
        for i in range(t.ndeps):
            if gen_of(at_load64(&t.state)) != gen_in(task):
                return
            if not at_load32(&d[i].ready) and alive(c, d[i].object):
                raise_depth(c, d[i].object, depth, levels + 1)
