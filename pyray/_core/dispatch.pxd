from libc.stdint cimport int64_t, uint32_t, uint64_t
from pyray._core.layout cimport pr_proc
from pyray._core.shm cimport Ctx

cdef void ring_node(Ctx *c) noexcept nogil
cdef void set_alarm(int fd)
cdef void be_watched(Ctx *c) noexcept nogil
cdef void expect_here(pr_proc *p) noexcept nogil
cdef void wake_process(Ctx *c, uint32_t proc) noexcept nogil
cdef void announce(Ctx *c) noexcept nogil
cdef void rescue(Ctx *c) noexcept nogil
cdef bint token_take(Ctx *c) noexcept nogil
cdef void token_release(Ctx *c) noexcept nogil
cdef bint token_wanted(Ctx *c) noexcept nogil
cdef bint token_resume(Ctx *c, int64_t timeout_ns) noexcept nogil
cdef uint32_t tokens_for_node(Ctx *c, uint32_t n) noexcept nogil
cdef uint32_t tokens_from_node(Ctx *c, uint32_t n) noexcept nogil
cdef bint alone_on_cpu(Ctx *c) noexcept nogil
cdef void about_to_search(Ctx *c) noexcept nogil
cdef void stop_searching(Ctx *c) noexcept nogil
cdef int pop_idle(Ctx *c) noexcept nogil
cdef uint64_t next_task(Ctx *c, uint64_t *assigned, int64_t timeout_ns) noexcept nogil
