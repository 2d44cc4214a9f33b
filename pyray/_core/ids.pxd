from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef void task_digest(const uint8_t *parent, uint64_t counter, uint8_t *out) noexcept nogil
cdef void object_digest(const uint8_t *parent, uint64_t counter, uint32_t index,
                        uint8_t *out) noexcept nogil
