"""The node's hands: what its shell does to shared memory.

Processes' slots, tokens lent to tasks with resources of their own, handing such a task to a worker,
queueing or failing a task whose worker died.  Only the node process calls these.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset, strerror, strncpy
from pyray._core.dispatch cimport (
    pop_idle, rescue, ring_node, set_alarm, tokens_for_node, tokens_from_node, wake_process,
)
from pyray._core.events cimport note_for, outcome_of
from pyray._core.layout cimport *
from pyray._core.objects cimport alive, enqueue, notify_all, returns_of, sealed
from pyray._core.queues cimport node_queue_pop, queue_length, queue_visible_slow
from pyray._core.records cimport (
    attempt_bits, attempt_of, gen_in, gen_of, plausible, shape_of, stop_of,
)
from pyray._core.shm cimport Ctx, get_ctx, task_at
from pyray._core.running cimport finish, store_error_at
from pyray._core.streams cimport settle_stream

cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC

cdef extern from "<sys/timerfd.h>" nogil:
    int timerfd_create(int clock, int flags)
    int TFD_CLOEXEC, TFD_NONBLOCK

cdef Ctx *C = get_ctx()


def set_bell(int fd):
    """The eventfd that wakes the node."""
    C.bell_fd = fd


# ---- processes -----------------------------------------------------------------------------

def reserve_slot(bint dedicated):
    """A free process slot, now STARTING; None when all are taken."""
    cdef uint32_t p
    for p in range(2, PR_MAX_PROCS):
        if at_load32(&C.procs[p].status) == PROC_FREE:
            C.procs[p].role = ROLE_DEDICATED if dedicated else ROLE_WORKER
            C.procs[p].pid = 0
            C.procs[p].assigned = 0
            C.procs[p].current = 0
            C.procs[p].blocked = 0
            C.procs[p].shaped = SHAPED_NONE
            C.procs[p].refused = 0
            C.procs[p].depth = 0
            C.procs[p].token = 0
            C.procs[p].counter = 0
            at_store32(&C.procs[p].status, PROC_STARTING)
            if C.head.procs_high < p + 1:
                at_store32(&C.head.procs_high, p + 1)
            return p
    return None


def release_slot(uint32_t p):
    """A reserved slot whose process could not be started."""
    at_store32(&C.procs[p].status, PROC_FREE)


def live_slots():
    """Slots of processes that are starting or alive, but for the driver's and the node's."""
    return [p for p in range(2, C.head.procs_high)
            if at_load32(&C.procs[p].status) in (PROC_STARTING, PROC_ALIVE)]


def set_blocked(bint blocked):
    """This process is not to count as able to run tasks."""
    at_store32(&C.me.blocked, blocked)


def process_view(uint32_t p):
    """(status, blocked, shaped, running task's handle, tasks run) of a process."""
    cdef pr_proc *q = &C.procs[p]
    return (at_load32(&q.status), at_load32(&q.blocked), at_load32(&q.shaped),
            at_load64(&q.current), q.counter)


def stop_all():
    """The session ends: everybody who waits is woken and told."""
    cdef uint32_t p
    at_store32(&C.dispatch.stopping, 1)
    notify_all(C)
    for p in range(C.head.procs_high):
        at_add32(&C.procs[p].wake, 1)
        futex_wake(&C.procs[p].wake, 1)


def stopping():
    """Whether the session has been told to end."""
    return bool(at_load32(&C.dispatch.stopping))


def refuse(uint32_t p, uint32_t limit):
    """A blocked process cannot be replaced at the limit of processes: its wait is to raise."""
    at_store32(&C.procs[p].refused, limit + 1)
    notify_all(C)


# ---- work that waits for a worker ----------------------------------------------------------

def take_spawn_request():
    """Whether work is ready, and a token free, that no idle worker can take."""
    if at_xchg32(&C.dispatch.spawn_wanted, 0) == 0:
        return False
    return bool(queue_visible_slow(C)) and token_counts()[0] > 0


def look_again():
    """After a worker has come up, died, or been given something: make sure that work is seen."""
    rescue(C)


def new_shaped_tasks():
    """[(handle, shape, depth)] of tasks that ask for resources of their own since the last call."""
    cdef uint32_t p
    cdef uint64_t handle, s
    cdef pr_task *t
    cdef list out = []
    for p in range(at_load32(&C.head.procs_high)):
        while True:
            handle = node_queue_pop(C, p)
            if handle == 0:
                break
            if not plausible(C, handle):
                continue
            t = task_at(C, handle)
            s = at_load64(&t.state)
            if (s & 0xFF) == TASK_NODE and gen_of(s) == gen_in(handle):
                out.append((handle, shape_of(t), t.depth))
    return out


def take_tokens(uint32_t n):
    """Take up to n free CPU tokens for the node; workers hand in the rest between tasks."""
    return tokens_for_node(C, n)


def want_tokens(uint32_t n):
    """How many tokens workers are to hand in; returns how many of the last wish came in."""
    return at_xchg32(&C.dispatch.node_wants, n)


def wanted_tokens():
    return at_load32(&C.dispatch.node_wants)


def give_tokens(uint32_t n):
    """Give tokens of the node's back."""
    return tokens_from_node(C, n)


def lend_tokens(uint32_t n):
    """So many tokens are with actors and placement groups."""
    at_store32(&C.dispatch.lent, n)


def token_counts():
    """(free, held by the node, held by workers)."""
    cdef uint32_t i, v, free_ = 0, node = 0
    for i in range(C.head.num_tokens):
        v = at_load32(&C.dispatch.token[i])
        if v == 0:
            free_ += 1
        elif v == 2:
            node += 1
    return free_, node, C.head.num_tokens - free_ - node


def available_tokens():
    """Tokens that nobody's task holds: free ones, and those of workers that look for work."""
    cdef uint32_t i, v, n = 0
    for i in range(C.head.num_tokens):
        v = at_load32(&C.dispatch.token[i])
        if v == 0 or (v != 2 and at_load64(&C.procs[v - 1].current) == 0):
            n += 1
    return n


def idle_workers():
    """Number of parked workers."""
    cdef int w
    cdef uint64_t v
    cdef int n = 0
    for w in range(4):
        v = at_load64(&C.dispatch.idle[w])
        while v:
            v &= v - 1
            n += 1
    return n


def assign(uint64_t task, str gpus):
    """Hand a task to an idle worker; its slot, or None when nobody is idle."""
    cdef int p = pop_idle(C)
    if p < 0:
        return None
    give(<uint32_t>p, task, gpus)
    return p


def assign_first(uint32_t p, uint64_t task, str gpus):
    """Give a dedicated worker that is about to be forked its first task."""
    give(p, task, gpus)


def assign_open(uint32_t p, uint64_t task, str gpus):
    """Give a dedicated worker another task; whether it was ready for one."""
    if not is_open(p):
        return False
    give(p, task, gpus)
    return True


cdef int give(uint32_t p, uint64_t task, str gpus) except -1:
    cdef bytes raw = gpus.encode()
    memset(C.procs[p].gpus, 0, 128)
    strncpy(C.procs[p].gpus, raw, 127)
    at_store32(&C.procs[p].shaped, SHAPED_RUNS)
    at_store64(&C.procs[p].assigned, task)
    wake_process(C, p)
    return 0


def is_open(uint32_t p):
    """Whether a dedicated worker is through with its task and ready for another."""
    return (at_load32(&C.procs[p].status) == PROC_ALIVE
            and at_load64(&C.procs[p].assigned) == ASSIGNED_OPEN)


def retire_idle():
    """Tell an idle worker to end; its slot, or None when nobody is idle."""
    cdef int p = pop_idle(C)
    if p < 0:
        return None
    at_store64(&C.procs[p].assigned, ASSIGNED_RETIRE)
    wake_process(C, <uint32_t>p)
    return p


def retire(uint32_t p):
    """Tell a dedicated worker to end once it is through with its task; not one that was given
    another."""
    cdef uint64_t v = at_load64(&C.procs[p].assigned)
    while v == 0 or v == ASSIGNED_OPEN:
        if at_cas64(&C.procs[p].assigned, v, ASSIGNED_RETIRE):
            wake_process(C, p)
            return
        v = at_load64(&C.procs[p].assigned)


def resume(uint32_t p):
    """A worker that wanted its CPUs back has them."""
    at_cas32(&C.procs[p].shaped, SHAPED_WANTS, SHAPED_RUNS)
    wake_process(C, p)


# ---- tasks whose worker died ---------------------------------------------------------------

def task_view(uint64_t handle):
    """(status, attempt, max_retries, shape, depth, func) of a task, or None if it is gone."""
    cdef pr_task *t
    cdef uint64_t s
    if not plausible(C, handle):
        return None
    t = task_at(C, handle)
    s = at_load64(&t.state)
    if gen_of(s) != gen_in(handle) or (s & 0xFF) == TASK_FREE:
        return None
    return (<int>(s & 0xFF), attempt_of(s), t.max_retries, shape_of(t), t.depth, t.func)


def task_target(uint64_t handle):
    """(actor or 0, whether the task makes it, number of the function or method) of a live task."""
    cdef pr_task *t = task_at(C, handle)
    return t.actor, bool(t.flags & TASK_F_CREATES), t.func


def current_of(uint32_t p):
    """Handle of the task that a process runs, or 0."""
    return at_load64(&C.procs[p].current)


def runner_of(uint64_t handle):
    """(pid, whether it is blocked in a wait) of the process that runs a task, or None."""
    cdef uint64_t s
    cdef pr_proc *q
    if not plausible(C, handle):
        return None
    s = at_load64(&task_at(C, handle).state)
    if gen_of(s) != gen_in(handle) or (s & 0xFF) not in (TASK_CLAIMED, TASK_RUNNING):
        return None
    q = &C.procs[(s >> 48) & 0xFF]
    return q.pid, bool(at_load32(&q.blocked))


def lost_task(uint32_t p):
    """The task that a dead process had claimed: (handle, started), or None.

    One whose returns are all sealed is finished here, on the dead process's behalf.
    """
    cdef uint64_t handle = at_load64(&C.procs[p].current)
    cdef pr_task *t
    cdef uint64_t s
    cdef uint64_t *rets
    cdef int i
    cdef bint done = True
    if handle == 0 or not plausible(C, handle):
        return None
    t = task_at(C, handle)
    s = at_load64(&t.state)
    if gen_of(s) != gen_in(handle) or ((s >> 48) & 0xFF) != p:
        return None
    if (s & 0xFF) != TASK_CLAIMED and (s & 0xFF) != TASK_RUNNING:
        return None
    if t.flags & TASK_F_STREAM:
        settle_stream(C, t)
    if (s & 0xFF) == TASK_RUNNING and t.nreturns:
        rets = returns_of(C, t)
        for i in range(t.nreturns):
            if alive(C, rets[i]) and not sealed(C, rets[i]):
                done = False
        if done:
            note_for(p, t, attempt_of(s), C.procs[p].started_ns, outcome_of(t))
            finish(handle)
            return None
    if (s & 0xFF) == TASK_RUNNING:
        note_for(p, t, attempt_of(s), C.procs[p].started_ns, EVENT_FAILED | EVENT_DIED
                 | (EVENT_CANCELLED if stop_of(t, handle) else 0))
    return handle, (s & 0xFF) == TASK_RUNNING


def requeue(uint64_t handle, int attempt):
    """Queue a lost task once more, from the node's own queue."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s = at_load64(&t.state)
    cdef uint64_t status = TASK_READY if t.shape == 0 else TASK_NODE
    at_store64(&t.state, (s & PR_GEN_MASK) | attempt_bits(attempt) | status)
    enqueue(C, handle)


def hold_back(uint64_t handle, int attempt):
    """Keep a lost task for this attempt, in no queue: `requeue` queues it.

    It stands as one that waits at the node, so that whoever cancels it, or finds its submitter
    dead, fails it as any that has not begun.
    """
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s = at_load64(&t.state)
    at_store64(&t.state, (s & PR_GEN_MASK) | attempt_bits(attempt) | TASK_NODE)


def fail(uint64_t handle, error):
    """Seal a lost task's returns with an exception."""
    cdef pr_task *t = task_at(C, handle)
    cdef uint64_t s = at_load64(&t.state)
    if (s & 0xFF) != TASK_RUNNING:
        note_for(0, t, attempt_of(s), 0, EVENT_FAILED | EVENT_NEVER)
    store_error_at(handle, error)
    finish(handle)


def fail_queued(uint64_t handle, error):
    """Seal a task's returns with an exception if it waits at the node; whether it did."""
    cdef pr_task *t
    cdef uint64_t s
    if not plausible(C, handle):
        return False
    t = task_at(C, handle)
    s = at_load64(&t.state)
    if gen_of(s) != gen_in(handle) or (s & 0xFF) != TASK_NODE:
        return False
    # By then a worker may have come to claim it.
    if not at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>C.self << 48)):
        return False
    fail(handle, error)
    return True


