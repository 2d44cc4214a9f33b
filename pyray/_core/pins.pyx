"""Objects that are looked at stay where they are: a bit per process for each large block.

Within a process pins are counted, in memory of its own, so that it sets its bit when the first one
comes and clears it with the last.  Blocks on disk never move, and need none.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strerror
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)
from pyray._core.layout cimport *
from pyray._core.shm cimport Ctx, get_ctx

cdef extern from "<sys/mman.h>" nogil:
    int MAP_NORESERVE

cdef Ctx *C = get_ctx()

# This process's pins, by unit.
cdef uint32_t *_pins = NULL
cdef uint64_t _pins_bytes = 0
cdef uint32_t _pins_epoch = 0


cdef int pins_reset() except -1:
    """Forget this process's pins: after attach and detach, and in a forked worker."""
    global _pins, _pins_bytes, _pins_epoch
    if _pins != NULL:
        munmap(_pins, _pins_bytes)
        _pins = NULL
    _pins_epoch += 1
    if C.attached:
        _pins_bytes = C.head.n_units * sizeof(uint32_t)
        _pins = <uint32_t *>mmap(NULL, _pins_bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if _pins == <uint32_t *>MAP_FAILED:
            _pins = NULL
            raise MemoryError(f"no memory for what this process knows of the store's blocks: "
                              f"{strerror(errno).decode()}")
    return 0


cdef uint32_t pins_epoch() noexcept nogil:
    """Changes when pins are forgotten: what pinned before that has nothing to unpin."""
    return _pins_epoch


cdef uint64_t pin_place(pr_object *o, uint64_t *unit) noexcept nogil:
    cdef uint64_t off, u
    while True:
        off = settle_place(o)
        u = off // PR_UNIT
        if o.size < PR_LARGE_MIN or u >= C.head.n_units or _pins == NULL:
            unit[0] = NOT_PINNED        # it stays where it is
            return off
        if _pins[u] == 0:
            # Should we die, the node is to know where to look.
            at_store_release64(&C.me.pinning, u + 1)
            at_or64(&C.runs[u].pins[C.self // 64], <uint64_t>1 << (C.self % 64))
        _pins[u] += 1
        if at_load64(&o.off) == off:
            C.runs[u].stamp = <uint64_t>now_ns()
            unit[0] = u + 1
            return off
        unpin(u + 1)


cdef void unpin(uint64_t unit) noexcept nogil:
    if unit == NOT_PINNED or _pins == NULL:
        return
    _pins[unit - 1] -= 1
    if _pins[unit - 1] == 0:
        at_and64(&C.runs[unit - 1].pins[C.self // 64], ~(<uint64_t>1 << (C.self % 64)))


cdef void note_block(uint64_t handle, uint64_t off, uint64_t size) noexcept nogil:
    cdef uint64_t u = off // PR_UNIT
    if size >= PR_LARGE_MIN and u < C.head.n_units:
        C.runs[u].stamp = <uint64_t>now_ns()
        at_store_release64(&C.runs[u].object, handle)


cdef bint pinned(uint64_t u) noexcept nogil:
    """Whether any process looks at the block that begins with this unit."""
    cdef pr_run *r = &C.runs[u]
    return (at_load64(&r.pins[0]) | at_load64(&r.pins[1]) | at_load64(&r.pins[2])
            | at_load64(&r.pins[3])) != 0


cdef void drop_last_pin(uint32_t p) noexcept nogil:
    """Process p is dead, and may just have been pinning something that was gone already."""
    cdef uint64_t unit = at_load64(&C.procs[p].pinning)
    if unit:
        at_and64(&C.runs[unit - 1].pins[p // 64], ~(<uint64_t>1 << (p % 64)))
        at_store64(&C.procs[p].pinning, 0)


cdef void drop_pin(uint32_t p, pr_object *o, uint64_t s) noexcept nogil:
    """Process p is dead, and looks at nothing any more; `s` is the object's state."""
    cdef uint64_t u, bit = <uint64_t>1 << (p % 64)
    if s & (OBJ_INLINE | OBJ_COMPACT | OBJ_CELL) or o.size < PR_LARGE_MIN:
        return
    u = place_of(o) // PR_UNIT
    if u < C.head.n_units and at_load64(&C.runs[u].pins[p // 64]) & bit:
        at_and64(&C.runs[u].pins[p // 64], ~bit)
