"""Records of objects and tasks, and segments of queues: who hands out which slot.

The record region is cut into chunks of 64 KiB.  A chunk holds one kind for ever (so that a stale
handle always meets a record of the kind that it expects) and has one process that allocates from
it.  Anybody may free a record: the owner puts it on its private stack, others set the record's bit
in the chunk, which the owner harvests.  A dead process's chunks are adopted by the next process
that needs one.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from pyray._core.arena cimport arena, pyray_arena
from pyray._core.layout cimport *
from pyray._core.points cimport *
from pyray._core.shm cimport Ctx, actor_at, get_ctx, object_at, task_at

cdef extern from *:
    """
    #define PR_CTZ64(x) __builtin_ctzll(x)
    """
    int PR_CTZ64(uint64_t x) nogil

cdef extern from "bulkcopy.h" nogil:
    void pyray_make_pages(const pyray_arena *arena, size_t from_low, size_t n)

cdef enum:
    HARVEST_CHUNKS = 16     # chunks looked through per allocation before a new one is taken
    # A process that has more chunks of a kind has the pages of each next one made in one go, at two
    # thirds of what a page fault for each costs.  Not of the first: an idle session is to be small.
    FIRST_CHUNKS = 4

# One kind's allocator in this process.
cdef struct Slots:
    uint32_t kind
    uint32_t step           # granules per record
    uint32_t *stack         # slots freed by this process or harvested
    uint32_t depth
    uint32_t capacity
    uint32_t *chunks
    uint32_t n_chunks
    uint32_t cap_chunks
    uint32_t cursor
    uint32_t fresh          # next never-used slot of the newest chunk
    uint32_t fresh_end

cdef Slots _objects
cdef Slots _tasks
cdef Slots _segments


cdef void reset(Slots *s, uint32_t kind, uint32_t step) noexcept nogil:
    free(s.stack)
    free(s.chunks)
    memset(s, 0, sizeof(Slots))
    s.kind = kind
    s.step = step


cdef void records_reset() noexcept nogil:
    """Forget what this process owned: after attach, and in a forked worker."""
    reset(&_objects, KIND_OBJECTS, 1)
    reset(&_tasks, KIND_TASKS, 2)
    reset(&_segments, KIND_SEGMENT, PR_CHUNK_GRANULES)


cdef bint push(Slots *s, uint32_t slot) noexcept nogil:
    cdef uint32_t *grown
    if s.depth == s.capacity:
        grown = <uint32_t *>realloc(s.stack, (s.capacity * 2 + 1024) * sizeof(uint32_t))
        if grown == NULL:
            return False
        s.stack = grown
        s.capacity = s.capacity * 2 + 1024
    s.stack[s.depth] = slot
    s.depth += 1
    return True


cdef bint add_chunk(Slots *s, uint32_t chunk) noexcept nogil:
    cdef uint32_t *grown
    if s.n_chunks == s.cap_chunks:
        grown = <uint32_t *>realloc(s.chunks, (s.cap_chunks * 2 + 16) * sizeof(uint32_t))
        if grown == NULL:
            return False
        s.chunks = grown
        s.cap_chunks = s.cap_chunks * 2 + 16
    s.chunks[s.n_chunks] = chunk
    s.n_chunks += 1
    return True


cdef bint harvest_chunk(Ctx *c, Slots *s, uint32_t chunk) noexcept nogil:
    cdef pr_chunk *k = &c.chunks[chunk]
    cdef uint64_t bits
    cdef int w
    cdef bint any = False
    for w in range(8):
        if at_load_relaxed64(&k.free_bits[w]) == 0:
            continue
        bits = at_xchg64(&k.free_bits[w], 0)
        while bits:
            any = push(s, chunk * PR_CHUNK_GRANULES + w * 64 + PR_CTZ64(bits)) or any
            bits &= bits - 1
    return any


cdef bint harvest(Ctx *c, Slots *s, uint32_t limit) noexcept nogil:
    cdef uint32_t _
    for _ in range(min(limit, s.n_chunks)):
        if s.cursor >= s.n_chunks:
            s.cursor = 0
        s.cursor += 1
        if harvest_chunk(c, s, s.chunks[s.cursor - 1]):
            return True
    return False


cdef bint adopt_chunk(Ctx *c, Slots *s) noexcept nogil:
    """Take over a chunk that a dead process left, if it has room; or that one claimed, and died
    before it said what for."""
    cdef uint32_t i, kind, used = at_load32(&c.head.chunks_used)
    if used > c.head.n_chunks:
        used = <uint32_t>c.head.n_chunks
    for i in range(1, used):
        kind = at_load32(&c.chunks[i].kind)
        if at_load32(&c.chunks[i].owner) or (kind != s.kind and kind != KIND_NONE):
            continue
        if not at_cas32(&c.chunks[i].owner, 0, c.self + 1):
            continue
        PR_POINT(c, POINT_CHUNK_ADOPTED)
        # Since the look another may have taken it, and died too.
        kind = at_load32(&c.chunks[i].kind)
        if (kind != s.kind and kind != KIND_NONE) or not add_chunk(s, i):
            at_store32(&c.chunks[i].owner, 0)
            continue
        if kind == KIND_NONE:
            begin_chunk(c, s, i)
            return True
        if harvest_chunk(c, s, i):
            return True
    return False


cdef void begin_chunk(Ctx *c, Slots *s, uint32_t i) noexcept nogil:
    """Take records from a chunk that nobody has used: what was left of another is used up."""
    at_store32(&c.chunks[i].kind, s.kind)
    s.fresh = i * PR_CHUNK_GRANULES
    s.fresh_end = s.fresh + PR_CHUNK_GRANULES


cdef bint new_chunk(Ctx *c, Slots *s) noexcept nogil:
    cdef uint32_t i
    if at_load32(&c.head.chunks_used) >= c.head.n_chunks:
        return False
    while True:
        i = at_add32(&c.head.chunks_used, 1)
        if i >= c.head.n_chunks:
            at_add32(&c.head.chunks_used, <uint32_t>-1)
            return False
        PR_POINT(c, POINT_CHUNK_CLAIMED)
        # A number alone is no claim: whoever dies with it could not be told from one who is slow.
        if at_cas32(&c.chunks[i].owner, 0, c.self + 1):
            break
    if not add_chunk(s, i):
        at_store32(&c.chunks[i].owner, 0)
        return False
    begin_chunk(c, s, i)
    if s.n_chunks > FIRST_CHUNKS:
        pyray_make_pages(arena(), <size_t>(c.payload - c.records)
                         - <size_t>i * PR_CHUNK_BYTES, PR_CHUNK_BYTES)
    return True


cdef uint32_t take(Ctx *c, Slots *s) noexcept nogil:
    """A free slot, or 0 when the record region is full."""
    cdef uint32_t slot
    while True:
        if s.depth:
            s.depth -= 1
            return s.stack[s.depth]
        if s.fresh < s.fresh_end:
            slot = s.fresh
            s.fresh += s.step
            return slot
        if harvest(c, s, HARVEST_CHUNKS) or adopt_chunk(c, s) or new_chunk(c, s):
            continue
        if harvest(c, s, s.n_chunks):
            continue
        return 0


cdef void give(Ctx *c, Slots *s, uint32_t slot) noexcept nogil:
    cdef pr_chunk *k = &c.chunks[slot // PR_CHUNK_GRANULES]
    cdef uint32_t at = slot % PR_CHUNK_GRANULES
    if at_load_relaxed32(&k.owner) != c.self + 1 or not push(s, slot):
        at_or64(&k.free_bits[at // 64], <uint64_t>1 << (at % 64))


cdef uint64_t object_new(Ctx *c) noexcept nogil:
    """A record in state CREATED with no holder; its handle, or 0 when records are full."""
    cdef uint32_t slot
    cdef pr_object *o
    cdef uint32_t gen
    cdef int w
    cdef uint64_t s
    while True:
        slot = take(c, &_objects)
        if slot == 0:
            return 0
        o = object_at(c, slot)
        s = at_load64(&o.state)
        gen = gen_of(s) + 1 if gen_of(s) + 1 else 1
        # After a death a slot may be listed as free twice: taking it is a compare-and-swap.
        if (s & 0xFF) == OBJ_FREE and at_cas64(&o.state, s, (<uint64_t>gen << PR_GEN_SHIFT)
                                               | OBJ_EMPTY | PR_BY(c.self)):
            break
    PR_HOT_POINT(c, POINT_RECORD_TAKEN)
    # Atomic, for who has sealed or let go of the slot's last object may look at these once more.
    for w in range(4):
        at_store_relaxed64(&o.holders[w], 0)
    at_store_relaxed64(&o.dependents, 0)
    at_store_relaxed32(&o.waiter, 0)
    o.owner = <unsigned short>c.self
    o.liable = 0
    o.task = 0
    o.off = 0
    o.size = 0
    at_store_release64(&o.state, (<uint64_t>gen << PR_GEN_SHIFT) | OBJ_CREATED)
    return (<uint64_t>gen << 32) | slot


cdef void object_recycle(Ctx *c, uint64_t handle) noexcept nogil:
    """Free a record whose payload is gone; the caller has moved it on, so it is its own."""
    cdef pr_object *o = object_at(c, handle)
    at_store_release64(&o.state, (handle >> 32) << PR_GEN_SHIFT | PR_BY(c.self))
    PR_HOT_POINT(c, POINT_RECORD_FREED)
    give(c, &_objects, <uint32_t>handle)


cdef uint64_t task_new(Ctx *c) noexcept nogil:
    """A record in state NEW, this process's; its handle, or 0 when records are full."""
    cdef uint32_t slot
    cdef pr_task *t
    cdef uint32_t gen
    cdef uint64_t s
    while True:
        slot = take(c, &_tasks)
        if slot == 0:
            return 0
        t = task_at(c, slot)
        s = at_load64(&t.state)
        gen = gen_of(s) + 1 if gen_of(s) + 1 else 1
        # What whoever clears up after our death needs to know; the rest is the last task's still.
        if (s & 0xFF) == TASK_FREE:
            t.submitter = <unsigned short>c.self
            t.ext_size = 0
            at_store_relaxed64(&t.actor, 0)     # who settles a mailbox may look at it once more
            t.flags = 0
            t.stop = 0
            if at_cas64(&t.state, s, (<uint64_t>gen << PR_GEN_SHIFT) | TASK_NEW):
                break
    PR_HOT_POINT(c, POINT_TASK_TAKEN)
    return (<uint64_t>gen << 32) | slot


