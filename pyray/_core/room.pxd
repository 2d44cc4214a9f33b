from libc.stdint cimport uint64_t

cdef uint64_t new_record() except 0
cdef void discard_record(uint64_t handle) noexcept nogil
# `zero`: filled with zeros.
cdef uint64_t alloc(uint64_t size, bint zero=*) except? 0xFFFFFFFFFFFFFFFF