def has_claimed(uint32_t p, uint64_t handle):
    """Whether a process has taken up a task, and is not through with it."""
    cdef uint64_t s
    if not plausible(C, handle):
        return False
    s = at_load64(&task_at(C, handle).state)
    return (gen_of(s) == gen_in(handle) and (s >> 48) & 0xFF == p
            and ((s & 0xFF) == TASK_CLAIMED or (s & 0xFF) == TASK_RUNNING))


def fast_queue():
    """(tasks in all ready queues, depth of the deepest): hints."""
    cdef uint32_t p
    cdef uint64_t n = 0
    cdef int deepest = 0
    for p in range(at_load32(&C.head.procs_high)):
        n += queue_length(C, p)
        if at_load8(&C.dispatch.hint[p]) > deepest:
            deepest = at_load8(&C.dispatch.hint[p])
    return n, max(0, deepest - 1)


# ---- memory --------------------------------------------------------------------------------

def make_alarm():
    """A descriptor that becomes readable soon after `watched` has become true; for the node, which
    forks the workers, who inherit it."""
    cdef int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
    if fd < 0:
        raise OSError(errno, f"timerfd_create failed: {strerror(errno).decode()}")
    set_alarm(fd)
    return fd


def watched():
    """Whether memory is to be looked after: something has run since `unwatch`."""
    return bool(at_load32(&C.dispatch.watched))


