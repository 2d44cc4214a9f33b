from libc.stdint cimport uint32_t, uint64_t
from pyray._core.layout cimport pr_object

# How many of a class live is counted in debug builds only.
cdef extern from *:
    """
    #ifdef PYRAY_DEBUG
    #define PR_LIVE(counter, change) ((counter) += (change))
    #define PR_COUNTS 1
    #else
    #define PR_LIVE(counter, change) ((void)0)
    #define PR_COUNTS 0
    #endif
    """
    void PR_LIVE(Py_ssize_t counter, int change)
    const bint PR_COUNTS

cdef class ViewHold:
    cdef uint64_t handle
    cdef uint32_t epoch
    cdef bint resting           # holds nothing for now
    cdef void rest(self)
    cdef bint wake(self)

cdef class Pin:
    cdef object mapping
    cdef object oid
    cdef uint64_t place         # of the payload; it stays as long as this lives
    cdef uint64_t unit          # for unpin
    cdef uint32_t epoch
    cdef uint32_t pins

cdef object interned(uint64_t handle)
cdef int intern_id(uint64_t handle, object oid) except -1
cdef void release_id(uint64_t handle) noexcept
cdef void set_sweep(object sweep)
cdef int sweep_now() except -1
cdef void drop_contained(uint64_t handle) noexcept
cdef dict contained_ids()
cdef bint has_duties()
cdef int sweep_contained()
cdef int take_over_ids(uint64_t handle, list inside, uint32_t p) except -1
cdef object borrow_for_view(uint64_t handle)
cdef bint is_known(uint64_t handle)
cdef list known_handles()
cdef Pin pin(object oid, pr_object *o)
cdef Py_ssize_t interned_ids()
cdef Py_ssize_t live_pins()
cdef Py_ssize_t live_holds()
cdef int holds_reset() except -1
