"""The payload arena: where the bytes of objects lie.

Two tiers, no lock, and anybody may free anything:

- *large* blocks (over 8 KiB) are runs of 16 KiB units.  Each unit has a word that names its
  claimer; claiming a run is a compare-and-swap per unit (with roll-back on a conflict), freeing it
  a store per unit.  Neighbours coalesce by themselves, because there is nothing but the words.
- *small* blocks come from units that one process has claimed as a slab of one size.  The slab's
  free blocks are bits: whoever frees sets a bit, only the owner takes bits away.

The units of the spill file have the numbers after the arena's, and what is said above holds there
too; but blocks are taken there on request only, lowest first, and the file system is asked to set
them aside, and told when they are free.

So a death in the middle leaves words that name the dead process, and the node puts them right
(recover.pyx) without asking anybody.  Why not one allocator process, or a robust mutex: a stopped
process would stop everybody (see docs/design.md, "No lock on the task path").
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)
from pyray._core.arena cimport PAGES_NEW, PAGES_UNKNOWN, arena, pyray_arena
from pyray._core.layout cimport *
from pyray._core.points cimport *
from pyray._core.shm cimport Ctx, pyray_spill_punch, pyray_spill_reserve

cdef extern from *:
    """
    #define PR_CLASSES 14
    static const uint32_t pr_class_size[PR_CLASSES] = {
        64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 5440, 8192};
    #define PR_CTZ(x) __builtin_ctzll(x)
    """
    enum:
        PR_CLASSES
    const uint32_t pr_class_size[14]
    int PR_CTZ(uint64_t x) nogil

cdef extern from "<errno.h>" nogil:
    int ENOSPC, ENODEV

HEAP_FULL = <uint64_t>0xFFFFFFFFFFFFFFFF

# How many of a class's units are looked through for a free block before a new unit is claimed: the
# cursor goes on where it stopped, so every unit is looked at in time, and none at the cost of one
# call.  When the arena is full all are looked at.
cdef enum:
    SEARCH_UNITS = 8
    NEAR = 4096             # units looked at from where others have freed some: 2 us
    RECENT = 8

cdef struct SlabClass:
    uint32_t *units         # units that this process owns for this size
    uint32_t count
    uint32_t capacity
    uint32_t cursor
    uint32_t current        # unit that `bits` was taken from
    uint64_t bits[4]        # free blocks of `current`, taken out of the shared word
    bint has_current

cdef struct Recent:
    uint64_t first
    uint64_t units

cdef SlabClass _classes[14]
cdef uint64_t _cursor = 0
# Runs that this process freed last: their pages are mapped here, which makes writing them three
# times as fast as writing pages that only another process has touched.
cdef Recent _recent[8]
cdef uint32_t _recent_next = 0
cdef size_t _pages_bytes = 0    # of arena().pages
memset(_classes, 0, sizeof(_classes))
memset(_recent, 0, sizeof(_recent))


cdef void heap_reset(Ctx *c) noexcept nogil:
    """Forget what this process owned: after attach, and in a forked worker."""
    global _cursor, _recent_next, _pages_bytes
    cdef int i
    cdef pyray_arena *a = arena()
    if a.pages != NULL:
        munmap(a.pages, _pages_bytes)
        a.pages = NULL
    if c.attached:
        # Mapped, and so zero without being touched: only what is used of it takes memory.
        _pages_bytes = c.head.n_units
        a.pages = <uint8_t *>mmap(NULL, _pages_bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if a.pages == <uint8_t *>MAP_FAILED:
            a.pages = NULL      # copies go through the mapping then
    for i in range(PR_CLASSES):
        free(_classes[i].units)
    memset(_classes, 0, sizeof(_classes))
    memset(_recent, 0, sizeof(_recent))
    _cursor = 0
    _recent_next = 0


cdef inline int class_of(uint64_t size) noexcept nogil:
    cdef int i
    for i in range(PR_CLASSES):
        if size <= pr_class_size[i]:
            return i
    return -1


cdef uint64_t heap_footprint(uint64_t size) noexcept nogil:
    """Bytes of the arena that a block of this size takes up."""
    cdef int k = class_of(size)
    if k >= 0:
        return pr_class_size[k]
    return (size + PR_UNIT - 1) // PR_UNIT * PR_UNIT


cdef inline uint32_t tag(Ctx *c, uint32_t kind) noexcept nogil:
    return (kind << 16) | (c.self + 1)


cdef bint claim_run(Ctx *c, uint64_t first, uint64_t n, uint32_t word,
                    uint64_t *conflict) noexcept nogil:
    cdef uint64_t i, k
    for i in range(first, first + n):
        if at_load_relaxed32(&c.units[i]) != 0 or not at_cas32(&c.units[i], 0, word):
            for k in range(first, i):
                at_store_release32(&c.units[k], 0)
            conflict[0] = i
            return False
        if i == first + n // 2:
            PR_POINT(c, POINT_RUN_HALF_CLAIMED)
    return True


cdef uint64_t claim_units(Ctx *c, uint64_t first, uint64_t n) noexcept nogil:
    """Claim these very units of the arena as a large block, if all are free; its offset, or
    HEAP_FULL."""
    cdef uint64_t conflict = 0
    if not claim_run(c, first, n, tag(c, UNIT_LARGE), &conflict):
        return HEAP_FULL
    return first * PR_UNIT


cdef uint64_t find_run(Ctx *c, uint64_t n, uint32_t word) noexcept nogil:
    """First fit from the cursor, round once.  Returns the first unit or HEAP_FULL."""
    global _cursor
    cdef uint64_t total = c.head.n_units
    cdef uint64_t at, run, start, scanned = 0, conflict = 0
    if n > total:
        return HEAP_FULL
    at = _cursor if _cursor < total else 0
    run = 0
    start = at
    # Two rounds cover every run, the one that begins before the cursor included.
    while scanned <= 2 * total:
        if at >= total:
            at = 0
            run = 0
            start = 0
        if at_load_relaxed32(&c.units[at]) == 0:
            if run == 0:
                start = at
            run += 1
            if run == n:
                if claim_run(c, start, n, word, &conflict):
                    _cursor = start + n
                    return start
                at = conflict
                run = 0
        else:
            run = 0
        at += 1
        scanned += 1
    return HEAP_FULL


cdef uint64_t first_fit(Ctx *c, uint64_t n, uint32_t word, uint64_t begin, uint64_t end,
                        uint64_t *hint) noexcept nogil:
    """Claim the first n units between two that are free, or HEAP_FULL.  `hint`, a word in shared
    memory that said where to begin, moves on to the first one that may be free then."""
    cdef uint64_t at = begin, run = 0, start = begin, free_ = HEAP_FULL, conflict = 0
    while at < end:
        if at_load_relaxed32(&c.units[at]) == 0:
            if free_ == HEAP_FULL:
                free_ = at
            if run == 0:
                start = at
            run += 1
            if run == n:
                if claim_run(c, start, n, word, &conflict):
                    at_cas64(hint, begin, start + n if start == free_ else free_)
                    return start
                at = conflict
                run = 0
        else:
            run = 0
        at += 1
    at_cas64(hint, begin, end if free_ == HEAP_FULL else free_)
    return HEAP_FULL


cdef uint64_t find_freed(Ctx *c, uint64_t n, uint32_t word) noexcept nogil:
    """First fit among what others have freed before the cursor, or HEAP_FULL.

    Without it the cursor of a process whose blocks others free would go on into memory that nobody
    has touched, until it has taken all of the store's.
    """
    cdef uint64_t low = at_load64(&c.head.freed_low)
    if low >= _cursor:
        return HEAP_FULL
    return first_fit(c, n, word, low, min(low + NEAR, c.head.n_units), &c.head.freed_low)


cdef uint64_t alloc_units(Ctx *c, uint64_t n, uint32_t kind) noexcept nogil:
    cdef uint32_t word = tag(c, kind)
    cdef uint64_t first, conflict = 0
    cdef int i
    for i in range(RECENT):
        if _recent[i].units >= n:
            first = _recent[i].first
            if claim_run(c, first, n, word, &conflict):
                _recent[i].first += n
                _recent[i].units -= n
                return first
            _recent[i].units = 0
    first = find_freed(c, n, word)
    if first == HEAP_FULL:
        first = find_run(c, n, word)
    return first


cdef uint64_t claimed(Ctx *c, uint64_t first, uint64_t end) noexcept nogil:
    """How many of some units are claimed.  Counted, and not kept count of: whoever dies between a
    claim and a counter would leave it wrong for ever.  It takes some 20 us for a gigabyte."""
    cdef uint64_t i, n = 0
    for i in range(first, end):
        n += at_load_relaxed32(&c.units[i]) != 0
    return n


cdef uint64_t heap_used(Ctx *c) noexcept nogil:
    """Units of memory that are claimed."""
    return claimed(c, 0, c.head.n_units)


# ---- the spill file ------------------------------------------------------------------------

cdef uint64_t units_high(Ctx *c) noexcept nogil:
    """All units that were ever claimed have smaller numbers. (What lies beyond in the tables is
    best not even looked at: the look would take memory.)"""
    return at_load64(&c.head.spill_high)


cdef uint64_t disk_used(Ctx *c) noexcept nogil:
    """Units of the file that are claimed."""
    return claimed(c, c.head.n_units, units_high(c))


cdef uint64_t claim_on_disk(Ctx *c, uint64_t n, uint32_t word, uint64_t start) noexcept nogil:
    """First fit among the file's units, from `start` on, or HEAP_FULL."""
    cdef uint64_t total = c.head.n_units + c.head.n_spill_units
    cdef uint64_t first, high
    while True:
        high = at_load64(&c.head.spill_high)
        first = first_fit(c, n, word, start, high, &c.head.spill_low)
        if first != HEAP_FULL or high == total:
            return first
        # Said before it is claimed: whoever clears up after a death looks no further.
        at_cas64(&c.head.spill_high, high, min(total, high + n))
        if start + n < high:
            start = high - n    # what is free at the old end may go on in the new units


