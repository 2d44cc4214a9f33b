"""Mailboxes: how calls get from a process to an actor.

There is one per actor and calling process, with one writer and one reader, so an actor runs each
caller's calls in the order in which they were made, and a stopped or dead caller holds up nobody.
The caller numbers its calls for ever upward and writes their handles into segments that are linked;
the actor keeps the number up to which all are done.  An entry is only a hint, as in the lanes: the
task's generation, its `actor` and the compare-and-swap from READY to CLAIMED decide.  So nothing
is to be mended after a death: an actor that is made again begins where `head` stands and skips what
is done, and what a dead caller left has failed and is skipped too.

Who pushes sets the caller's bit in `waiting` after the tail; the actor clears it and then looks
again, so no call is overlooked between the two.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pyray._core.dispatch cimport alone_on_cpu, wake_process
from pyray._core.layout cimport *
from pyray._core.points cimport *
from pyray._core.records cimport gen_in, gen_of, plausible, segment_new, segment_recycle
from pyray._core.shm cimport Ctx, actor_at, mailbox_at, task_at

cdef extern from *:
    int PR_CTZL "__builtin_ctzll"(uint64_t x) nogil

cdef enum:
    SPIN_NS = 50000         # how long an actor looks for the next call before it parks
    STRAGGLERS = 1024       # calls that may be entered anew so that a segment can be used again


cdef inline uint64_t *segment(Ctx *c, uint32_t slot) noexcept nogil:
    return <uint64_t *>(c.records + <uint64_t>slot * PR_GRANULE)


cdef inline void reuse(Ctx *c, uint32_t slot) noexcept nogil:
    """Begin to write to a segment.  Not before others can see that it is no more what it was: see
    entry_at.  (A plain store may come before the last one to `first` on ARM.)"""
    at_store_release64(segment(c, slot), 0)


cdef bint actor_is(Ctx *c, uint64_t actor) noexcept nogil:
    """Whether the entry is still this actor's."""
    return gen_of(at_load64(&actor_at(c, actor).state)) == gen_in(actor)


cdef uint32_t actor_status(Ctx *c, uint64_t actor) noexcept nogil:
    cdef uint64_t s = at_load64(&actor_at(c, actor).state)
    if gen_of(s) != gen_in(actor):
        return ACTOR_SETTLED
    return s & 0xFF


# ---- the caller's end ----------------------------------------------------------------------

