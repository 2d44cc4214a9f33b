from libc.stdint cimport uint32_t, uint64_t
from pyray._core.layout cimport pr_task

cdef void note(pr_task *t, int attempt, uint64_t start, uint32_t flags) noexcept nogil
cdef void note_for(uint32_t p, pr_task *t, int attempt, uint64_t start,
                   uint32_t flags) noexcept nogil
cdef uint32_t outcome_of(pr_task *t) noexcept nogil
