from libc.stdint cimport int64_t, uint32_t, uint64_t
from pyray._core.layout cimport pr_mailbox
from pyray._core.shm cimport Ctx

cdef enum:
    NONE = 0
    HELD_UP = 1             # no handle is 1
    MAX_SEGMENTS = 256      # of one caller: two million calls that an actor has not run yet

# The segments that a caller has given to one mailbox.  Private to it.
cdef struct Segments:
    uint64_t oldest         # index of the first
    uint32_t count
    uint64_t last           # the call entered last
    uint32_t slot[256]      # by index

# Where an actor stands in one caller's mailbox.  Private to it.
cdef struct Cursor:
    uint64_t next           # number of the next call to look at
    uint64_t index          # the segment looked at last: its index
    uint32_t slot           # and its slot, 0: none

cdef struct Reader:
    uint64_t actor
    bint in_order           # a call waits for those before it of the same caller to start
    bint sequential         # and to end: there is one at a time
    uint32_t turn           # process whose turn it is
    uint32_t last           # process that the last call came from
    uint64_t held_up[4]     # callers to look at again without being told
    Cursor cursor[256]

cdef bint actor_is(Ctx *c, uint64_t actor) noexcept nogil
cdef uint32_t actor_status(Ctx *c, uint64_t actor) noexcept nogil
cdef bint box_push(Ctx *c, pr_mailbox *row, uint64_t actor, Segments *own,
                   uint64_t call) noexcept nogil
cdef void box_release(Segments *own) noexcept nogil
cdef void close_boxes(Ctx *c, uint32_t p) noexcept nogil
cdef void wake_actor(Ctx *c, uint64_t actor) noexcept nogil
cdef void reader_open(Reader *r, uint64_t actor, bint in_order) noexcept nogil
cdef uint64_t entry_at(Ctx *c, pr_mailbox *row, Cursor *u, uint64_t at) noexcept nogil
cdef uint64_t look(Ctx *c, Reader *r, bint last) noexcept nogil
cdef void settle(Ctx *c, Reader *r, uint32_t p) noexcept nogil
cdef void settle_all(Ctx *c, Reader *r) noexcept nogil
cdef bint nothing_left(Ctx *c, Reader *r) noexcept nogil
cdef uint64_t next_call(Ctx *c, Reader *r, int64_t timeout_ns) noexcept nogil
cdef uint64_t spin(Ctx *c, Reader *r) noexcept nogil
