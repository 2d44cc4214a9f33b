from libc.stdint cimport int64_t, uint64_t
from pyray._core.store cimport ObjectID

cdef class Waitable:
    cdef ObjectID awaited       # None: nothing more is to come

cdef void set_task_thread(bint on)
cdef int64_t deadline(object timeout) except? -2
cdef Py_ssize_t wait_for(uint64_t *handles, Py_ssize_t n, Py_ssize_t need, int64_t until,
                         bint stop_at_error, list ids) except -1
