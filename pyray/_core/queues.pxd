from libc.stdint cimport uint32_t, uint64_t
from pyray._core.shm cimport Ctx

cdef bint queue_push(Ctx *c, uint64_t task, uint32_t depth) noexcept nogil
cdef bint node_queue_push(Ctx *c, uint64_t task) noexcept nogil
cdef uint64_t node_queue_pop(Ctx *c, uint32_t proc) noexcept nogil
cdef uint64_t queue_claim(Ctx *c) noexcept nogil
cdef bint queue_visible(Ctx *c) noexcept nogil
cdef bint queue_more(Ctx *c) noexcept nogil
cdef bint queue_visible_slow(Ctx *c) noexcept nogil
cdef bint claim_task(Ctx *c, uint64_t task) noexcept nogil
cdef void requeue_lanes(Ctx *c, uint32_t proc) noexcept nogil
cdef void queues_reset(Ctx *c) noexcept nogil
cdef uint32_t queue_segments(Ctx *c) noexcept nogil
cdef uint64_t queue_length(Ctx *c, uint32_t proc) noexcept nogil
