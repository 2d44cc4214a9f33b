from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyray._core.layout cimport (
    pr_actor, pr_chunk, pr_dispatch, pr_events, pr_func, pr_header, pr_mailbox, pr_name, pr_object,
    pr_proc, pr_run, pr_slab, pr_task,
)

cdef extern from "spillfile.h" nogil:
    ctypedef struct pyray_spill_file:
        int fd
        uint64_t reserve
        bint in_memory
    bint pyray_spill_there(const pyray_spill_file *f)
    void pyray_spill_know(pyray_spill_file *f, int fd)
    uint64_t pyray_spill_free(const pyray_spill_file *f)
    int pyray_spill_write(const pyray_spill_file *f, const char *data, uint64_t n, uint64_t at)
    int pyray_spill_reserve(const pyray_spill_file *f, uint64_t at, uint64_t n)
    bint pyray_spill_punch(const pyray_spill_file *f, uint64_t at, uint64_t n)
    void pyray_spill_drop_cache(const pyray_spill_file *f, uint64_t at, uint64_t n)

# What one process knows of the session that it is attached to.  Private memory; there is one per
# process, at a constant address, so that every module of the core may keep the pointer.
cdef struct Ctx:
    char *base              # whole file, writable
    char *payload           # payload arena inside base, writable; the spill file comes after it
    const char *readonly    # the same, PROT_READ: what users' views point into
    pr_header *head
    pr_dispatch *dispatch
    pr_proc *procs
    pr_func *funcs
    pr_actor *actors
    pr_mailbox *mailboxes    # PR_MAX_PROCS for each actor
    pr_events *events       # for each process slot
    pr_chunk *chunks
    char *records
    pr_name *names          # of objects, by slot, where the record has no room
    uint32_t *units
    uint8_t *touched        # per unit: 1 once its pages exist; a hint of any process
    pr_slab *slabs
    pr_run *runs
    pr_proc *me
    uint32_t self           # this process's slot
    pyray_spill_file spill      # the spill file
    pyray_spill_file memory     # and the memfd
    int bell_fd             # eventfd that wakes the node
    uint32_t epoch          # +1 for each session of this process
    bint forked             # in a child that user code forked: nothing may be released or called
    bint broken             # the node is gone: calls raise, but views and holds stay sound
    bint attached
    int inflight            # calls that look into the memory at this moment; under the GIL
    uint32_t woken          # 1 + the process that this one has woken since it last waited; a hint
    # The last call to sweep (dispatch.sweep) that this process has followed between two tasks, or
    # idle.  What it does for others while a task waits does not count: what that holds stays held.
    uint32_t swept

cdef Ctx *get_ctx() noexcept nogil

cdef class Mapping:
    """Keeps the files mapped: every view into the store holds one."""
    cdef readonly int fd
    cdef readonly int spill_fd
    cdef char *base
    cdef char *readonly_base
    cdef size_t total
    cdef size_t payload_offset
    cdef size_t payload_bytes
    cdef size_t spill_bytes

    cdef int file_of(self, uint64_t off)
    cdef uint64_t place_in_file(self, uint64_t off)

cdef Mapping current_mapping()

cdef inline pr_object *object_at(Ctx *c, uint64_t handle) noexcept nogil:
    return <pr_object *>(c.records + <uint64_t>(<uint32_t>handle) * 128)

cdef inline pr_actor *actor_at(Ctx *c, uint64_t handle) noexcept nogil:
    return &c.actors[<uint32_t>handle]

cdef inline pr_mailbox *mailbox_at(Ctx *c, uint64_t actor, uint32_t proc) noexcept nogil:
    return &c.mailboxes[<uint64_t>(<uint32_t>actor) * 256 + proc]

cdef inline pr_task *task_at(Ctx *c, uint64_t handle) noexcept nogil:
    return <pr_task *>(c.records + <uint64_t>(<uint32_t>handle) * 128)
