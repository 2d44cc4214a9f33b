# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Threads that stand for processes: each has a slot, a Ctx and allocators of its own, and runs the
core's code as it is, on one shared memory.  `races.py` builds it with ThreadSanitizer and says why.

What goes round, without the GIL and without any lock: tasks are written, queued, claimed and run;
their results, blocks of the arena, are filled, sealed, read, handed from one to another and freed.
Everything that is read was written by another thread with plain stores, so a missing release or
acquire anywhere on its way is a report.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from pyray._core.arena cimport arena, pyray_arena
from pyray._core.dispatch cimport next_task, token_release
from pyray._core.heap cimport heap_alloc, heap_reset, heap_trim, heap_used
from pyray._core.layout cimport *
from pyray._core.mailboxes cimport (
    Reader, Segments, box_push, next_call, reader_open, settle_all,
)
from pyray._core.objects cimport (
    await_object, deps_of, enqueue, hold, register_waiter, seal, sealed, task_ready, unhold,
    waiter_close, waiter_open,
)
from pyray._core.queues cimport queue_claim, queue_push, queues_reset
from pyray._core.records cimport object_new, records_reset, task_new, task_recycle
from pyray._core.shm cimport Ctx, get_ctx, mailbox_at, object_at, task_at

from pyray._core import shm

cdef extern from "string.h" nogil:
    void *memset(void *p, int c, size_t n)

cdef enum:
    FIRST = 2               # slots 0 and 1 are the driver's and the node's
    MAX_THREADS = 8
    OUT = 64                # calls that a thread awaits
    BOXES = 64              # places where objects change hands
    ACTOR = 1
    LARGEST = 40000
    HEAP_FULL_LIMIT = 64 << 20
    WRONG_DATA = 1
    RUN_TWICE = 2
    GONE = 3

cdef struct Wait:
    uint64_t object         # handle of the result, held
    uint64_t number
    bint used

# A handle on its way: `state` 0 free, 1 being filled, 2 offered, 3 taken, 4 the taker holds it.
cdef struct Box:
    uint32_t state
    uint32_t giver
    uint64_t object
    uint64_t number

cdef Box _boxes[64]
cdef uint8_t *_runs = NULL          # how often each task was run
cdef uint64_t _numbers = 0          # tasks made
cdef uint64_t _room = 0
cdef uint32_t _done = 0             # threads that submit no more
cdef uint32_t _threads = 0
cdef uint32_t _failure = 0
cdef Ctx *C = get_ctx()


def prepare(uint32_t threads, uint64_t tasks):
    """The session's memory."""
    global _runs, _room, _threads, _numbers, _done, _failure
    cdef pr_actor *a
    fd = shm.create(64 << 20, 1 << 30, threads)
    shm.attach(fd, FIRST)
    C.head.procs_high = FIRST + threads
    C.bell_fd = -1
    free(_runs)
    _runs = <uint8_t *>calloc(tasks, 1)
    _room = tasks
    _threads = threads
    _numbers = _done = _failure = 0
    memset(_boxes, 0, sizeof(_boxes))
    # An actor, which the last thread is.
    a = &C.actors[ACTOR]
    a.proc = FIRST + threads - 1
    a.state = (<uint64_t>1 << PR_GEN_SHIFT) | ACTOR_ALIVE
    C.head.actors_high = ACTOR + 1


cdef struct Thread:
    Ctx ctx
    Wait out[64]
    Segments own
    Reader reader
    uint64_t random
    uint64_t ops
    uint64_t ran
    uint64_t calls
    uint64_t passed
    uint64_t full
    uint64_t woken


cdef inline uint64_t rnd(Thread *t) noexcept nogil:
    t.random ^= t.random << 13
    t.random ^= t.random >> 7
    t.random ^= t.random << 17
    return t.random >> 11


cdef void fail(uint32_t what) noexcept nogil:
    at_cas32(&_failure, 0, what)


cdef uint64_t size_of(uint64_t number) noexcept nogil:
    """Of a task's result: mostly small blocks, some of one or two units."""
    cdef uint64_t n = number * <uint64_t>2654435761 % 1000
    if n < 900:
        return 64 + n
    return 8192 + (n - 900) * 300


cdef bint right(Ctx *c, uint64_t handle, uint64_t number) noexcept nogil:
    """Whether an object that is sealed holds its task's result."""
    cdef pr_object *o = object_at(c, handle)
    cdef uint64_t i, size = o.size
    cdef const uint8_t *p = <const uint8_t *>c.payload + o.off
    if size != size_of(number):
        return False
    for i in range(0, size, 61):
        if p[i] != <uint8_t>(number + 1):
            return False
    return p[size - 1] == <uint8_t>(number + 1)


