from libc.stdint cimport uint32_t, uint64_t
from pyray._core.layout cimport PR_MOVING, PR_PLACE, at_cas64, at_load64, pr_object

cdef enum:
    NOT_PINNED = 0      # no unit's number + 1

cdef inline uint64_t place_of(pr_object *o) noexcept nogil:
    """Where an object's payload lies at this moment. (Not of a cell: its `off` is no place.)"""
    return at_load64(&o.off) & PR_PLACE

cdef inline uint64_t settle_place(pr_object *o) noexcept nogil:
    """The same, and whoever is about to move it has lost."""
    cdef uint64_t off
    while True:
        off = at_load64(&o.off)
        if not off & PR_MOVING:
            return off
        at_cas64(&o.off, off, off & PR_PLACE)

# Have a sealed object, or a shared array, stay where it is, and say where that is; `unit` is for
# unpin. Both are called with the GIL held.
cdef uint64_t pin_place(pr_object *o, uint64_t *unit) noexcept nogil
cdef void unpin(uint64_t unit) noexcept nogil
# Say whose block this is, before the object is sealed or open.
cdef void note_block(uint64_t handle, uint64_t off, uint64_t size) noexcept nogil
cdef int pins_reset() except -1
cdef uint32_t pins_epoch() noexcept nogil
cdef bint pinned(uint64_t u) noexcept nogil
# For whoever clears up after a dead process.
cdef void drop_last_pin(uint32_t p) noexcept nogil
cdef void drop_pin(uint32_t p, pr_object *o, uint64_t s) noexcept nogil
