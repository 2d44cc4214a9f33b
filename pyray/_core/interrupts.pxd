from libc.stdint cimport uint32_t, uint64_t

cdef void begin_users_code() noexcept nogil
cdef void users_code(bint runs) noexcept nogil
cdef uint64_t request(uint64_t task, uint32_t stop) noexcept nogil
cdef int stop_if_asked(uint64_t task) except -1
cdef int refuse_cancelled(uint64_t task) except -1
cdef bint cancelled_by(uint64_t task, object error)
cdef tuple cancelled_value(uint64_t task, object name, str how)
cdef tuple cancelled_while(uint64_t task, object name, object error)
cdef int children_too(uint64_t task, uint64_t submitted) except -1
