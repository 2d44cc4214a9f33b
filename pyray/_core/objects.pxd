from libc.stdint cimport int64_t, uint32_t, uint64_t
from pyray._core.layout cimport (
    OBJ_CREATED, OBJ_FREEING, OBJ_INLINE, OBJ_OPEN, OBJ_SEALED, PR_BY, PR_GEN_MASK, PR_INLINE_DEPS,
    PR_VERSION_ONE, pr_dep, pr_object, pr_task,
)
from pyray._core.shm cimport Ctx

cdef enum:
    # Added to a waiter's events to make it look at once, whatever number it waits for.
    ALARM = 1 << 20

cdef inline bint is_there(uint64_t s) noexcept nogil:
    """Whether an object in this state is one, and not about to go."""
    return (s & 0xFF) == OBJ_SEALED or (s & 0xFF) == OBJ_CREATED or (s & 0xFF) == OBJ_OPEN

cdef inline uint64_t next_version(uint64_t s) noexcept nogil:
    """The state after one more process has come to hold the object."""
    s += PR_VERSION_ONE
    return s if s >> 48 else s + PR_VERSION_ONE

cdef inline bint has_block(pr_object *o, uint64_t s) noexcept nogil:
    """Whether an object that is sealed, open or to be freed has room in the arena."""
    return not s & OBJ_INLINE and o.size != 0

cdef inline uint64_t freeing(Ctx *c, uint64_t s) noexcept nogil:
    """The state of an object that this process frees."""
    return (s & (PR_GEN_MASK | 0xFF00)) | OBJ_FREEING | PR_BY(c.self)

cdef void hold_for(Ctx *c, uint64_t handle, uint32_t p) noexcept nogil
cdef void finish_free(Ctx *c, uint64_t handle, uint64_t s) noexcept nogil
cdef bint hold(Ctx *c, uint64_t handle) noexcept nogil
cdef void unhold(Ctx *c, uint64_t handle) noexcept nogil
cdef void finish_free(Ctx *c, uint64_t handle, uint64_t s) noexcept nogil
cdef void try_free(Ctx *c, uint64_t handle) noexcept nogil
cdef bint seal(Ctx *c, uint64_t handle, uint64_t flags) noexcept nogil
cdef void open_object(Ctx *c, uint64_t handle) noexcept nogil
cdef bint seal_open(Ctx *c, uint64_t handle, uint64_t s) noexcept nogil
cdef bint await_object(Ctx *c, uint64_t handle, uint64_t task, uint32_t index) noexcept nogil
cdef bint task_ready(Ctx *c, uint64_t task) noexcept nogil
cdef void enqueue(Ctx *c, uint64_t task) noexcept nogil
cdef void raise_depth(Ctx *c, uint64_t object, uint32_t depth, int levels) noexcept nogil
cdef void notify_all(Ctx *c) noexcept nogil
cdef int waiter_open(Ctx *c) noexcept nogil
cdef int waiter_of_bridge(Ctx *c) noexcept nogil
cdef void waiter_close(Ctx *c, int waiter) noexcept nogil
cdef bint register_waiter(Ctx *c, uint64_t handle, int waiter) noexcept nogil
cdef bint sealed(Ctx *c, uint64_t handle) noexcept nogil
cdef bint alive(Ctx *c, uint64_t handle) noexcept nogil

cdef inline pr_dep *deps_of(Ctx *c, pr_task *t) noexcept nogil:
    if t.ndeps <= PR_INLINE_DEPS:
        return t.dep
    return <pr_dep *>(c.payload + t.ext)

cdef inline uint64_t *returns_of(Ctx *c, pr_task *t) noexcept nogil:
    if t.nreturns <= 1:
        return &t.ret0
    if t.ndeps <= PR_INLINE_DEPS:
        return <uint64_t *>(c.payload + t.ext)
    return <uint64_t *>(c.payload + t.ext + t.ndeps * sizeof(pr_dep))
