from libc.stdint cimport uint16_t, uint32_t, uint64_t
from pyray._core.layout cimport PR_INLINE_DEPS, pr_task
from pyray._core.tasks cimport TaskContext

cdef class Function:
    cdef object call
    cdef readonly str name
    cdef object retry           # None, or a tuple of exception classes
    cdef int max_calls          # 0: no limit
    cdef int calls

cdef class Call(TaskContext):
    cdef readonly Function function
    cdef readonly bint over
    cdef readonly uint16_t group    # its concurrency group; 0 is the default one
    cdef public uint32_t told       # the last value of `cancelled` that it was interrupted for
    cdef int attempt
    cdef uint64_t started
    cpdef begin(self)
    cpdef finish(self, result)
    cdef void done(self, uint32_t outcome)

cdef void finish(uint64_t handle) noexcept nogil
cdef void finish_ending(uint64_t handle) noexcept nogil

cdef inline uint64_t* seen_by_freer(pr_task *t) noexcept nogil:
    """Room in a record for what who gives its block back has seen, should it die: not in what a
    rerun would read.  If the dependencies lie in the block their room is free; else returns do, so
    it can be told that they are there, and nothing runs again."""
    return &t.dep[0].object if t.ndeps > PR_INLINE_DEPS else <uint64_t *>t.args
cdef int store_error(pr_task *t, object error) except -1
cdef int store_error_at(uint64_t task, object error) except -1
cdef object run(pr_task *t, object call, uint64_t *failed)
cdef int execute(uint64_t handle) except -1
cdef object put_error(Function f, object error)
cdef int fail(uint64_t handle, TaskContext me, Function f, object error) except -1
cdef int set_running(uint64_t handle, pr_task *t) noexcept nogil
cdef void enter(TaskContext me, uint64_t handle, uint32_t depth)
cdef int ends_with(object error)
cdef int how_many(Call call) noexcept
cdef Call new_call(uint64_t handle)
cdef int do_chores(Py_ssize_t n) except -1
