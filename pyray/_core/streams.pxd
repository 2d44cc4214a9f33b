from libc.stdint cimport uint32_t, uint64_t
from pyray._core.layout cimport pr_task
from pyray._core.shm cimport Ctx
from pyray._core.store cimport ObjectID

cdef class Item:
    cdef uint64_t cell
    cdef ObjectID value
    cdef ObjectID next
    cdef ObjectID credit

cdef class Writer:
    cdef uint64_t task
    cdef pr_task *t
    cdef uint64_t *returns      # the cell to fill next, and the end
    cdef bytes parent
    cdef uint64_t counter
    cdef uint32_t index         # of the cell to fill next
    cdef uint32_t skip          # values that an earlier attempt has written
    cdef uint32_t window
    cdef uint32_t sweeps
    cdef list items             # cells that the reader has not read, the first at `first`
    cdef Py_ssize_t first
    cdef bint listed
    cdef ObjectID new_credit(self)
    cdef void forgo(self, Item item) noexcept
    cdef ObjectID must_wait(self)
    cdef int write(self, object value) except -1
    cdef int release(self) except -1
    cdef bint is_open(self)
    cdef bint unwanted(self)
    cdef int end(self) except -1

cdef Writer new_writer(uint64_t task)
cdef ObjectID new_item(pr_task *t, uint32_t index, object value, uint64_t flags)
cdef bint holds_for_readers()
cdef int sweep_streams() except -1
cdef void streams_reset()
cdef void settle_stream(Ctx *c, pr_task *t) noexcept nogil
