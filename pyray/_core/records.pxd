from libc.stdint cimport uint32_t, uint64_t
from pyray._core.layout cimport (
    PR_GEN_MASK, PR_GEN_SHIFT, PR_STOP, PR_STOP_GEN, at_load16, pr_task,
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
