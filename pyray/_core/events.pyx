"""How tasks ended: each process keeps the last ends that it has seen in a ring of its own.

Whoever ends an attempt at a task writes one line, before the task's record goes back; readers are
those who ask, in whatever process, and nobody waits for them.  A line holds numbers only: names are
looked up by who reads.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from pyray._core.ids cimport task_digest
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.points cimport *
from pyray._core.objects cimport alive, returns_of
from pyray._core.shm cimport Ctx, get_ctx, object_at

cdef extern from *:
    """
    /* Order of plain stores and loads; nothing but a word to the compiler on x86-64. */
    static inline void stores_before_stores(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    static inline void loads_before_loads(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    """
    void stores_before_stores() nogil
    void loads_before_loads() nogil

cdef Ctx *C = get_ctx()

FAILED = EVENT_FAILED
DIED = EVENT_DIED
CANCELLED = EVENT_CANCELLED
CREATES = EVENT_CREATES
NEVER = EVENT_NEVER


cdef void note(pr_task *t, int attempt, uint64_t start, uint32_t flags) noexcept nogil:
    """This process has ended an attempt at a task."""
    note_for(C.self, t, attempt, start, flags)


cdef void note_for(uint32_t p, pr_task *t, int attempt, uint64_t start,
                   uint32_t flags) noexcept nogil:
    """Process `p` has, or nobody (`p` 0); it stands in the calling process's ring."""
    cdef pr_events *ring = &C.events[C.self]
    cdef uint64_t n = ring.written
    cdef pr_event *e = &ring.event[n & (PR_EVENTS - 1)]
    if t.flags & TASK_F_CREATES:
        flags |= EVENT_CREATES
    # A reader that sees any of what follows also sees `written` as it is now.
    stores_before_stores()
    e.start_ns = start
    e.end_ns = <uint64_t>now_ns()
    e.counter = t.counter
    e.actor = t.actor
    e.func = t.func
    PR_HOT_POINT(C, POINT_EVENT_HALF_WRITTEN)
    e.pid = <uint32_t>C.procs[p].pid if p else 0
    e.attempt = <unsigned short>attempt
    e.flags = <uint8_t>flags
    e.proc = <uint8_t>p
    memcpy(e.parent_id, t.parent_id, 20)
    at_store_release64(&ring.written, n + 1)


cdef uint32_t outcome_of(pr_task *t) noexcept nogil:
    """How a task ended whose returns are sealed and whose process could not say."""
    cdef uint64_t *rets = returns_of(C, t)
    cdef int i
    for i in range(t.nreturns):
        if alive(C, rets[i]) and at_load64(&object_at(C, rets[i]).state) & OBJ_ERROR:
            return EVENT_FAILED
    return 0


def processes():
    """Number of process slots that were ever used."""
    check_session()
    return at_load32(&C.head.procs_high)


def read(uint32_t p, bint retries=False):
    """The events of a process slot, oldest first: (task's id, its parent's, attempt, start and end
    in ns of the monotonic clock, actor's handle, number of the function, pid, slot, flags).  With
    `retries` only those of attempts after the first."""
    check_session()
    C.inflight += 1     # what is made here may run destructors, and they other threads
    try:
        return read_ring(&C.events[p], retries)
    finally:
        C.inflight -= 1


cdef list read_ring(pr_events *ring, bint retries):
    cdef uint64_t last = at_load64(&ring.written)
    cdef uint64_t at = last - (PR_EVENTS - 1) if last >= PR_EVENTS else 0
    cdef pr_event e
    cdef uint8_t out[20]
    cdef list found = []
    while at < last:
        e = ring.event[at & (PR_EVENTS - 1)]
        loads_before_loads()
        if at_load64(&ring.written) < at + PR_EVENTS and (e.attempt or not retries):
            task_digest(e.parent_id, e.counter, out)
            found.append((
                (<const char *>out)[:20], (<const char *>e.parent_id)[:20], e.attempt, e.start_ns,
                e.end_ns, e.actor, e.func, e.pid, e.proc, e.flags))
        at += 1
    return found