def unwatch():
    """Stop looking after memory until something runs, unless something does by now."""
    cdef uint32_t p
    at_store32(&C.dispatch.watched, 0)
    for p in range(2, at_load32(&C.head.procs_high)):
        if at_load64(&C.procs[p].current):
            at_store32(&C.dispatch.watched, 1)


def leave_unwatched():
    """Nobody looks after memory in this session: nobody is to ring for it."""
    at_store32(&C.dispatch.watched, 1)


def began(uint32_t p):
    """When the task that a process runs began, in nanoseconds of CLOCK_MONOTONIC; 0: it runs
    several at once."""
    return C.procs[p].started_ns


def wake_everyone():
    """After a death: what waited for the dead looks again, and whoever it was about to wake."""
    cdef uint32_t p
    notify_all(C)
    for p in range(2, at_load32(&C.head.procs_high)):
        if at_load32(&C.procs[p].status) == PROC_ALIVE:
            wake_process(C, p)
    rescue(C)


def ring():
    """Have the node look at shared memory."""
    ring_node(C)


def my_gpus():
    """GPU ids that the node gave this process's task, as one string."""
    return (<const char *>C.me.gpus).decode()


def sweeps():
    """How often somebody who found the store full has asked everybody to let go."""
    return at_load32(&C.dispatch.sweep)


def ask_sweep():
    """Ask everybody to let go of what they hold for nothing."""
    at_add32(&C.dispatch.sweep, 1)
    ring_node(C)


def wake_workers():
    """Have idle workers come out of their wait, to do their chores."""
    cdef uint32_t p
    for p in range(2, at_load32(&C.head.procs_high)):
        if at_load32(&C.procs[p].status) == PROC_ALIVE:
            wake_process(C, p)


def depth_of(uint32_t p):
    """Depth of the task that a process runs."""
    return at_load32(&C.procs[p].depth)