cdef void task_recycle(Ctx *c, uint64_t handle) noexcept nogil:
    cdef pr_task *t = task_at(c, handle)
    at_store_release64(&t.state, (handle >> 32) << PR_GEN_SHIFT | PR_BY(c.self))
    PR_HOT_POINT(c, POINT_RECORD_FREED)
    give(c, &_tasks, <uint32_t>handle)


cdef void task_recycle_from(Ctx *c, uint64_t handle, uint64_t s) noexcept nogil:
    """Give a record back if its state is still `s`: of those who find it done one does, and has its
    name there from then on, should it die before the record is listed."""
    if at_cas64(&task_at(c, handle).state, s, (s & PR_GEN_MASK) | TASK_FREE | PR_BY(c.self)):
        task_recycle(c, handle)


cdef void relist(Ctx *c, uint64_t slot) noexcept nogil:
    """List a free record whose freer may have died before it did: twice does no harm."""
    at_or64(&c.chunks[slot // PR_CHUNK_GRANULES].free_bits[slot % PR_CHUNK_GRANULES // 64],
            <uint64_t>1 << (slot % 64))


cdef void records_settle(Ctx *c) noexcept nogil:
    """List the free records that this process has for itself: for an audit."""
    unstack(c, &_objects)
    unstack(c, &_tasks)
    unstack(c, &_segments)


cdef void unstack(Ctx *c, Slots *s) noexcept nogil:
    while s.depth:
        s.depth -= 1
        relist(c, s.stack[s.depth])


cdef uint32_t segment_new(Ctx *c) noexcept nogil:
    return take(c, &_segments)


cdef void segment_recycle(uint32_t slot) noexcept nogil:
    push(&_segments, slot)


cdef bint hopeless(Ctx *c, pr_task *t) noexcept nogil:
    """A call of this process's own, as an actor, or of an actor that is about to end too: whoever
    ends does not wait for it."""
    cdef pr_actor *a
    if not t.actor or t.flags & TASK_F_CREATES:
        return False
    a = actor_at(c, t.actor)
    return (gen_of(at_load64(&a.state)) != gen_in(t.actor) or at_load32(&a.proc) == c.self
            or at_load32(&a.leaving) != LEAVE_NO or (at_load64(&a.state) & 0xFF) >= ACTOR_DEAD)


cdef uint64_t count_unstarted(Ctx *c, bint calls) noexcept nogil:
    """Tasks that this process submitted and that nobody has claimed yet.  With `calls`, those of
    actors too, where that makes sense, and tasks that wait for arguments."""
    cdef uint64_t n = 0
    cdef uint32_t k, i
    cdef uint64_t status
    cdef pr_task *t
    for k in range(_tasks.n_chunks):
        for i in range(0, PR_CHUNK_GRANULES, 2):
            t = task_at(c, <uint64_t>_tasks.chunks[k] * PR_CHUNK_GRANULES + i)
            status = at_load64(&t.state) & 0xFF
            if ((status == TASK_WAITING or status == TASK_READY or status == TASK_NODE)
                    and t.submitter == c.self
                    and (calls or (not t.actor and status != TASK_WAITING))
                    and not hopeless(c, t)):
                n += 1
    return n


def live_records():
    """How many records of (objects, tasks) are in use in the session, actors' refs included."""
    cdef Ctx *c = get_ctx()
    cdef uint64_t objects = 0, tasks = 0, slot = 0
    while next_record(c, KIND_OBJECTS, &slot):
        objects += (object_at(c, slot).state & 0xFF) != OBJ_FREE
    slot = 0
    while next_record(c, KIND_TASKS, &slot):
        tasks += (task_at(c, slot).state & 0xFF) != TASK_FREE
    return objects, tasks
