from libc.stdint cimport uint16_t, uint32_t, uint64_t
from pyray._core.layout cimport pr_mailbox, pr_task
from pyray._core.mailboxes cimport Segments

cdef class TaskContext:
    cdef uint64_t handle        # the task's, 0: none
    cdef uint64_t counter       # what it has submitted and put
    cdef uint32_t depth
    cdef bytes base             # the 20 bytes that ids made by it hash from, once needed

cdef class Target:
    cdef object path                    # its arguments' name in an error
    cdef public uint32_t func
    cdef public int shape
    cdef public int nreturns
    cdef public int max_retries
    cdef public uint32_t window
    cdef public uint16_t flags          # TASK_F_*
    cdef public uint16_t group

cdef class Mailbox:
    cdef uint64_t actor
    cdef pr_mailbox *row
    cdef list unfinished        # calls that may be, where they are counted; None elsewhere
    cdef Segments own

cdef TaskContext here()
cdef TaskContext the_only()
cdef void set_variable(object variable)
cdef bytes base(TaskContext me)
cdef bytes task_id(pr_task *t, int attempt)
cdef bytes current_base()
cdef bint holds_for_others()
cdef bint holds_arrays()
cdef int hold_for_task(uint64_t handle, list ids) except -1
cdef set tasks_to_free()
cdef void sweep_too(object more)
cdef object submit(Target f, tuple args, dict kwargs, Mailbox box)
cdef object failed_call(Target f, uint64_t error, object instead)
cdef object split(tuple args, dict kwargs, list deps)
