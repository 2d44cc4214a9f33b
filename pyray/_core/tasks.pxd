from libc.stdint cimport uint64_t

cdef int store_error_at(uint64_t task, object error) except -1
cdef void finish(uint64_t handle) noexcept nogil
cdef bytes current_base()
