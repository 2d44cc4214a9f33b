from libc.stdint cimport int64_t, uint32_t, uint64_t
from pyray._core.layout cimport pr_waiter
from pyray._core.store cimport ObjectID

cdef class Waitable:
    cdef ObjectID awaited       # None: nothing more is to come

cdef void set_task_thread(bint on)
cdef void begin_task()
cdef int end_task() except -1
cdef uint32_t count_in(uint64_t *handles, Py_ssize_t n)
cdef void count_out(uint32_t number)
cdef int settle(bint interrupted=*) except -1
cdef object refused()
cdef int call_tick(int64_t ns, list ids) except -1
cdef int64_t deadline(object timeout) except? -2
cdef void sleep_on(pr_waiter *w, int64_t until, bint patient) noexcept nogil
cdef Py_ssize_t wait_for(uint64_t *handles, Py_ssize_t n, Py_ssize_t need, int64_t until,
                         bint stop_at_error, list ids) except -1