cdef void run(Thread *t, uint64_t handle) noexcept nogil:
    """Run a claimed task: check what was submitted, write a result."""
    cdef Ctx *c = &t.ctx
    cdef pr_task *task = task_at(c, handle)
    cdef uint64_t number = task.counter, ret = task.ret0, size, off, s
    cdef pr_object *o
    cdef int i
    s = at_load64(&task.state)
    if (s & 0xFF) != TASK_CLAIMED or (s >> 48) & 0xFF != c.self:
        fail(RUN_TWICE)
    at_store_release64(&task.state, (s & ~<uint64_t>0xFF) | TASK_RUNNING)
    for i in range(PR_INLINE_ARGS):
        if task.args[i] != <uint8_t>(number + i):
            fail(WRONG_DATA)
    if at_add8(&_runs[number], 1) != 0:
        fail(RUN_TWICE)
    if task.ndeps:
        # Its argument is there: whoever sealed it wrote it before.
        if not sealed(c, deps_of(c, task)[0].object):
            fail(GONE)
        elif not right(c, deps_of(c, task)[0].object, task.produced):
            fail(WRONG_DATA)
    size = size_of(number)
    off = heap_alloc(c, size)
    while off == <uint64_t>0xFFFFFFFFFFFFFFFF:
        t.full += 1
        reap(t, True)
        heap_trim(c)
        off = heap_alloc(c, size)
    memset(c.payload + off, <uint8_t>(number + 1), size)
    o = object_at(c, ret)
    o.off = off
    o.size = size
    seal(c, ret, 0)
    at_store64(&task.state, (at_load64(&task.state) & PR_KEEP_ATTEMPT) | TASK_DONE)
    task_recycle(c, handle)
    t.ran += 1


cdef void submit(Thread *t) noexcept nogil:
    cdef Ctx *c = &t.ctx
    cdef uint64_t handle, ret, number
    cdef pr_task *task
    cdef pr_dep *d
    cdef Wait *w = NULL
    cdef Wait *arg = NULL
    cdef bint call = (rnd(t) & 7) == 0 and c.self != FIRST + _threads - 1
    cdef int i, k
    for i in range(OUT):
        if not t.out[i].used:
            w = &t.out[i]
            break
    if w == NULL:
        return
    number = at_add64(&_numbers, 1)
    if number >= _room:
        return
    ret = object_new(c)
    handle = task_new(c)
    if ret == 0 or handle == 0:
        fail(GONE)
        return
    hold(c, ret)
    task = task_at(c, handle)
    object_at(c, ret).task = handle
    task.counter = number
    task.ret0 = ret
    task.nreturns = 1
    task.ndeps = 0
    task.ext = 0
    task.shape = 0
    task.depth = <unsigned short>(rnd(t) & 3)
    at_store_relaxed64(&task.actor, 0)
    for i in range(PR_INLINE_ARGS):
        task.args[i] = <uint8_t>(number + i)
    if not call and rnd(t) & 3 == 0:
        k = <int>(rnd(t) % OUT)
        if t.out[k].used:
            arg = &t.out[k]
    w.object = ret
    w.number = number
    w.used = True
    if arg != NULL:
        # Its id is held by this thread until the task is done: see reap.
        task.ndeps = 1
        d = deps_of(c, task)
        d.object = arg.object
        d.position = 0
        d.ready = 0
        task.produced = <uint32_t>arg.number
        at_store64(&task.state, (at_load_relaxed64(&task.state) & ~<uint64_t>0xFF) | TASK_WAITING)
        await_object(c, d.object, handle, 0)
        if task_ready(c, handle):
            enqueue(c, handle)
        while not sealed(c, ret):
            work(t)
        return
    if call:
        at_store_relaxed64(&task.actor, (<uint64_t>1 << 32) | ACTOR)
    at_store_release64(&task.state, (at_load_relaxed64(&task.state) & ~<uint64_t>0xFF) | TASK_READY)
    if call:
        while not box_push(c, mailbox_at(c, task.actor, c.self), task.actor, &t.own, handle):
            work(t)
    elif not queue_push(c, handle, task.depth):
        fail(GONE)


cdef bint work(Thread *t) noexcept nogil:
    """Run one task that is ready, whoever's."""
    cdef uint64_t task, assigned = 0
    if t.ctx.self == FIRST + _threads - 1:
        task = next_call(&t.ctx, &t.reader, 0)
        if task:
            t.calls += 1
            run(t, task)
            settle_all(&t.ctx, &t.reader)
            return True
    if rnd(t) & 15 == 0:
        # As a worker does: with a CPU's token, or parked until somebody wakes it.
        task = next_task(&t.ctx, &assigned, 200000)
        if task:
            t.woken += 1
            run(t, task)
            token_release(&t.ctx)
            return True
    task = queue_claim(&t.ctx)
    if task == 0:
        cpu_yield()
        return False
    run(t, task)
    return True


cdef void offer(Thread *t, Wait *w) noexcept nogil:
    """Put an object where another thread may take it, and let go of it once that one holds it."""
    cdef Box *b = &_boxes[rnd(t) % BOXES]
    if at_cas32(&b.state, 0, 1):
        at_store_relaxed32(&b.giver, t.ctx.self)
        b.object = w.object
        b.number = w.number
        at_store_release32(&b.state, 2)
        t.passed += 1
    else:
        unhold(&t.ctx, w.object)
    w.used = False