cdef uint64_t alloc_on_disk(Ctx *c, uint64_t n, uint32_t kind, int *error) noexcept nogil:
    """Claim units of the spill file, and have the file system set them aside.  The first one's
    number, or HEAP_FULL: `error` says why, as an errno; ENODEV: the session's own limit."""
    cdef uint64_t first = HEAP_FULL, low = at_load64(&c.head.spill_low)
    error[0] = ENODEV
    if c.spill.fd < 0 or n > c.head.n_spill_units:
        return HEAP_FULL
    first = claim_on_disk(c, n, tag(c, kind), low)
    if first == HEAP_FULL and low != c.head.n_units:
        first = claim_on_disk(c, n, tag(c, kind), c.head.n_units)    # `low` is but a hint
    if first == HEAP_FULL:
        return HEAP_FULL
    error[0] = pyray_spill_reserve(&c.spill, (first - c.head.n_units) * PR_UNIT, n * PR_UNIT)
    if error[0]:
        free_on_disk(c, first, n)
        return HEAP_FULL
    return first


cdef void free_on_disk(Ctx *c, uint64_t first, uint64_t n) noexcept nogil:
    cdef uint64_t i
    # While they are claimed still: they may be another's at once.
    pyray_spill_punch(&c.spill, (first - c.head.n_units) * PR_UNIT, n * PR_UNIT)
    for i in range(first, first + n):
        at_store_release32(&c.units[i], 0)
    i = at_load64(&c.head.spill_low)
    if first < i:
        at_cas64(&c.head.spill_low, i, first)


