"""What the node does with a dead process's share of shared memory.

By the time this runs the kernel has confirmed the death, so every word that names the process is
the node's to change.  Each step can be repeated: if something is done already, nothing happens.

Order matters in two places.  Ids inside values that the dead process was liable for are taken over
before its holds are dropped, or they would go with it.  Its slot becomes free last.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from pyray._core.census cimport ids_inside
from pyray._core.events cimport note_for
from pyray._core.heap cimport return_unit, units_high
from pyray._core.holds cimport borrow_for_view, is_known, take_over_ids
from pyray._core.layout cimport *
from pyray._core.mailboxes cimport close_boxes
from pyray._core.heap cimport heap_free_again, heap_is_small
from pyray._core.objects cimport (
    alive, deps_of, enqueue, finish_free, is_there, sealed, task_ready, try_free,
)
from pyray._core.queues cimport requeue_lanes
from pyray._core.records cimport (
    attempt_of, gen_in, gen_of, handle_of, next_record, object_recycle, plausible, relist,
    task_recycle, task_recycle_from, used_chunks,
)
from pyray._core.shm cimport Ctx, get_ctx, object_at, task_at
from pyray._core.pins cimport drop_pin, place_of
from pyray._core.spilling cimport left_by_spiller, settle_spiller
from pyray._core.tasks cimport hold_for_task
from pyray._core.running cimport finish, finish_ending, seen_by_freer, store_error_at

cdef Ctx *C = get_ctx()

cdef enum:
    NODE = 1

# Tasks that failed while they waited for arguments: other tasks hang on their links, so their
# records stay until those arguments are there.
cdef list _zombies = []


def recover(uint32_t p, error, spare=None):
    """Clear up after process `p`; its unstarted children fail with `error`.

    With `spare`, the 20 bytes of the task that it was killed for, only that task's do: what earlier
    ones left is taken over.
    """
    at_store32(&C.procs[p].status, PROC_DEAD)
    settle_spiller(p)       # first: what it was moving is one block's or the other's
    leave_dispatch(p)
    take_over(p)
    # First, so that no actor runs a call of p's after an earlier one has failed.
    close_boxes(C, p)
    finish_frees(p)
    finish_ends(p)
    orphan_tasks(p, error, spare)
    drop_definitions(p)
    drop_holds(p)
    orphan_objects(p)
    reclaim_memory(p)
    requeue_lanes(C, p)
    finish_move(p)
    release_chunks(p)
    reset_slot(p)
    rescan_waiting()


cdef void leave_dispatch(uint32_t p) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t bit = <uint64_t>1 << (p % 64)
    at_cas32(&C.dispatch.searcher, p + 1, 0)
    at_cas32(&C.dispatch.filler, p + 1, 0)
    at_and64(&C.dispatch.idle[p // 64], ~bit)
    at_and64(&C.dispatch.resume[p // 64], ~bit)
    for i in range(C.head.num_tokens):
        at_cas32(&C.dispatch.token[i], p + 1, 0)


cdef void finish_move(uint32_t p) noexcept nogil:
    """A task that p made ready and may not have come to queue."""
    cdef uint64_t handle = at_load64(&C.procs[p].moving)
    cdef uint64_t s
    if handle == 0 or not plausible(C, handle):
        return
    s = at_load64(&task_at(C, handle).state)
    if gen_of(s) == gen_in(handle) and ((s & 0xFF) == TASK_READY or (s & 0xFF) == TASK_NODE):
        enqueue(C, handle)
    at_store64(&C.procs[p].moving, 0)


cdef void finish_frees(uint32_t p) noexcept nogil:
    """Objects that p was just freeing, and free records that it may not have come to list."""
    cdef uint64_t slot = 0, s
    # Tasks have their state first, as objects do, and both call status 0 free.
    while next_record(C, KIND_TASKS, &slot):
        relist_free(p, slot)
    slot = 0
    while next_record(C, KIND_OBJECTS, &slot):
        relist_free(p, slot)
        s = at_load64(&object_at(C, slot).state)
        if s >> 48 == p + 1 and ((s & 0xFF) == OBJ_FREEING or (s & 0xFF) == OBJ_RELEASING
                                 or (s & 0xFF) == OBJ_EMPTY):
            finish_free(C, handle_of(slot, s), s)


cdef void relist_free(uint32_t p, uint64_t slot) noexcept nogil:
    cdef uint64_t s = at_load64(<uint64_t *>object_at(C, slot))
    if (s >> 48 == p + 1 and (s & 0xFF) == OBJ_FREE
            and C.chunks[slot // PR_CHUNK_GRANULES].owner != p + 1):
        relist(C, slot)


cdef void finish_ends(uint32_t p) noexcept nogil:
    """Tasks whose returns p had sealed, and of which it was giving a block back; and those that are
    done, for a submitter that had died before p."""
    cdef uint64_t slot = 0, s
    cdef pr_task *t
    while next_record(C, KIND_TASKS, &slot):
        t = task_at(C, slot)
        s = at_load64(&t.state)
        if (s & 0xFF) == TASK_ENDING and (s >> 48) & 0xFF == p:
            if t.ext_size and heap_is_small(t.ext_size):
                heap_free_again(C, t.ext, t.ext_size, seen_by_freer(t)[0])
            t.ext_size = 0      # a large one's units are p's, and no record's
            finish_ending(handle_of(slot, s))
        elif (s & 0xFF) == TASK_DONE and not at_load16(&t.flags) & TASK_F_HELD:
            task_recycle_from(C, handle_of(slot, s), s)


cdef int drop_definitions(uint32_t p) except -1:
    """What p was publishing is held in the node's name, and may have come to no number."""
    cdef uint64_t slot = 0, s
    cdef pr_object *o
    cdef set published = None
    while next_record(C, KIND_OBJECTS, &slot):
        o = object_at(C, slot)
        s = at_load64(&o.state)
        if not is_there(s) or o.owner != p or not at_load64(&o.holders[0]) & (1 << NODE):
            continue
        if is_known(handle_of(slot, s)):
            continue
        if published is None:
            published = {C.funcs[n].object for n in range(
                min(at_load32(&C.head.funcs_used), <uint32_t>PR_MAX_FUNCS))}
        if handle_of(slot, s) not in published:
            at_and64(&o.holders[0], ~<uint64_t>(1 << NODE))
            try_free(C, handle_of(slot, s))
    return 0


