"""Objects that go to disk: which, how, and how others are kept from looking at the wrong place.

An object in a large block can move once, from memory to the spill file, which all processes have
mapped behind the arena.  So it is never brought back: a look at it is a look at the file's pages,
and which of them are in memory is the kernel's affair.

Whoever needs room and finds none does the work (no other process is asked, and none waits):

1. copy the block of an object that nobody looks at to the file;
2. put a mark on the object's `off`;
3. give up if the object is gone, or somebody has pinned the block meanwhile;
4. swap the new place in for the mark, and free the old block.

A reader sets its pin first and reads `off` (again) then, so one of the two sees the other.  If it
finds the mark it takes it away, and then step 4 fails: nobody ever waits for a spiller, which may
be stopped or dead.  The same holds for who frees the object, so a spiller need not hold it: what it
copies may be gone, or another object's by then, and step 3 sees that.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport strerror
from pyray._core.heap cimport (
    HEAP_FULL, claim_units, disk_used, heap_alloc, heap_alloc_on_disk, heap_begin_free,
    heap_footprint, heap_free, heap_untouch,
)
from pyray._core.layout cimport *
from pyray._core.pins cimport drop_last_pin, pinned
from pyray._core.points cimport *
from pyray._core.records cimport gen_in, gen_of, plausible
from pyray._core.shm cimport (
    Ctx, get_ctx, object_at, pyray_spill_drop_cache, pyray_spill_free, pyray_spill_punch,
    pyray_spill_write,
)

cdef extern from "<errno.h>" nogil:
    int ENOSPC, ENODEV, EBADF

cdef Ctx *C = get_ctx()

cdef enum:
    NODE = 1                # the node's process slot
    VICTIMS = 1024          # that one look through the store finds
    # Spilled at a time at least, of a store that is large enough: a search for room where there is
    # none looks through the whole store.
    BATCH_UNITS = 1024
    WINDOWS = 16            # how often room in one piece is made anew after others have taken it
    FIRST_LINE = 64 << 20   # bytes at which the second line in the log is due, at the earliest

cdef struct Victim:
    uint64_t stamp
    uint64_t handle
    uint64_t unit

cdef struct Segment:        # of the arena: a free run, or an object that can be spilled
    uint64_t first
    uint64_t units
    uint64_t handle         # 0: it is free

# Those found by the last look that have not been spilled yet: the oldest first.
cdef Victim _victims[1024]
cdef uint32_t _found = 0
cdef uint32_t _next = 0
cdef bint _busy = False     # a thread of this process is spilling
cdef bint _to_tell = False
cdef object _teller = None


def set_teller(teller):
    """Have `teller()` called when things begin to spill, and each time that they have doubled."""
    global _teller
    _teller = teller


cdef void spilling_reset() noexcept nogil:
    """Forget what was found: after attach and detach, and in a forked worker."""
    global _found, _next, _busy
    _found = _next = 0
    _busy = False


# ---- what can be spilled -------------------------------------------------------------------

cdef uint64_t object_there(uint64_t u, uint64_t handle, bint *can_go) noexcept nogil:
    """Units of the object whose block begins at `u`, and whether it can be spilled; 0 if `handle`
    is not of one."""
    cdef pr_object *o
    cdef uint64_t s, off, size
    can_go[0] = False
    if handle == 0 or not plausible(C, handle):
        return 0
    o = object_at(C, handle)
    s = at_load64(&o.state)
    if (gen_of(s) != gen_in(handle) or s & (OBJ_INLINE | OBJ_COMPACT | OBJ_CELL)
            or ((s & 0xFF) != OBJ_SEALED and (s & 0xFF) != OBJ_OPEN)):
        return 0
    off = at_load64(&o.off)
    size = o.size
    if (off & PR_PLACE != u * PR_UNIT or size < PR_LARGE_MIN
            or gen_of(at_load64(&o.state)) != gen_in(handle)):
        return 0
    size = (size + PR_UNIT - 1) // PR_UNIT
    if u + size > C.head.n_units:
        return 0
    can_go[0] = ((s & 0xFF) == OBJ_SEALED and not off & PR_MOVING
                 and at_load32(&C.runs[u].spiller) == 0 and not pinned(u))
    return size


cdef void sift(uint32_t i, uint32_t n) noexcept nogil:
    """Let the victim at `i` sink in the heap of n, whose latest is on top."""
    cdef Victim v = _victims[i]
    cdef uint32_t k
    while True:
        k = 2 * i + 1
        if k >= n:
            break
        if k + 1 < n and _victims[k + 1].stamp > _victims[k].stamp:
            k += 1
        if _victims[k].stamp <= v.stamp:
            break
        _victims[i] = _victims[k]
        i = k
    _victims[i] = v


cdef void look_for_victims() noexcept nogil:
    """Find those that were made or got the longest ago."""
    global _found, _next
    cdef uint64_t u = 0, n, handle, stamp
    cdef uint32_t i
    cdef bint can_go
    cdef Victim v
    _found = _next = 0
    while u < C.head.n_units:
        n = 0
        if at_load_relaxed32(&C.units[u]) >> 16 == UNIT_LARGE:
            handle = at_load64(&C.runs[u].object)
            n = object_there(u, handle, &can_go)
            if n and can_go:
                stamp = C.runs[u].stamp
                if _found < VICTIMS:
                    _victims[_found].stamp = stamp
                    _victims[_found].handle = handle
                    _victims[_found].unit = u
                    _found += 1
                    if _found == VICTIMS:
                        i = VICTIMS // 2
                        while i > 0:
                            i -= 1
                            sift(i, VICTIMS)
                elif stamp < _victims[0].stamp:
                    _victims[0].stamp = stamp
                    _victims[0].handle = handle
                    _victims[0].unit = u
                    sift(0, VICTIMS)
        u += n if n else 1
    # Sorted, the oldest first.
    i = _found // 2
    while i > 0:
        i -= 1
        sift(i, _found)
    i = _found
    while i > 1:
        i -= 1
        v = _victims[0]
        _victims[0] = _victims[i]
        _victims[i] = v
        sift(0, i)


cdef bint next_victim(Victim *v) noexcept nogil:
    """The next of those found that nobody has got since."""
    cdef bint can_go
    global _next
    while _next < _found:
        v[0] = _victims[_next]
        _next += 1
        if (at_load64(&C.runs[v.unit].object) == v.handle and C.runs[v.unit].stamp == v.stamp
                and object_there(v.unit, v.handle, &can_go) and can_go):
            return True
    return False


# ---- spilling one --------------------------------------------------------------------------

cdef void forget_copy(uint64_t unit) noexcept nogil:
    # The place first: while it is there, whoever clears up after us asks whether it has been freed.
    # And the unit last: by that the claim is found.
    at_store64(&C.me.spill_to, 0)
    at_cas32(&C.runs[unit].spiller, C.self + 1, 0)
    at_store64(&C.me.spill_from, 0)


cdef uint64_t copy_out(uint64_t unit, uint64_t handle, uint64_t *size, int *error) noexcept nogil:
    """Copy an object to a block of the file; its offset, or HEAP_FULL: `error` is 0 if the object
    is not to be had."""
    cdef pr_object *o = object_at(C, handle)
    cdef uint64_t to
    cdef bint can_go
    error[0] = 0
    at_store64(&C.me.spill_from, unit + 1)
    if not at_cas32(&C.runs[unit].spiller, 0, C.self + 1):
        at_store64(&C.me.spill_from, 0)
        return HEAP_FULL
    PR_POINT(C, POINT_SPILL_CLAIMED)
    size[0] = o.size
    object_there(unit, handle, &can_go)
    if gen_of(at_load64(&o.state)) != gen_in(handle) or size[0] < PR_LARGE_MIN or (
            at_load64(&o.off) != unit * PR_UNIT):
        forget_copy(unit)
        return HEAP_FULL
    to = heap_alloc_on_disk(C, size[0], error)
    if to == HEAP_FULL:
        forget_copy(unit)
        return HEAP_FULL
    at_store64(&C.me.spill_units, (size[0] + PR_UNIT - 1) // PR_UNIT)
    at_store64(&C.me.spill_object, handle)
    at_store64(&C.me.spill_to, to // PR_UNIT + 1)
    PR_POINT(C, POINT_SPILL_PLACED)
    error[0] = pyray_spill_write(&C.spill, C.readonly + unit * PR_UNIT, size[0],
                                 to - C.head.n_units * PR_UNIT)
    if error[0]:
        forget_copy(unit)
        heap_free(C, to, size[0])
        return HEAP_FULL
    PR_POINT(C, POINT_SPILL_COPIED)
    return to


cdef bint move(uint64_t unit, uint64_t handle, uint64_t to) noexcept nogil:
    """Make the copy the object's place, if nobody looks at the old one.  With the GIL held: so no
    two threads of a process have a mark anywhere, and a mark says whose attempt it is."""
    cdef pr_object *o = object_at(C, handle)
    cdef uint64_t off = unit * PR_UNIT
    cdef uint64_t mark = off | PR_MOVING | <uint64_t>C.self << PR_MOVER_SHIFT
    cdef uint64_t s = at_load64(&o.state)
    # Looked at before as well: what the record has become may use `off` for something else.
    if gen_of(s) != gen_in(handle) or (s & 0xFF) != OBJ_SEALED or not at_cas64(&o.off, off, mark):
        return False
    PR_POINT(C, POINT_SPILL_MARKED)
    s = at_load64(&o.state)
    if gen_of(s) != gen_in(handle) or (s & 0xFF) != OBJ_SEALED or pinned(unit):
        at_cas64(&o.off, mark, off)
        return False
    if not at_cas64(&o.off, mark, to):
        return False
    PR_POINT(C, POINT_SPILL_MOVED)
    return True


cdef int64_t spill_one(Victim *v, bint give_back, int *error) except -1:
    """Spill an object.  Units that are free now, 0 if it cannot be spilled, or if `error` is set.

    With `give_back` the machine gets the memory, instead of the store.
    """
    cdef uint64_t size = 0, to, n, off = v.unit * PR_UNIT
    global _to_tell
    with nogil:
        to = copy_out(v.unit, v.handle, &size, error)
    if to == HEAP_FULL:
        return 0
    if not move(v.unit, v.handle, to):
        forget_copy(v.unit)
        with nogil:
            heap_free(C, to, size)
        return 0
    n = (size + PR_UNIT - 1) // PR_UNIT
    # The block is this process's now, and whoever clears up after it is to see that.
    heap_begin_free(C, off, size)
    forget_copy(v.unit)
    PR_POINT(C, POINT_SPILL_FORGOTTEN)
    if give_back:
        with nogil:
            if pyray_spill_punch(&C.memory, C.head.off_payload + off, n * PR_UNIT):
                heap_untouch(C, off, size)
            pyray_spill_drop_cache(&C.spill, to - C.head.n_units * PR_UNIT, size)
    heap_free(C, off, size)
    at_add64(&C.head.spilled_objects, 1)
    at_add64(&C.head.spilled_bytes, size)
    _to_tell = _to_tell or line_due()
    return n


cdef bint line_due() noexcept nogil:
    cdef uint64_t bytes = at_load64(&C.head.spilled_bytes) + at_load64(&C.head.direct_bytes)
    cdef uint64_t due = at_load64(&C.head.spill_told)
    return bytes >= due and at_cas64(&C.head.spill_told, due, max(2 * bytes, <uint64_t>FIRST_LINE))


cdef int tell() except -1:
    global _to_tell
    if _to_tell and _teller is not None:
        _to_tell = False
        try:
            _teller()
        except Exception:
            return 0    # a line in the log is not worth a failure
    return 0


# ---- making room ---------------------------------------------------------------------------

cdef bint ends() noexcept nogil:
    return C.broken or not C.attached or at_load32(&C.dispatch.stopping) != 0


cdef int64_t spill_oldest(uint64_t units, bint give_back, int *error) except -1:
    """Spill what was used the longest ago until so many units are free; how many are."""
    cdef uint64_t freed = 0, before = 0
    cdef int64_t got
    cdef bint fresh = False
    cdef Victim v
    while freed < units and not ends():
        if not next_victim(&v):
            if fresh and freed == before:
                break           # nothing of what the last look found would go
            before = freed
            fresh = True
            with nogil:
                look_for_victims()
            if _found == 0:
                break
            continue
        got = spill_one(&v, give_back, error)
        if error[0]:
            break
        freed += <uint64_t>got
        PyErr_CheckSignals()
    return <int64_t>freed


cdef uint64_t find_window(uint64_t n, Segment **found, uint64_t *count) noexcept nogil:
    """Where n units in one piece cost least: the segments that it consists of, to be freed by the
    caller, and their number; returns the first unit, or HEAP_FULL."""
    cdef Segment *all = NULL
    cdef Segment *more
    cdef uint64_t room = 0, m = 0, u = 0, k, handle, best = HEAP_FULL, best_count = 0
    cdef uint64_t first = 0, units = 0, cost = 0, best_cost = HEAP_FULL
    cdef bint can_go
    cdef uint32_t word
    found[0] = NULL
    count[0] = 0
    while u < C.head.n_units:
        word = at_load_relaxed32(&C.units[u])
        handle = 0
        k = 1
        can_go = False
        if word == 0:
            while u + k < C.head.n_units and at_load_relaxed32(&C.units[u + k]) == 0:
                k += 1
        elif word >> 16 == UNIT_LARGE:
            handle = at_load64(&C.runs[u].object)
            k = object_there(u, handle, &can_go)
            if k == 0:
                k = 1
        if word != 0 and not can_go:
            first = m           # a window cannot go on across this
            units = cost = 0
            u += k
            continue
        if m == room:
            room = 2 * room + 256
            more = <Segment *>realloc(all, room * sizeof(Segment))
            if more == NULL:
                free(all)
                return HEAP_FULL
            all = more
        all[m].first = u
        all[m].units = k
        all[m].handle = handle
        m += 1
        units += k
        cost += k if handle else 0
        while units - all[first].units >= n:
            units -= all[first].units
            cost -= all[first].units if all[first].handle else 0
            first += 1
        if units >= n and cost < best_cost:
            best_cost = cost
            best = first
            best_count = m - first
        u += k
    if best == HEAP_FULL:
        free(all)
        return HEAP_FULL
    found[0] = all
    count[0] = best_count
    # The caller frees what was allocated, so the window is moved to its beginning.
    for k in range(best_count):
        all[k] = all[best + k]
    return all[0].first


cdef uint64_t clear_window(uint64_t n, int *error) except? 0xFFFFFFFFFFFFFFFF:
    """Make room for n units in one piece, and claim it; HEAP_FULL if that cannot be done, or others
    were quicker again and again."""
    cdef Segment *segments
    cdef uint64_t first, count, i
    cdef Victim v
    cdef int _
    for _ in range(WINDOWS):
        with nogil:
            first = find_window(n, &segments, &count)
        if first == HEAP_FULL:
            return HEAP_FULL
        try:
            for i in range(count):
                if segments[i].handle == 0 or ends():
                    continue
                v.unit = segments[i].first
                v.handle = segments[i].handle
                if spill_one(&v, False, error) == 0:
                    break
                PyErr_CheckSignals()
        finally:
            free(segments)
        if error[0] or ends():
            return HEAP_FULL
        first = claim_units(C, first, n)
        if first != HEAP_FULL:
            return first
    return HEAP_FULL


cdef enum:
    OVER = 0        # the session ends
    AFTER_WAIT = 1
    AT_ONCE = 2


cdef int begin() except -1:
    """One thread of a process spills at a time: says whether another one has just done so."""
    global _busy
    cdef int how = AT_ONCE
    while _busy:
        how = AFTER_WAIT
        with nogil:
            futex_wait(&C.dispatch.sweep, at_load32(&C.dispatch.sweep), 1000000)
        PyErr_CheckSignals()
        if ends():
            return OVER
    _busy = True
    return how


cdef uint64_t spill_for(uint64_t size, uint64_t n, int *error) except? 0xFFFFFFFFFFFFFFFF:
    global _busy
    cdef uint64_t off = HEAP_FULL
    cdef int how = begin()
    if how == OVER:
        return HEAP_FULL
    try:
        if how == AFTER_WAIT:
            off = heap_alloc(C, size)
        if off != HEAP_FULL:
            return off
        spill_oldest(max(n, min(C.head.n_units // 32, <uint64_t>BATCH_UNITS)), False, error)
        off = heap_alloc(C, size)
        if off == HEAP_FULL and not error[0] and size >= PR_LARGE_MIN:
            # There is room enough now, but in pieces; or others have taken it.
            off = clear_window(n, error)
    finally:
        _busy = False
    return off


cdef uint64_t room_for(uint64_t size, int *error) except? 0xFFFFFFFFFFFFFFFF:
    global _to_tell
    cdef uint64_t n = (heap_footprint(size) + PR_UNIT - 1) // PR_UNIT
    cdef uint64_t off = HEAP_FULL
    error[0] = ENODEV
    if C.spill.fd < 0:
        return HEAP_FULL
    error[0] = 0
    C.inflight += 1
    try:
        # The node does not stop to write much, but must have room for an error.
        if C.self != NODE and n <= C.head.n_units:
            off = spill_for(size, n, error)
        if off == HEAP_FULL and not ends():
            if size >= PR_LARGE_MIN:
                with nogil:
                    off = heap_alloc_on_disk(C, size, error)
            else:
                off = heap_alloc_on_disk(C, size, error)    # slabs are under the GIL
            if off != HEAP_FULL:
                at_add64(&C.head.direct_bytes, heap_footprint(size))
                _to_tell = _to_tell or line_due()
        try:
            tell()
        except BaseException:
            if off != HEAP_FULL:
                heap_free(C, off, size)
            raise
    finally:
        C.inflight -= 1
    return off


cdef int64_t relieve(uint64_t nbytes, int *error) except -1:
    """Give memory back to the machine by spilling what was used the longest ago; how much."""
    global _busy
    cdef int64_t freed
    error[0] = ENODEV
    if C.spill.fd < 0 or C.spill.in_memory or C.self == NODE:
        return 0
    error[0] = 0
    C.inflight += 1
    try:
        if begin() == OVER:
            return 0
        try:
            freed = spill_oldest((nbytes + PR_UNIT - 1) // PR_UNIT, True, error)
        finally:
            _busy = False
        tell()
    finally:
        C.inflight -= 1
    return freed * PR_UNIT


cdef str why_not(int error):
    """What stands in the way of spilling, for an error's text; empty if nothing does."""
    cdef uint64_t limit = C.head.n_spill_units * PR_UNIT
    cdef uint64_t used = disk_used(C) * PR_UNIT
    if limit == 0:
        return "nothing can be spilled to disk, since " + (
            _reason or "max_spill_bytes is 0")
    told = f"on disk {used} of at most {limit} bytes are in use (max_spill_bytes)"
    if error == EBADF:
        return (f"{told}; this process cannot spill any more, since its code has closed the "
                f"descriptor {C.spill.fd}, which is pyray's")
    if error == ENOSPC:
        return (f"{told}; the file system of {_directory!r} has {pyray_spill_free(&C.spill)} bytes "
                f"free, besides {C.spill.reserve} that are left to others")
    if error and error != ENODEV:
        return f"{told}; spilling to {_directory!r} failed: {strerror(error).decode()}"
    return told


