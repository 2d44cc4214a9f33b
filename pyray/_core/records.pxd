from libc.stdint cimport uint32_t, uint64_t
from pyray._core.layout cimport (
    KIND_OBJECTS, PR_CHUNK_GRANULES, PR_GEN_MASK, PR_GEN_SHIFT, PR_STOP, PR_STOP_GEN, at_load16,
    at_load32, pr_task,
)
from pyray._core.shm cimport Ctx

cdef uint64_t object_new(Ctx *c) noexcept nogil
cdef void object_recycle(Ctx *c, uint64_t handle) noexcept nogil
cdef uint64_t task_new(Ctx *c) noexcept nogil
cdef void task_recycle(Ctx *c, uint64_t handle) noexcept nogil
cdef void task_recycle_from(Ctx *c, uint64_t handle, uint64_t s) noexcept nogil
cdef bint hopeless(Ctx *c, pr_task *t) noexcept nogil
cdef uint64_t count_unstarted(Ctx *c, bint calls) noexcept nogil
cdef uint32_t segment_new(Ctx *c) noexcept nogil
cdef void segment_recycle(uint32_t slot) noexcept nogil
cdef void relist(Ctx *c, uint64_t slot) noexcept nogil
cdef void records_settle(Ctx *c) noexcept nogil
cdef void records_reset() noexcept nogil

cdef inline uint32_t gen_of(uint64_t state) noexcept nogil:
    return <uint32_t>((state & PR_GEN_MASK) >> PR_GEN_SHIFT)

cdef inline uint64_t handle_of(uint64_t slot, uint64_t state) noexcept nogil:
    return (<uint64_t>gen_of(state) << 32) | slot

cdef inline uint32_t used_chunks(Ctx *c) noexcept nogil:
    cdef uint32_t n = at_load32(&c.head.chunks_used)
    return n if n < c.head.n_chunks else <uint32_t>c.head.n_chunks

cdef inline bint next_record(Ctx *c, uint32_t kind, uint64_t *slot) noexcept nogil:
    """Move on, from 0 to the first and then to the next record of a kind, whatever its state; False
    after the last."""
    cdef uint64_t at = PR_CHUNK_GRANULES, end = <uint64_t>used_chunks(c) * PR_CHUNK_GRANULES
    if slot[0]:
        at = slot[0] + (1 if kind == KIND_OBJECTS else 2)
    while at < end:
        if at % PR_CHUNK_GRANULES or at_load32(&c.chunks[at // PR_CHUNK_GRANULES].kind) == kind:
            slot[0] = at
            return True
        at += PR_CHUNK_GRANULES
    return False

cdef inline int attempt_of(uint64_t state) noexcept nogil:
    """How often a task has been run again."""
    return <int>(((state >> 8) & 0xFF) | ((state >> 56) << 8))

cdef inline uint64_t attempt_bits(int attempt) noexcept nogil:
    cdef uint64_t n = attempt if attempt < 0xFFFF else 0xFFFF
    return ((n & 0xFF) << 8) | ((n >> 8) << 56)

cdef inline uint32_t gen_in(uint64_t handle) noexcept nogil:
    return <uint32_t>(handle >> 32)

cdef inline uint32_t stop_of(pr_task *t, uint64_t handle) noexcept nogil:
    """What the node has written to have this task stop; 0: nothing."""
    cdef uint32_t v = at_load16(&t.stop)
    return v if v & PR_STOP and not (v ^ gen_in(handle)) & PR_STOP_GEN else 0

cdef inline uint32_t shape_of(pr_task *t) noexcept nogil:
    """Number of a task's shape; of an actor's call 0."""
    return t.shape | <uint32_t>t.group << 16 if t.shape else 0

cdef inline bint plausible(Ctx *c, uint64_t handle) noexcept nogil:
    """Whether a number read from a hint can be a record's handle at all."""
    cdef uint64_t slot = <uint32_t>handle
    return 512 <= slot < c.head.n_chunks * 512
