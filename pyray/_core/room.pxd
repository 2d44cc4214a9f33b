from libc.stdint cimport uint64_t
from pyray._core.records cimport object_new
from pyray._core.shm cimport Ctx

cdef uint64_t record_in_full_store() except 0

# In here, so that each put and each task's submission is a call shorter.
cdef inline uint64_t new_record(Ctx *ctx) except 0:
    cdef uint64_t handle = object_new(ctx)
    return handle if handle else record_in_full_store()

cdef void discard_record(uint64_t handle) noexcept nogil
# `zero`: filled with zeros.
cdef uint64_t alloc(uint64_t size, bint zero=*) except? 0xFFFFFFFFFFFFFFFF