cdef str _directory = ""
cdef str _reason = ""


def set_directory(str directory, str reason):
    """For errors: where the spill file lies, and why there is none if so."""
    global _directory, _reason
    _directory, _reason = directory, reason


def spill_stats():
    """Figures of the spill file: where it lies, the store's bytes of memory, the file's in use and
    in all, what was spilled since the session began, and what had no room in memory at all."""
    if not C.attached:
        return None
    return {
        "directory": _directory,
        "memory": C.head.n_units * PR_UNIT,
        "used": disk_used(C) * PR_UNIT,
        "total": C.head.n_spill_units * PR_UNIT,
        "spilled_objects": at_load64(&C.head.spilled_objects),
        "spilled_bytes": at_load64(&C.head.spilled_bytes),
        "direct_bytes": at_load64(&C.head.direct_bytes),
    }


# ---- after a death -------------------------------------------------------------------------

cdef bint became_place(uint64_t to, uint64_t handle, uint32_t p) noexcept nogil:
    """Whether the units from `to` on, which p has claimed for a copy of an object, are its place
    now, or have been."""
    cdef pr_object *o = object_at(C, handle)
    # In this order: an object that goes meanwhile takes its units with it.
    cdef uint64_t s = at_load64(&o.state)
    # Claimed by p. If they are not any more, they became the object's place and went with it.
    if at_load32(&C.units[to]) != ((UNIT_LARGE << 16) | (p + 1)):
        return True
    return (gen_of(s) == gen_in(handle) and (s & 0xFF) != OBJ_FREE
            and at_load64(&o.off) == to * PR_UNIT)