cdef int take_over(uint32_t p) except -1:
    """Hold, as the node, the ids inside values that p was liable for."""
    cdef uint64_t slot = 0, s
    cdef uint32_t liable
    cdef list inside
    while next_record(C, KIND_OBJECTS, &slot):
        s = at_load64(&object_at(C, slot).state)
        inside = ids_inside(slot, &liable)
        if liable == p and not inside:
            inside = ids_inside(slot, &liable)      # it was just going to disk, if it has any
        if liable == p and inside:
            take_over_ids(handle_of(slot, s), inside, p)
    return 0


cdef int orphan_tasks(uint32_t p, object error, object spare) except -1:
    """Tasks that p submitted: those under way end by themselves, the others fail."""
    cdef uint64_t slot = 0, s, handle, status
    cdef pr_task *t
    while next_record(C, KIND_TASKS, &slot):
        t = task_at(C, slot)
        s = at_load64(&t.state)
        status = s & 0xFF
        if status == TASK_FREE or t.submitter != p:
            continue
        handle = handle_of(slot, s)
        if status == TASK_NEW:
            task_recycle(C, handle)     # nothing refers to it yet
        elif status == TASK_DONE:
            task_recycle_from(C, handle, s)
        elif (spare is not None and t.actor == 0
              and (<const char *>t.parent_id)[:20] not in spare and adopt_task(handle, t)):
            pass
        else:
            at_and16(&t.flags, <unsigned short>~TASK_F_HELD)
            if fail_unstarted(handle, error):
                continue
            # It ends by itself; nobody will come for its record then.
            s = at_load64(&t.state)
            if (s & 0xFF) == TASK_DONE and gen_of(s) == gen_in(handle):
                task_recycle_from(C, handle, s)
    return 0