cdef void look_round(Thread *t) noexcept nogil:
    """Take what others offer; let go of what they have taken."""
    cdef Box *b = &_boxes[rnd(t) % BOXES]
    cdef uint32_t state = at_load32(&b.state)
    cdef uint64_t object, number
    if state == 2 and at_cas32(&b.state, 2, 3):
        object = b.object
        number = b.number
        if not hold(&t.ctx, object):
            fail(GONE)
        if not right(&t.ctx, object, number):
            fail(WRONG_DATA)
        if at_load_relaxed32(&b.giver) != t.ctx.self:
            # The giver lets go at any moment from now on; one of us is the last.
            at_store_release32(&b.state, 4)
            if not right(&t.ctx, object, number):
                fail(WRONG_DATA)
            unhold(&t.ctx, object)
        else:
            unhold(&t.ctx, object)
            at_store_release32(&b.state, 0)
    elif state == 4 and at_load32(&b.state) == 4 and at_load_relaxed32(&b.giver) == t.ctx.self:
        object = b.object
        at_store_release32(&b.state, 0)
        unhold(&t.ctx, object)


cdef void reap(Thread *t, bint all) noexcept nogil:
    """Look at results that are there."""
    cdef Ctx *c = &t.ctx
    cdef Wait *w
    cdef int i, waiter = -1
    for i in range(OUT):
        w = &t.out[i]
        if not w.used:
            continue
        if not sealed(c, w.object):
            if rnd(t) & 7 == 0:
                waiter = waiter_open(c)
                if waiter >= 0:
                    register_waiter(c, w.object, waiter)
                    waiter_close(c, waiter)
            continue
        if not right(c, w.object, w.number):
            fail(WRONG_DATA)
        if rnd(t) & 1:
            offer(t, w)
        else:
            unhold(c, w.object)
            w.used = False
        if not all and rnd(t) & 3 == 0:
            return


cdef bint outstanding(Thread *t) noexcept nogil:
    cdef int i
    for i in range(OUT):
        if t.out[i].used:
            return True
    return False


def thread(uint32_t index, uint64_t ops, uint64_t seed):
    """Be process FIRST + index for so many steps; gives what was done."""
    cdef Thread *t = <Thread *>calloc(1, sizeof(Thread))
    cdef uint64_t _, what
    cdef uint32_t k
    cdef Box *b
    t.ctx = C[0]
    t.ctx.self = FIRST + index
    t.ctx.me = &C.procs[FIRST + index]
    t.random = seed * <uint64_t>0x9E3779B97F4A7C15 + index + 1
    with nogil:
        # This thread's own, with which it begins as a process does.
        memset(arena(), 0, sizeof(pyray_arena))
        arena().fd = -1
        records_reset()
        t.ctx.attached = False      # no table of pages
        heap_reset(&t.ctx)
        queues_reset(&t.ctx)
        reader_open(&t.reader, (<uint64_t>1 << 32) | ACTOR, True)
        t.ctx.me.role = ROLE_WORKER
        at_store32(&t.ctx.me.status, PROC_ALIVE)
        for _ in range(ops):
            what = rnd(t) & 15
            if what < 5:
                submit(t)
            elif what < 10:
                work(t)
            elif what < 13:
                reap(t, False)
            else:
                look_round(t)
            t.ops += 1
            if at_load_relaxed32(&_failure):
                break
        # Bring everything to an end.
        while outstanding(t) and not at_load_relaxed32(&_failure):
            work(t)
            reap(t, True)
            look_round(t)
        at_add32(&_done, 1)
        while at_load32(&_done) < _threads:
            work(t)
            look_round(t)
        for k in range(BOXES):
            b = &_boxes[k]
            # Whoever offered it takes it back; or lets go of what was taken.
            if at_load_relaxed32(&b.giver) == t.ctx.self and (
                    at_cas32(&b.state, 2, 0) or at_cas32(&b.state, 4, 0)):
                unhold(&t.ctx, b.object)
        heap_trim(&t.ctx)
    made = {"ops": t.ops, "ran": t.ran, "calls": t.calls, "passed": t.passed, "full": t.full,
            "by_token": t.woken}
    free(t)
    return made


def end():
    """(what went wrong or 0, tasks made, tasks not run once, records left, units in use)"""
    cdef uint64_t i, made = min(_numbers, _room), wrong = 0
    from pyray._core import records
    for i in range(made):
        wrong += _runs[i] != 1
    left = records.live_records()
    units = heap_used(C)
    shm.detach()
    return _failure, made, wrong, left, units


def run_all(uint32_t threads, uint64_t ops, uint64_t seed):
    """The threads, from start to end."""
    import threading
    prepare(threads, threads * ops)
    found = []
    started = [threading.Thread(target=lambda i=i: found.append(thread(i, ops, seed)))
               for i in range(threads)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    total = {key: sum(f[key] for f in found) for key in found[0]}
    failure, made, wrong, left, units = end()
    return {**total, "failure": failure, "made": made, "not_once": wrong, "left": left,
            "units": units}