cdef uint64_t heap_alloc_on_disk(Ctx *c, uint64_t size, int *error) noexcept nogil:
    """heap_alloc in the spill file."""
    cdef int cls = class_of(size)
    cdef uint64_t first
    if cls >= 0:
        if not new_slab(c, &_classes[cls], pr_class_size[cls], error):
            return HEAP_FULL
        return alloc_small(c, cls)
    first = alloc_on_disk(c, (size + PR_UNIT - 1) // PR_UNIT, UNIT_LARGE, error)
    return first * PR_UNIT if first != HEAP_FULL else HEAP_FULL


cdef void return_unit(Ctx *c, uint64_t u) noexcept nogil:
    """Free one unit that a dead process left."""
    if u >= c.head.n_units:
        free_on_disk(c, u, 1)
        return
    at_store32(&c.units[u], 0)


cdef void free_units(Ctx *c, uint64_t first, uint64_t n) noexcept nogil:
    global _recent_next, _cursor
    cdef uint64_t i
    if first >= c.head.n_units:
        free_on_disk(c, first, n)
        return
    if first < _cursor:
        _cursor = first     # fill what has been touched before growing into what has not
    for i in range(first, first + n):
        at_store_release32(&c.units[i], 0)
        if i == first + n // 2:
            PR_POINT(c, POINT_RUN_HALF_FREED)
    i = at_load64(&c.head.freed_low)
    if first < i:
        at_cas64(&c.head.freed_low, i, first)
    cdef Recent *r
    for i in range(RECENT):
        r = &_recent[i]
        if r.units and r.first + r.units == first:
            r.units += n
            return
        if r.units and first + n == r.first:
            r.first = first
            r.units += n
            return
    _recent[_recent_next].first = first
    _recent[_recent_next].units = n
    _recent_next = (_recent_next + 1) % RECENT


cdef inline bint take_bits(Ctx *c, SlabClass *k, uint32_t unit) noexcept nogil:
    """Move the free blocks of a unit into the private mask."""
    cdef pr_slab *s = &c.slabs[unit]
    cdef int i
    cdef bint any = False
    at_add64(&s.takes, 1)
    for i in range(4):
        k.bits[i] = 0
        if at_load_relaxed64(&s.bits[i]) != 0:
            k.bits[i] = at_xchg64(&s.bits[i], 0)
            any = any or k.bits[i] != 0
    at_add64(&s.takes, 1)
    if any:
        k.current = unit
        k.has_current = True
    return any


cdef bint search_units(Ctx *c, SlabClass *k, uint32_t limit) noexcept nogil:
    cdef uint32_t _
    for _ in range(min(limit, k.count)):
        if k.cursor >= k.count:
            k.cursor = 0
        if take_bits(c, k, k.units[k.cursor]):
            return True
        k.cursor += 1
    return False


cdef bint new_slab(Ctx *c, SlabClass *k, uint32_t block, int *error) noexcept nogil:
    """Claim a unit for blocks of this size; in the spill file, if there is an `error` to set."""
    cdef uint64_t unit, takes
    cdef uint32_t i, n = PR_UNIT // block
    cdef uint32_t *grown
    if k.count == k.capacity:
        grown = <uint32_t *>realloc(k.units, (k.capacity * 2 + 16) * sizeof(uint32_t))
        if grown == NULL:
            return False
        k.units = grown
        k.capacity = k.capacity * 2 + 16
    if error != NULL:
        unit = alloc_on_disk(c, 1, UNIT_SLAB, error)
    else:
        unit = alloc_units(c, 1, UNIT_SLAB)
    if unit == HEAP_FULL:
        return False
    PR_POINT(c, POINT_SLAB_CLAIMED)
    # It goes on counting: what somebody has seen of an earlier slab here is not to come true again.
    takes = (c.slabs[unit].takes | 1) + 1
    memset(&c.slabs[unit], 0, sizeof(pr_slab))
    c.slabs[unit].takes = takes
    c.slabs[unit].block = block
    at_store32(&c.slabs[unit].owner, c.self + 1)
    for i in range(4):
        if n >= 64 * (i + 1):
            k.bits[i] = ~<uint64_t>0
        elif n > 64 * i:
            k.bits[i] = (<uint64_t>1 << (n - 64 * i)) - 1
        else:
            k.bits[i] = 0
    k.units[k.count] = <uint32_t>unit
    k.count += 1
    k.current = <uint32_t>unit
    k.has_current = True
    return True


cdef bint heap_trim(Ctx *c) noexcept nogil:
    """Return slabs without a block in use to the arena: when it is full, and when there is time."""
    cdef int i, w
    cdef uint32_t j, n, got
    cdef uint64_t bits[4]
    cdef uint64_t have
    cdef SlabClass *k
    cdef bint any = False
    for i in range(PR_CLASSES):
        k = &_classes[i]
        n = PR_UNIT // pr_class_size[i]
        j = 0
        while j < k.count:
            got = 0
            at_add64(&c.slabs[k.units[j]].takes, 1)
            for w in range(4):
                bits[w] = at_xchg64(&c.slabs[k.units[j]].bits[w], 0)
                have = bits[w]
                if k.has_current and k.current == k.units[j]:
                    have |= k.bits[w]
                while have:
                    have &= have - 1
                    got += 1
            at_add64(&c.slabs[k.units[j]].takes, 1)
            if got == n:
                if k.has_current and k.current == k.units[j]:
                    k.has_current = False
                    memset(k.bits, 0, sizeof(k.bits))
                c.slabs[k.units[j]].owner = 0
                free_units(c, k.units[j], 1)
                k.count -= 1
                k.units[j] = k.units[k.count]
                any = True
            else:
                for w in range(4):
                    if bits[w]:
                        at_or64(&c.slabs[k.units[j]].bits[w], bits[w])
                j += 1
    return any


cdef void heap_settle(Ctx *c) noexcept nogil:
    """Give back the free blocks that this process has taken for itself: for an audit."""
    cdef int i, w
    cdef SlabClass *k
    for i in range(PR_CLASSES):
        k = &_classes[i]
        if k.has_current:
            for w in range(4):
                if k.bits[w]:
                    at_or64(&c.slabs[k.current].bits[w], k.bits[w])
            k.has_current = False


cdef uint64_t alloc_small(Ctx *c, int cls) noexcept nogil:
    cdef SlabClass *k = &_classes[cls]
    cdef uint32_t block = pr_class_size[cls]
    cdef int w, bit
    while True:
        if k.has_current:
            for w in range(4):
                if k.bits[w]:
                    bit = PR_CTZ(k.bits[w])
                    k.bits[w] &= k.bits[w] - 1
                    return <uint64_t>k.current * PR_UNIT + <uint64_t>(w * 64 + bit) * block
            k.has_current = False
        if (search_units(c, k, SEARCH_UNITS) or new_slab(c, k, block, NULL)
                or search_units(c, k, k.count)):
            continue
        return HEAP_FULL


cdef uint64_t heap_alloc(Ctx *c, uint64_t size) noexcept nogil:
    """Claim a block and return its offset in the payload, 64-byte aligned (a large one aligned to
    its unit), or HEAP_FULL.  It is the caller's until the seal of the object that names it."""
    cdef int cls = class_of(size)
    cdef uint64_t off
    if cls >= 0:
        off = alloc_small(c, cls)
        if off == HEAP_FULL and heap_trim(c):
            off = alloc_small(c, cls)
        return off
    off = alloc_units(c, (size + PR_UNIT - 1) // PR_UNIT, UNIT_LARGE)
    if off == HEAP_FULL and heap_trim(c):
        off = alloc_units(c, (size + PR_UNIT - 1) // PR_UNIT, UNIT_LARGE)
    return off * PR_UNIT if off != HEAP_FULL else HEAP_FULL


cdef void heap_free(Ctx *c, uint64_t off, uint64_t size) noexcept nogil:
    """Give a block back, whoever claimed it.  `size` is the size it was claimed with."""
    cdef uint64_t unit = off // PR_UNIT
    cdef pr_slab *s
    cdef uint64_t block
    if class_of(size) >= 0:
        s = &c.slabs[unit]
        block = (off % PR_UNIT) // s.block
        at_or64(&s.bits[block // 64], <uint64_t>1 << (block % 64))
    else:
        free_units(c, unit, (size + PR_UNIT - 1) // PR_UNIT)


cdef uint64_t heap_begin_free(Ctx *c, uint64_t off, uint64_t size) noexcept nogil:
    """Before a block that a record names is given back: returns what `heap_free_again` is to know,
    should we die before the record says that it is done.

    A large block's units become ours, so what is left of it then has no other claimer.  A small one
    may have been given back and be another object's already: its slab's owner counts how often it
    takes free blocks, and if it has not since, the bit tells.
    """
    cdef uint64_t i
    if heap_is_small(size):
        return at_load64(&c.slabs[off // PR_UNIT].takes)
    for i in range(off // PR_UNIT, (off + size + PR_UNIT - 1) // PR_UNIT):
        at_store_release32(&c.units[i], tag(c, UNIT_LARGE))
    return 0


cdef bint heap_is_small(uint64_t size) noexcept nogil:
    """Whether a block of this size lies in a slab."""
    return size <= pr_class_size[PR_CLASSES - 1]


cdef void heap_free_again(Ctx *c, uint64_t off, uint64_t size, uint64_t seen) noexcept nogil:
    """Give a small block back that a dead process was about to give back, unless it had done so.

    Where its slab's owner has taken blocks between the two it cannot be told: then the block stays
    as it is.  If it was not free it is again when that process ends, which settles its slabs.
    """
    cdef pr_slab *s = &c.slabs[off // PR_UNIT]
    cdef uint64_t block
    if seen & 1 or s.block == 0:
        return
    block = (off % PR_UNIT) // s.block
    # In this order: a bit that was not set before the count was found unmoved was never set.
    if at_load64(&s.bits[block // 64]) & (<uint64_t>1 << (block % 64)):
        return
    if at_load64(&s.takes) == seen:
        heap_free(c, off, size)


cdef uint64_t heap_untouched(Ctx *c, uint64_t off, uint64_t size) noexcept nogil:
    """Bytes of a block that no process has written yet: what it would take from the machine."""
    cdef uint64_t i, n = 0
    if off >= c.head.n_units * PR_UNIT:
        return 0        # what the kernel keeps of a file it can let go of
    for i in range(off // PR_UNIT, (off + size + PR_UNIT - 1) // PR_UNIT):
        if c.touched[i] == 0:
            n += PR_UNIT
    return n


cdef void heap_touch(Ctx *c, uint64_t off, uint64_t size) noexcept nogil:
    """Say that a block's pages exist from now on; and, to whoever fills it, which are new."""
    cdef uint64_t i
    cdef uint8_t *pages = arena().pages
    if off >= c.head.n_units * PR_UNIT:
        return
    for i in range(off // PR_UNIT, (off + size + PR_UNIT - 1) // PR_UNIT):
        if c.touched[i] == 0:
            c.touched[i] = 1
            if pages != NULL:
                pages[i] = PAGES_NEW
        elif pages != NULL and pages[i] == PAGES_NEW:
            pages[i] = PAGES_UNKNOWN


cdef void heap_untouch(Ctx *c, uint64_t off, uint64_t size) noexcept nogil:
    """Say that a block's pages have been given back to the machine: they are zero again."""
    cdef uint64_t i
    for i in range(off // PR_UNIT, (off + size + PR_UNIT - 1) // PR_UNIT):
        c.touched[i] = 0


cdef void heap_zero(Ctx *c, uint64_t off, uint64_t size) noexcept nogil:
    """Fill a block with zeros.  Units that nobody has touched are zero, and stay without memory: a
    unit is touched before anybody gets its block."""
    cdef uint64_t i, first = off // PR_UNIT
    if class_of(size) >= 0 or first >= c.head.n_units:
        memset(c.payload + off, 0, size)
        return
    for i in range(first, (off + size + PR_UNIT - 1) // PR_UNIT):
        if c.touched[i]:
            memset(c.payload + i * PR_UNIT, 0, PR_UNIT)