cdef bint fail_unstarted(uint64_t handle, object error) except -1:
    """Have a task end with an error, if nobody has claimed it."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s, status
    while True:
        s = at_load64(&t.state)
        status = s & 0xFF
        if gen_of(s) != gen_in(handle) or (
                status != TASK_READY and status != TASK_NODE and status != TASK_WAITING):
            return False
        if at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>NODE << 48)):
            end_failed(handle, status, error)
            return True


cdef int adopt_task(uint64_t handle, pr_task *t) except -1:
    """Be the submitter of a task from now on, in place of a dead process that still holds what the
    task needs.  False where that is not needed, or too late."""
    cdef list needs = []
    cdef pr_dep *d = deps_of(C, t)
    cdef uint32_t i
    cdef uint64_t s = at_load64(&t.state), status = s & 0xFF
    cdef bint held = (at_load16(&t.flags) & TASK_F_HELD) != 0
    if gen_of(s) != gen_in(handle):
        return False
    if status == TASK_READY or status == TASK_NODE or status == TASK_WAITING:
        # Nobody else is to run it, and free its record, meanwhile.
        if not at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED
                        | (<uint64_t>NODE << 48)):
            return False
    elif not held or status == TASK_ENDING or gen_of(at_load64(&t.state)) != gen_in(handle):
        return False    # it runs, and whoever runs it frees its record
    t.submitter = NODE
    if held:
        for i in range(t.ndeps):
            if alive(C, d[i].object):
                needs.append(borrow_for_view(d[i].object))
        if t.flags & TASK_F_ARGS_OBJECT and alive(C, t.args_object):
            needs.append(borrow_for_view(t.args_object))
        hold_for_task(handle, needs)
    if status == TASK_READY or status == TASK_NODE or status == TASK_WAITING:
        at_store64(&t.state, s)
        if status != TASK_WAITING or task_ready(C, handle):
            enqueue(C, handle)
    return True


cdef int fail_task(uint64_t handle, object error) except -1:
    """Have a task end with an error: one that nobody has claimed, or whose process is dead."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s, status
    while True:
        s = at_load64(&t.state)
        status = s & 0xFF
        if gen_of(s) != gen_in(handle) or status == TASK_FREE or status == TASK_DONE \
                or status == TASK_ENDING:
            return 0
        # Claimed by the node, so that no worker starts it now.
        if at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>C.self << 48)):
            break
    return end_failed(handle, status, error)


cdef int end_failed(uint64_t handle, uint64_t status, object error) except -1:
    """The same for a task that the node has claimed, and that had this status."""
    cdef pr_task *t = task_at(C, handle)
    if status != TASK_RUNNING:
        # Before the result, since the record may stay.  A tuple is a cancelled task's error: see
        # store_error.
        note_for(0, t, attempt_of(at_load64(&t.state)), 0, EVENT_FAILED | EVENT_NEVER
                 | (EVENT_CANCELLED if type(error) is tuple else 0))
    store_error_at(handle, error)
    if status == TASK_WAITING:
        _zombies.append(handle)     # other tasks hang on its links
    else:
        finish(handle)
    return 0