cdef bint box_room(Ctx *c, pr_mailbox *row, uint64_t actor, Segments *own) noexcept nogil:
    """Make sure that the next call can be entered.  False when records are full."""
    cdef uint64_t k = row.tail // PR_CALLS
    cdef uint32_t slot
    cdef pr_actor *a = actor_at(c, actor)
    if own.count == 0:
        # The first call of this process.  What stands here may be of another actor's, or of a
        # process that had this number before and is dead: number on from a segment of our own.
        slot = segment_new(c)
        if slot == 0:
            return False
        k += 1
        reuse(c, slot)
        own.oldest = k
        own.count = 1
        own.slot[k % MAX_SEGMENTS] = slot
        at_store64(&row.first, (k << 32) | slot)
        at_store64(&row.tail, k * PR_CALLS)
        at_store64(&row.actor, actor)
        PR_POINT(c, POINT_MAILBOX_OPENED)
        at_or64(&a.callers[c.self // 64], <uint64_t>1 << (c.self % 64))
        return True
    if row.tail % PR_CALLS or k < own.oldest + own.count:
        return True
    while own.count > 1 and (own.oldest + 1) * PR_CALLS <= at_load64(&row.head):
        slot = own.slot[own.oldest % MAX_SEGMENTS]
        own.oldest += 1
        own.count -= 1
        at_store64(&row.first, (own.oldest << 32) | own.slot[own.oldest % MAX_SEGMENTS])
        segment_recycle(slot)
    if own.count == MAX_SEGMENTS:
        return False
    slot = segment_new(c)
    if slot == 0:
        return False
    reuse(c, slot)
    at_store64(&segment(c, own.slot[(k - 1) % MAX_SEGMENTS])[0], slot)
    own.slot[k % MAX_SEGMENTS] = slot
    own.count += 1
    if own.count > 3 and unfinished(c, actor, own, own.oldest + 1, NULL) == 0:
        move_stragglers(c, row, actor, own)
    return True


cdef uint32_t unfinished(Ctx *c, uint64_t actor, Segments *own, uint64_t index,
                         uint64_t *calls) noexcept nogil:
    """How many calls of a full segment are not done, up to STRAGGLERS + 1; and which."""
    cdef uint64_t *entries = segment(c, own.slot[index % MAX_SEGMENTS]) + 1
    cdef uint64_t s
    cdef uint32_t i, n = 0
    for i in range(PR_CALLS):
        if not plausible(c, entries[i]):
            continue
        s = at_load64(&task_at(c, entries[i]).state)
        if (gen_of(s) != gen_in(entries[i])
                or at_load_relaxed64(&task_at(c, entries[i]).actor) != actor
                or (s & 0xFF) == TASK_DONE or (s & 0xFF) == TASK_FREE):
            continue
        n += 1
        if n > STRAGGLERS:
            return n
        if calls != NULL:
            calls[n - 1] = entries[i]
    return n


cdef void move_stragglers(Ctx *c, pr_mailbox *row, uint64_t actor, Segments *own) noexcept nogil:
    """The oldest segment is there only for a few calls that take long, with all of the next done:
    so the actor runs several at once.  Enter them anew, and use the segment again.

    What runs for ever would otherwise have the mailbox grow until it is full.
    """
    cdef uint64_t calls[STRAGGLERS]
    cdef uint64_t at = row.tail
    cdef uint32_t i, slot, n = unfinished(c, actor, own, own.oldest, calls)
    if n > STRAGGLERS:
        return
    for i in range(n):
        at_store_release64(segment(c, own.slot[(at // PR_CALLS) % MAX_SEGMENTS]) + 1
                           + at % PR_CALLS, calls[i])
        at += 1
    at_store64(&row.tail, at)
    slot = own.slot[own.oldest % MAX_SEGMENTS]
    own.oldest += 1
    own.count -= 1
    at_store64(&row.first, (own.oldest << 32) | own.slot[own.oldest % MAX_SEGMENTS])
    segment_recycle(slot)


cdef bint box_push(Ctx *c, pr_mailbox *row, uint64_t actor, Segments *own,
                   uint64_t call) noexcept nogil:
    """Enter a call that is READY or WAITING.  False when there is no room for it."""
    cdef uint64_t bit = <uint64_t>1 << (c.self % 64)
    cdef pr_actor *a = actor_at(c, actor)
    cdef uint64_t at
    cdef uint32_t slot
    if (own.count == 0 or row.tail % PR_CALLS == 0) and not box_room(c, row, actor, own):
        return False
    at = row.tail
    slot = own.slot[(at // PR_CALLS) % MAX_SEGMENTS]
    at_store_release64(segment(c, slot) + 1 + at % PR_CALLS, call)
    at_store64(&row.tail, at + 1)
    PR_POINT(c, POINT_CALL_ENTERED)
    own.last = call
    if not at_load64(&a.waiting[c.self // 64]) & bit:
        at_or64(&a.waiting[c.self // 64], bit)
    wake_actor(c, actor)
    return True


cdef void box_release(Segments *own) noexcept nogil:
    """The actor is dead and settled: nobody reads the segments any more."""
    while own.count:
        segment_recycle(own.slot[own.oldest % MAX_SEGMENTS])
        own.oldest += 1
        own.count -= 1


cdef void close_boxes(Ctx *c, uint32_t p) noexcept nogil:
    """Process p is dead, its calls that have not begun are to fail, and its segments will be used
    by others: nobody is to look for calls there, until the next process of that number."""
    cdef uint32_t i
    cdef uint64_t bit = <uint64_t>1 << (p % 64)
    cdef pr_mailbox *row
    for i in range(c.head.actors_high):
        if at_load64(&c.actors[i].callers[p // 64]) & bit:
            row = mailbox_at(c, i, p)
            at_store64(&row.first, (at_load64(&row.tail) // PR_CALLS + 1) << 32)
            at_store64(&row.actor, 0)
            at_and64(&c.actors[i].callers[p // 64], ~bit)


cdef void wake_actor(Ctx *c, uint64_t actor) noexcept nogil:
    """Have an actor that sleeps look at its mailboxes."""
    cdef uint32_t p = at_load32(&actor_at(c, actor).proc)
    if p and at_load32(&c.procs[p].parked):
        wake_process(c, p)


# ---- the actor's end -----------------------------------------------------------------------

cdef void reader_open(Reader *r, uint64_t actor, bint in_order) noexcept nogil:
    memset(r, 0, sizeof(Reader))
    r.actor = actor
    r.in_order = in_order


cdef uint64_t entry_at(Ctx *c, pr_mailbox *row, Cursor *u, uint64_t at) noexcept nogil:
    """The entry with a number; 0 if there is none to be found (it is done, or its caller is dead).

    The caller may let go of a segment, and use it for something else, while we are in it.  It says
    so in `first` before, so what we read counts if that has not moved meanwhile.
    """
    cdef uint64_t k = at // PR_CALLS, first, entry
    while True:
        first = at_load64(&row.first)
        if first >> 32 > k:
            u.slot = 0
            return 0
        if u.slot == 0 or u.index > k or u.index < first >> 32:
            u.index = first >> 32
            u.slot = <uint32_t>first
        while u.index < k and plausible(c, u.slot):
            u.slot = <uint32_t>at_load64(segment(c, u.slot))
            u.index += 1
        entry = 0
        if plausible(c, u.slot):
            entry = at_load64(segment(c, u.slot) + 1 + at % PR_CALLS)
        else:
            u.slot = 0
        if at_load64(&row.first) == first:
            return entry
        u.slot = 0


cdef uint64_t take(Ctx *c, Reader *r, uint32_t p) noexcept nogil:
    """Claim the next call from process p: its handle, NONE or HELD_UP.

    In order, the first call whose arguments are not there yet holds up those behind it.  Out of
    order they are looked for behind it, and `head` stays before it.
    """
    cdef pr_mailbox *row = mailbox_at(c, r.actor, p)
    cdef Cursor *u = &r.cursor[p]
    cdef uint64_t tail, start, call, s, at
    cdef pr_task *t
    cdef bint waits = False
    if at_load64(&row.actor) != r.actor:
        return NONE
    tail = at_load64(&row.tail)
    start = (at_load64(&row.first) >> 32) * PR_CALLS
    if u.next < start:
        u.next = start      # a new process with this number
    if u.next == 0 or u.next < at_load64(&row.head):
        u.next = at_load64(&row.head)       # what an earlier process of this actor has done
        if u.next < start:
            u.next = start
    at = u.next
    while at < tail:
        call = entry_at(c, row, u, at)
        if plausible(c, call):
            t = task_at(c, call)
            s = at_load64(&t.state)
            if gen_of(s) == gen_in(call) and at_load_relaxed64(&t.actor) == r.actor:
                if (s & 0xFF) == TASK_READY:
                    at_store64(&c.me.current, call)
                    if at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED
                                | (<uint64_t>c.self << 48)):
                        PR_POINT(c, POINT_CLAIMED)
                        if not waits:
                            u.next = at + 1
                        return call
                    at_store64(&c.me.current, 0)
                    continue        # changed under us: look again
                if (s & 0xFF) == TASK_WAITING:
                    if r.in_order:
                        return HELD_UP
                    waits = True
        at += 1
        if not waits:
            u.next = at
    return HELD_UP if waits else NONE


cdef uint64_t look(Ctx *c, Reader *r, bint last) noexcept nogil:
    """Claim a call from whichever caller's turn it is; 0 when there is none.

    The bits of callers whose mailboxes are empty are cleared by the `last` look before parking.
    Before, they are left if they are few: clearing one means that the next call of a caller that
    is about as fast as we are sets it again, and each takes the cache line from the other.
    """
    cdef uint32_t i, w, p
    cdef uint64_t bits, call, bit
    cdef pr_actor *a = actor_at(c, r.actor)
    for i in range(5):
        w = (r.turn // 64 + i) % 4
        bits = at_load64(&a.waiting[w]) | r.held_up[w]
        if i == 0:
            bits &= ~<uint64_t>0 << (r.turn % 64)
        elif i == 4:
            bits &= (<uint64_t>1 << (r.turn % 64)) - 1
        while bits:
            p = w * 64 + PR_CTZL(bits)
            bit = <uint64_t>1 << (p % 64)
            bits &= bits - 1
            call = take(c, r, p)
            if call == NONE and not last and bits & (bits - 1) == 0:
                continue
            if call == NONE or call == HELD_UP:
                at_and64(&a.waiting[w], ~bit)
                call = take(c, r, p)
                if call == NONE:
                    r.held_up[w] &= ~bit
                    continue
                # From now on we look here each time, whatever `waiting` says.
                r.held_up[w] |= bit
                if call == HELD_UP:
                    continue
            r.turn = (p + 1) % 256
            r.last = p
            return call
    return 0


cdef void settle(Ctx *c, Reader *r, uint32_t p) noexcept nogil:
    """Say how far this caller's calls are done."""
    cdef pr_mailbox *row = mailbox_at(c, r.actor, p)
    cdef Cursor *u = &r.cursor[p]
    cdef uint64_t at = at_load64(&row.head)
    cdef uint64_t start = (at_load64(&row.first) >> 32) * PR_CALLS
    cdef uint64_t call, s
    cdef Cursor scan
    if r.sequential and r.in_order:
        if at < u.next:
            at_store64(&row.head, u.next)
        return
    if at_load64(&row.actor) != r.actor:
        return
    if at < start:
        at = start
    scan.slot = 0
    scan.index = 0
    scan.next = 0
    while at < u.next:
        call = entry_at(c, row, &scan, at)
        if plausible(c, call):
            s = at_load64(&task_at(c, call).state)
            if (gen_of(s) == gen_in(call)
                    and at_load_relaxed64(&task_at(c, call).actor) == r.actor
                    and (s & 0xFF) != TASK_DONE and (s & 0xFF) != TASK_FREE):
                break
        at += 1
    if at > at_load64(&row.head):
        at_store64(&row.head, at)


cdef void settle_all(Ctx *c, Reader *r) noexcept nogil:
    cdef uint32_t p
    cdef pr_actor *a = actor_at(c, r.actor)
    for p in range(at_load32(&c.head.procs_high)):
        if at_load64(&a.callers[p // 64]) & (<uint64_t>1 << (p % 64)) and r.cursor[p].next:
            settle(c, r, p)


cdef bint nothing_left(Ctx *c, Reader *r) noexcept nogil:
    """No call is to come: for an actor that nobody holds."""
    cdef int w
    cdef pr_actor *a = actor_at(c, r.actor)
    for w in range(4):
        if at_load64(&a.waiting[w]) or r.held_up[w]:
            return False
    return True


cdef uint64_t spin(Ctx *c, Reader *r) noexcept nogil:
    """Look for a call for as long as is spent before parking; 0 when there was none."""
    cdef int64_t end = now_ns() + SPIN_NS
    cdef uint64_t call
    cdef int _
    while True:
        if alone_on_cpu(c):
            for _ in range(16):
                cpu_pause()
        else:
            # Not parking: whoever calls next, on this very CPU, would have to wake us, and the
            # kernel would interrupt it for us after each few calls.
            cpu_yield()
        call = look(c, r, False)
        if call or now_ns() >= end:
            return call


cdef uint64_t next_call(Ctx *c, Reader *r, int64_t timeout_ns) noexcept nogil:
    """The actor's wait for a call.

    Returns a claimed call, or 0 at the timeout, the end of the session, when it is released and
    has run everything, when it is told something, or when somebody needs room.
    """
    cdef pr_actor *a = actor_at(c, r.actor)
    cdef int64_t end
    cdef uint64_t call = look(c, r, False)
    cdef uint32_t seen
    if call:
        return call
    end = now_ns() + timeout_ns
    call = spin(c, r)
    if call:
        return call
    while True:
        seen = at_load32(&c.me.wake)
        at_store32(&c.me.parked, 1)
        # After the announcement: who pushes before it is seen here, who pushes after it wakes us.
        call = look(c, r, True)
        if (call or at_load32(&c.dispatch.stopping) or at_load32(&c.dispatch.sweep) != c.swept
                or (at_load32(&a.released) and nothing_left(c, r)) or now_ns() >= end):
            at_store32(&c.me.parked, 0)
            return call
        at_store_relaxed32(&c.me.parked_on, cpu_here())
        at_store_relaxed32(&c.me.cpu, 0)
        futex_wait(&c.me.wake, seen, end - now_ns())
        at_store_relaxed32(&c.me.cpu, cpu_here())
        at_store32(&c.me.parked, 0)