cdef bint left_by_spiller(uint32_t p, uint64_t *first, uint64_t *n) noexcept nogil:
    """The units that an object has just left which p, alive, was moving: they are p's to free, and
    have its name once it does not say any more that it moves."""
    cdef pr_proc *q = &C.procs[p]
    cdef uint64_t to = at_load64(&q.spill_to), handle = at_load64(&q.spill_object)
    first[0] = at_load64(&q.spill_from)
    n[0] = at_load64(&q.spill_units)
    if to == 0 or first[0] == 0 or not plausible(C, handle):
        return False
    first[0] -= 1
    # And all of that of one move, and not of two.
    return became_place(to - 1, handle, p) and at_load64(&q.spill_to) == to


cdef void settle_spiller(uint32_t p) noexcept nogil:
    """Process p is dead: end what it was moving.  Before anything of p's is freed."""
    cdef pr_proc *q = &C.procs[p]
    cdef uint64_t unit = at_load64(&q.spill_from), to = at_load64(&q.spill_to)
    cdef uint64_t handle = at_load64(&q.spill_object), n = at_load64(&q.spill_units)
    cdef uint64_t off, i
    cdef pr_object *o
    at_store64(&q.spill_to, 0)
    at_store64(&q.spill_from, 0)
    drop_last_pin(p)
    if unit == 0 or unit > C.head.n_units:
        return
    unit -= 1
    if to != 0 and plausible(C, handle):
        to -= 1
        o = object_at(C, handle)
        off = unit * PR_UNIT
        at_cas64(&o.off, off | PR_MOVING | <uint64_t>p << PR_MOVER_SHIFT, off)
        if became_place(to, handle, p):
            # The old block is p's: what follows finds it, as anything of p's that nobody uses.
            for i in range(unit, unit + n):
                at_store32(&C.units[i], (UNIT_LARGE << 16) | (p + 1))
    at_cas32(&C.runs[unit].spiller, p + 1, 0)