cdef void drop_holds(uint32_t p) noexcept nogil:
    cdef uint64_t slot = 0, s
    cdef uint64_t bit = <uint64_t>1 << (p % 64)
    cdef pr_object *o
    while next_record(C, KIND_OBJECTS, &slot):
        o = object_at(C, slot)
        s = at_load64(&o.state)
        if not is_there(s):
            continue
        drop_pin(p, o, s)
        if at_load64(&o.holders[p // 64]) & bit:
            at_and64(&o.holders[p // 64], ~bit)
        elif not s >> 48:
            continue        # known to its owner alone, if that is alive
        # Also where the bit is gone already: p may have died before it looked for others'.
        try_free(C, handle_of(slot, s))


cdef void orphan_objects(uint32_t p) noexcept nogil:
    """Objects of p's: what was not sealed goes, unless a live task still makes it; sealed ones, and
    shared arrays, stay for as long as somebody holds them."""
    cdef uint64_t slot = 0, s, ts
    cdef pr_object *o
    while next_record(C, KIND_OBJECTS, &slot):
        o = object_at(C, slot)
        s = at_load64(&o.state)
        if (s & 0xFF) == OBJ_FREE or o.owner != p:
            continue
        if (s & 0xFF) == OBJ_SEALED or (s & 0xFF) == OBJ_OPEN:
            o.owner = NODE
            try_free(C, handle_of(slot, s))
        elif (s & 0xFF) == OBJ_CREATED:
            o.owner = NODE
            if o.task != 0:
                ts = at_load64(&task_at(C, o.task).state)
                if gen_of(ts) == (o.task >> 32) and (ts & 0xFF) != TASK_FREE:
                    try_free(C, handle_of(slot, s))     # its worker will seal, or drop it
                    continue
            if at_cas64(&o.state, s, (s & PR_GEN_MASK) | OBJ_EMPTY | PR_BY(NODE)):
                object_recycle(C, handle_of(slot, s))


cdef int reclaim_memory(uint32_t p) except -1:
    """Blocks that p claimed and that no object's payload lies in."""
    cdef uint64_t n = units_high(C)
    cdef uint8_t *live
    cdef uint32_t k
    cdef uint64_t slot = 0, s, u, first = 0, units = 0
    cdef pr_object *o
    cdef pr_task *t
    cdef uint64_t *masks
    live = <uint8_t *>calloc(n, 1)
    masks = <uint64_t *>calloc(n * 4, 8)
    if live == NULL or masks == NULL:
        free(live)
        free(masks)
        return 0
    try:
        with nogil:
            while next_record(C, KIND_TASKS, &slot):
                t = task_at(C, slot)
                if (at_load64(&t.state) & 0xFF) != TASK_FREE and t.ext_size:
                    mark(live, masks, n, t.ext, t.ext_size)
            slot = 0
            while next_record(C, KIND_OBJECTS, &slot):
                o = object_at(C, slot)
                s = at_load64(&o.state)
                # Those that a live process is just freeing are its own to free.
                if ((s & 0xFF) != OBJ_SEALED and (s & 0xFF) != OBJ_FREEING
                        and (s & 0xFF) != OBJ_OPEN and (s & 0xFF) != OBJ_RELEASING):
                    continue
                if not s & OBJ_INLINE and o.size:
                    mark(live, masks, n, place_of(o), o.size)
            # What a live process is just moving may have left its old block before the look above.
            for k in range(at_load32(&C.head.procs_high)):
                if k != p and left_by_spiller(k, &first, &units):
                    for u in range(first, min(n, first + units)):
                        live[u] = 1
            for u in range(n):
                if (at_load32(&C.units[u]) & 0xFFFF) != p + 1:
                    continue
                if at_load32(&C.units[u]) >> 16 == UNIT_LARGE:
                    if not live[u]:
                        return_unit(C, u)
                elif C.slabs[u].owner == p + 1:
                    settle_slab(u, &masks[u * 4])
                elif not live[u]:
                    return_unit(C, u)       # claimed, but never made a slab
            at_store64(&C.head.freed_low, 0)
    finally:
        free(live)
        free(masks)
    return 0


cdef void mark(uint8_t *live, uint64_t *masks, uint64_t n, uint64_t off,
               uint64_t size) noexcept nogil:
    cdef uint64_t u, block
    if off + size > n * PR_UNIT:
        return      # of units that were claimed since the tables were made: not the dead one's
    for u in range(off // PR_UNIT, (off + size + PR_UNIT - 1) // PR_UNIT):
        live[u] = 1
    u = off // PR_UNIT
    if at_load32(&C.units[u]) >> 16 == UNIT_SLAB and C.slabs[u].block:
        block = (off % PR_UNIT) // C.slabs[u].block
        masks[u * 4 + block // 64] |= <uint64_t>1 << (block % 64)


cdef void settle_slab(uint64_t u, uint64_t *used) noexcept nogil:
    """Free what is not in use, and the whole unit if nothing is; else the node keeps it until it is
    empty (`release_empty`)."""
    cdef pr_slab *s = &C.slabs[u]
    cdef uint32_t i, blocks = PR_UNIT // s.block
    if used[0] == 0 and used[1] == 0 and used[2] == 0 and used[3] == 0:
        s.owner = 0
        return_unit(C, u)
        return
    for i in range(blocks):
        if not used[i // 64] & (<uint64_t>1 << (i % 64)):
            at_or64(&s.bits[i // 64], <uint64_t>1 << (i % 64))
    s.owner = NODE + 1
    s.orphan = 1
    s.takes += s.takes & 1      # its owner may have died between the two steps
    at_store32(&C.units[u], (UNIT_SLAB << 16) | (NODE + 1))
    at_store32(&_orphans, 1)


cdef uint32_t _orphans = 0


def release_empty():
    """Return slabs that dead processes left, once nothing in them is in use, and the records of
    tasks that failed while they waited."""
    global _zombies
    cdef uint64_t handle
    cdef list left = []
    for handle in _zombies:
        if deps_there(handle):
            finish(handle)
        else:
            left.append(handle)
    _zombies = left
    release_slabs()


cdef bint deps_there(uint64_t handle) noexcept nogil:
    cdef pr_task *t = task_at(C, handle)
    cdef pr_dep *d = deps_of(C, t)
    cdef uint32_t i
    for i in range(t.ndeps):
        if (d[i].position != PR_NOWHERE and alive(C, d[i].object)
                and not sealed(C, d[i].object)):
            return False
    return True


cdef void release_slabs() noexcept nogil:
    cdef uint64_t u
    cdef uint32_t i, got, blocks
    cdef uint64_t have
    cdef pr_slab *s
    if not _orphans:
        return
    for u in range(units_high(C)):
        if C.units[u] != ((UNIT_SLAB << 16) | (NODE + 1)) or C.slabs[u].owner != NODE + 1:
            continue
        s = &C.slabs[u]
        if not s.orphan:
            continue        # one of the node's own
        blocks = PR_UNIT // s.block
        got = 0
        for i in range(4):
            have = at_load64(&s.bits[i])
            while have:
                have &= have - 1
                got += 1
        if got == blocks:
            s.owner = 0
            return_unit(C, u)


cdef void release_chunks(uint32_t p) noexcept nogil:
    """Mark p's free records as free and put its chunks up for adoption."""
    cdef uint32_t k, i, step
    cdef uint64_t slot
    for k in range(1, used_chunks(C)):
        if C.chunks[k].owner != p + 1:
            continue
        if C.chunks[k].kind == KIND_SEGMENT:
            at_store64(&C.chunks[k].free_bits[0], 1)
        elif C.chunks[k].kind != KIND_NONE:
            step = 1 if C.chunks[k].kind == KIND_OBJECTS else 2
            for i in range(PR_CHUNK_GRANULES):
                if i % step:
                    continue
                slot = k * PR_CHUNK_GRANULES + i
                # Both kinds have their state first, and both call status 0 free.
                if (at_load64(<uint64_t *>object_at(C, slot)) & 0xFF) == 0:
                    at_or64(&C.chunks[k].free_bits[i // 64], <uint64_t>1 << (i % 64))
        at_store32(&C.chunks[k].owner, 0)


cdef void reset_slot(uint32_t p) noexcept nogil:
    cdef int i
    cdef uint64_t at
    cdef pr_proc *q = &C.procs[p]
    for i in range(PR_WAITERS):
        at_store32(&q.waiter[i].active, 0)
        at_store32(&q.waiter[i].parked, 0)
    for i in range(PR_LANES):
        # The next owner begins with a segment of its own.
        at = (q.lane[i].tail + PR_SEGMENT_ENTRIES - 1) // PR_SEGMENT_ENTRIES * PR_SEGMENT_ENTRIES
        at_store64(&q.lane[i].head, at)
        at_store64(&q.lane[i].tail, at)
    at_store8(&C.dispatch.hint[p], 0)
    at_store64(&q.current, 0)
    at_store64(&q.assigned, 0)
    at_store32(&q.audit_number, 0)
    at_store32(&q.shaped, SHAPED_NONE)
    at_store32(&q.blocked, 0)
    at_store32(&q.parked, 0)
    q.cpu = 0
    at_store32(&q.status, PROC_FREE)


cdef void rescan_waiting() noexcept nogil:
    """Tasks whose argument was sealed by p, which may have died before it told them."""
    cdef uint32_t j
    cdef uint64_t slot = 0, s
    cdef pr_task *t
    cdef pr_dep *d
    while next_record(C, KIND_TASKS, &slot):
        t = task_at(C, slot)
        s = at_load64(&t.state)
        if (s & 0xFF) != TASK_WAITING or t.ndeps == 0:
            continue
        d = deps_of(C, t)
        for j in range(t.ndeps):
            if alive(C, d[j].object) and sealed(C, d[j].object):
                at_store32(&d[j].ready, 1)
        if task_ready(C, handle_of(slot, s)):
            enqueue(C, handle_of(slot, s))


def pending():
    """Whether something that dead processes left is still to be released."""
    return bool(_orphans) or bool(_zombies)
