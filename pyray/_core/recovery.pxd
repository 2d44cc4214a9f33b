from libc.stdint cimport uint64_t

cdef int fail_task(uint64_t handle, object error) except -1
cdef int end_failed(uint64_t handle, uint64_t status, object error) except -1
