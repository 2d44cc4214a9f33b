from libc.stdint cimport uint32_t, uint64_t
from pyray._core.shm cimport Ctx

cdef uint64_t HEAP_FULL
cdef uint64_t heap_alloc(Ctx *c, uint64_t size) noexcept nogil
cdef uint64_t heap_begin_free(Ctx *c, uint64_t off, uint64_t size) noexcept nogil
cdef void heap_free_again(Ctx *c, uint64_t off, uint64_t size, uint64_t seen) noexcept nogil
cdef bint heap_is_small(uint64_t size) noexcept nogil
cdef void heap_settle(Ctx *c) noexcept nogil
cdef uint64_t heap_used(Ctx *c) noexcept nogil
cdef void heap_free(Ctx *c, uint64_t off, uint64_t size) noexcept nogil
cdef uint64_t heap_untouched(Ctx *c, uint64_t off, uint64_t size) noexcept nogil
# Fills a block with zeros before it is touched; pages that nobody has written are zero already.
cdef void heap_zero(Ctx *c, uint64_t off, uint64_t size) noexcept nogil
cdef void heap_touch(Ctx *c, uint64_t off, uint64_t size) noexcept nogil
cdef void heap_reset(Ctx *c) noexcept nogil
cdef uint64_t heap_footprint(uint64_t size) noexcept nogil
cdef bint heap_trim(Ctx *c) noexcept nogil
cdef void heap_untouch(Ctx *c, uint64_t off, uint64_t size) noexcept nogil
# Claims these very units of the arena, if they are free.
cdef uint64_t claim_units(Ctx *c, uint64_t first, uint64_t n) noexcept nogil
# heap_alloc in the spill file; `error` is an errno, ENODEV where the file's own limit is reached.
cdef uint64_t heap_alloc_on_disk(Ctx *c, uint64_t size, int *error) noexcept nogil
cdef uint64_t units_high(Ctx *c) noexcept nogil
cdef void return_unit(Ctx *c, uint64_t u) noexcept nogil
cdef uint64_t disk_used(Ctx *c) noexcept nogil
