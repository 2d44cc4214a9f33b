from libc.stdint cimport uint64_t

cdef int fail_task(uint64_t handle, object error) except -1
