from libc.stdint cimport int64_t, uint32_t, uint64_t

# Room for a block where there is none: by spilling others, or in the spill file itself.
cdef uint64_t room_for(uint64_t size, int *error) except? 0xFFFFFFFFFFFFFFFF
# Spill until the machine has so many more bytes of memory, as far as there is something to spill.
cdef int64_t relieve(uint64_t nbytes, int *error) except -1
cdef str why_not(int error)

cdef void spilling_reset() noexcept nogil
# For whoever clears up after a dead process: first of all.
cdef void settle_spiller(uint32_t p) noexcept nogil
cdef bint left_by_spiller(uint32_t p, uint64_t *first, uint64_t *n) noexcept nogil
