"""Room in the store for records and payloads, and what is done when there is none left."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint64_t

from pyray._core.dispatch cimport ring_node
from pyray._core.heap cimport HEAP_FULL, heap_alloc, heap_alloc_on_disk, heap_footprint, heap_free
from pyray._core.heap cimport heap_touch, heap_untouched, heap_used, heap_zero
from pyray._core.holds cimport sweep_now
from pyray._core.layout cimport *
from pyray._core.points cimport *
from pyray._core.records cimport object_new, object_recycle
from pyray._core.shm cimport Ctx, get_ctx, object_at
from pyray._core.spilling cimport relieve, room_for, why_not

from pyray._core.errors import ObjectStoreFullError, OutOfRecordsError

cdef Ctx *C = get_ctx()

cdef enum:
    NODE = 1                # the node's process slot
    GUARDED = 1 << 20       # allocations that touch this much new memory are checked first
    # In a full store others are asked this often to let go of what they hold for nothing, and given
    # so long for it, before things go to disk that nobody wants any more.
    ASK_NS = 200000000
    ASKED_NS = 10000000

cdef object _guard = None           # called before memory grows: (bytes) -> None or a reason
cdef int64_t _asked = 0


def set_guard(guard):
    """Have `guard(bytes)` asked before memory grows: None, or why it may not."""
    global _guard
    _guard = guard


cdef uint64_t record_in_full_store() except 0:
    cdef uint64_t handle
    sweep_now()
    handle = object_new(C)
    if handle == 0:
        raise OutOfRecordsError(
            f"no room for another object's record: all {C.head.n_chunks * PR_CHUNK_BYTES >> 20} "
            "MiB of records are in use; drop references to results that you no longer need")
    return handle


cdef void discard_record(uint64_t handle) noexcept nogil:
    """Give back a record that came to nothing: nobody else knows of it."""
    cdef pr_object *o = object_at(C, handle)
    at_store64(&o.state, (at_load64(&o.state) & PR_GEN_MASK) | OBJ_EMPTY | PR_BY(C.self))
    object_recycle(C, handle)


cdef uint64_t alloc(uint64_t size, bint zero=False) except? 0xFFFFFFFFFFFFFFFF:
    """Room for a payload, in memory if there is any to be had."""
    cdef uint64_t off = heap_alloc(C, size)
    if off == HEAP_FULL:
        off = alloc_in_full_store(size)
    if size >= GUARDED and _guard is not None:
        off = alloc_guarded(off, size)
    if zero:
        with nogil:
            heap_zero(C, off, size)
    heap_touch(C, off, size)
    PR_POINT(C, POINT_BLOCK_CLAIMED)
    return off


cdef uint64_t alloc_in_full_store(uint64_t size) except? 0xFFFFFFFFFFFFFFFF:
    """Have everybody let go of what is held for nothing, spill, and fail if that does not help."""
    global _asked
    cdef uint64_t off
    cdef int64_t now = now_ns(), end = now
    cdef int error = 0
    cdef bint hopeless = heap_footprint(size) > C.head.n_units * PR_UNIT
    sweep_now()
    off = heap_alloc(C, size)
    if off != HEAP_FULL:
        return off
    # The node's own sweep is all the help that it has.
    if C.self != NODE and not hopeless and (C.spill.fd < 0 or now - _asked > ASK_NS):
        _asked = now
        at_add32(&C.dispatch.sweep, 1)
        ring_node(C)
        if C.spill.fd >= 0:
            off = alloc_when_swept(size, now + ASKED_NS)
    if off == HEAP_FULL:
        off = room_for(size, &error)
    if off == HEAP_FULL:
        if C.self != NODE and not hopeless:
            end = now + 300000000
        off = alloc_when_swept(size, end)
    if off == HEAP_FULL:
        raise full(size, error)
    return off


cdef uint64_t alloc_when_swept(uint64_t size, int64_t end) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t off
    while True:
        # Each time: what a task held is let go of only once its worker is through with it.
        sweep_now()
        off = heap_alloc(C, size)
        if off != HEAP_FULL or now_ns() > end:
            return off
        with nogil:
            futex_wait(&C.dispatch.sweep, C.dispatch.sweep, 2000000)
        PyErr_CheckSignals()


cdef uint64_t alloc_guarded(uint64_t off, uint64_t size) except? 0xFFFFFFFFFFFFFFFF:
    """The block, or another one, if the machine can spare the memory that it would take."""
    cdef uint64_t fresh = heap_untouched(C, off, size)
    cdef int error = 0
    reason = why_not_grow(fresh, off, size)
    if reason is None:
        return off
    heap_free(C, off, size)
    if relieve(fresh, &error) > 0:
        off = heap_alloc(C, size)
        if off != HEAP_FULL:
            fresh = heap_untouched(C, off, size)
            if why_not_grow(fresh, off, size) is None:
                return off
            heap_free(C, off, size)
    if not C.spill.in_memory and not error:
        with nogil:
            off = heap_alloc_on_disk(C, size, &error)
        if off != HEAP_FULL:
            at_add64(&C.head.direct_bytes, size)
            return off
    raise ObjectStoreFullError(
        f"an object of {size} bytes would take {fresh} more bytes of memory, but {reason}; "
        f"{why_not(error)}")


cdef object why_not_grow(uint64_t fresh, uint64_t off, uint64_t size):
    """What stands against using a block that takes so much more memory; frees it if that cannot be
    said."""
    if fresh < GUARDED:
        return None
    try:
        return _guard(fresh)
    except BaseException:
        heap_free(C, off, size)
        raise


cdef object full(uint64_t size, int error):
    cdef uint64_t used = heap_used(C) * PR_UNIT
    cdef uint64_t total = C.head.n_units * PR_UNIT
    return ObjectStoreFullError(
        f"an object of {size} bytes does not fit: {used} of the store's {total} bytes are in use, "
        f"and the rest is {'too small' if total - used < size else 'in pieces'}; "
        f"{why_not(error)}. Drop references (ObjectIDs and arrays that views still pin), or pass a "
        "larger object_store_memory or max_spill_bytes to init()")
