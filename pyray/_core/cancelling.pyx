"""Cancelling tasks: the node's hands for it.

A task that nothing of the user's has run of is the node's with one compare-and-swap on its state,
and fails.  One that runs is asked to stop: see interrupts.pyx for what its process does then.
"""

from libc.stdint cimport uint32_t, uint64_t

from pyray._core.interrupts cimport cancelled_value, request
from pyray._core.layout cimport *
from pyray._core.mailboxes cimport wake_actor
from pyray._core.objects cimport alive, deps_of, returns_of, sealed
from pyray._core.records cimport (
    attempt_of, gen_in, gen_of, handle_of, next_record, plausible, stop_of,
)
from pyray._core.recovery cimport end_failed
from pyray._core.running cimport finish, store_error_at
from pyray._core.shm cimport Ctx, get_ctx, object_at, task_at
from pyray._core.tasks cimport task_id

from pyray._core.interrupts import SIGNAL

cdef extern from *:
    """
    #include <signal.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static void pr_signal_main_thread(int pid, int number)
    {
        syscall(SYS_tgkill, pid, pid, number);
    }
    """
    void pr_signal_main_thread(int pid, int number) nogil

cdef Ctx *C = get_ctx()

cdef int _signal = SIGNAL


cdef uint64_t state_of(uint64_t task) noexcept nogil:
    """A task's state word; 0 if it is over: its results are there, or it is gone."""
    cdef uint64_t s
    if not plausible(C, task):
        return 0
    s = at_load64(&task_at(C, task).state)
    if (gen_of(s) != gen_in(task) or (s & 0xFF) == TASK_FREE or (s & 0xFF) == TASK_DONE
            or (s & 0xFF) == TASK_ENDING):
        return 0
    return s


cdef inline bint waits_in_actor(pr_task *t, uint64_t handle, uint64_t s) noexcept nogil:
    """Whether an actor has claimed the call but not come to it.

    One that runs a call at a time is at it before it claims it (`current`), and a plain worker too.
    """
    return ((s & 0xFF) == TASK_CLAIMED and t.actor != 0 and (s >> 48) & 0xFF > C.self
            and at_load64(&C.procs[(s >> 48) & 0xFF].current) != handle)


cdef bint is_answered(pr_task *t) noexcept nogil:
    """Whether a task has its result stored, and only its record is not free yet."""
    cdef uint64_t *returns = returns_of(C, t)
    cdef int i
    for i in range(t.nreturns):
        if alive(C, returns[i]) and not sealed(C, returns[i]):
            return False
    return t.nreturns != 0


def about(uint64_t task):
    """(status, attempt, whether it makes an actor, whether it is a call of one) of a task that is
    not over, else None."""
    cdef uint64_t s = state_of(task)
    cdef pr_task *t = task_at(C, task)
    if s == 0 or ((s & 0xFF) == TASK_RUNNING and is_answered(t)):
        return None
    creates = bool(t.flags & TASK_F_CREATES)
    return <int>(s & 0xFF), attempt_of(s), creates, t.actor != 0 and not creates


def ids_of(uint64_t task):
    """The 20 bytes of a task at each of its attempts until now: its children's parents."""
    cdef uint64_t s = state_of(task)
    cdef int i, begun = (s & 0xFF) == TASK_CLAIMED or (s & 0xFF) == TASK_RUNNING
    cdef list ids = [task_id(task_at(C, task), i) for i in range(attempt_of(s) + begun)]
    return ids if state_of(task) else []


def drop(uint64_t task, str name):
    """Fail a task that nothing of the user's has run of: the status that it had, or 0 if it is not
    such a one."""
    cdef pr_task *t = task_at(C, task)
    cdef uint64_t s, status, actor
    while True:
        s = state_of(task)
        status = s & 0xFF
        if s == 0 or t.flags & TASK_F_CREATES:
            return 0
        if (status != TASK_WAITING and status != TASK_READY and status != TASK_NODE
                and not waits_in_actor(t, task, s)):
            return 0
        if at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>C.self << 48)):
            break
    actor = t.actor
    end_failed(task, status, cancelled_value(task, name, "was cancelled before it started"))
    if actor:
        wake_actor(C, actor)    # it may be waiting for this call, and go when there is none
    return status


def stop(uint64_t task, bint children):
    """Ask whoever runs a task to stop: its slot; 0 if the task is over, 1 if nobody runs it now."""
    cdef pr_task *t = task_at(C, task)
    cdef uint64_t s = state_of(task)
    cdef uint32_t old
    if s == 0:
        return 0
    old = stop_of(t, task)
    at_store16(&t.stop, PR_STOP | (gen_in(task) & PR_STOP_GEN)
               | ((old + PR_STOP_COUNT) & PR_STOP_COUNTS)
               | (PR_STOP_CHILDREN if children else old & PR_STOP_CHILDREN))
    # After the wish: who starts it from now on sees that.
    s = state_of(task)
    if s == 0:
        return 0
    if (s & 0xFF) != TASK_CLAIMED and (s & 0xFF) != TASK_RUNNING:
        return 1
    return <int>((s >> 48) & 0xFF) if (s >> 48) & 0xFF > C.self else 0


def unheard(uint64_t task):
    """The slot of the process whose main thread runs a task that was asked to stop, and has not
    been interrupted for that; 0 if there is none."""
    cdef uint64_t s = state_of(task)
    cdef uint64_t p = (s >> 48) & 0xFF
    cdef uint32_t wish = stop_of(task_at(C, task), task)
    if s == 0 or wish == 0 or p <= C.self:
        return 0
    if (s & 0xFF) != TASK_CLAIMED and (s & 0xFF) != TASK_RUNNING:
        return 0
    if at_load64(&C.procs[p].current) != task:
        return 0        # over, or one of many in its process, which are told in another way
    if at_load64(&C.procs[p].told) == request(task, wish):
        return 0
    return <int>p


def cancelled(uint64_t task):
    """Whether a task that is not over was asked to stop."""
    return state_of(task) != 0 and stop_of(task_at(C, task), task) != 0


def runs(uint64_t task, uint32_t p):
    """Whether process p runs the task."""
    cdef uint64_t s = state_of(task)
    return (s & 0xFF) == TASK_RUNNING and (s >> 48) & 0xFF == p


def fail_cancelled(uint64_t task, str name, str how):
    """Have a task end as cancelled whose process is dead."""
    store_error_at(task, cancelled_value(task, name, how))
    finish(task)


def children_of(set ids):
    """Tasks not over that these tasks (by their 20 bytes) have submitted."""
    cdef uint64_t slot = 0, s, handle
    cdef pr_task *t
    cdef list found = []
    while next_record(C, KIND_TASKS, &slot):
        t = task_at(C, slot)
        s = at_load64(&t.state)
        if (s & 0xFF) == TASK_FREE or (s & 0xFF) == TASK_DONE or (s & 0xFF) == TASK_NEW:
            continue
        # What the driver and the node submit has no parent among tasks.
        if t.submitter <= C.self or (<const char *>t.parent_id)[:20] not in ids:
            continue
        handle = handle_of(slot, s)
        if state_of(handle):
            found.append(handle)
    return found


def awaited_by(uint64_t task):
    """Tasks that make the arguments that a task still waits for."""
    cdef pr_task *t = task_at(C, task)
    cdef pr_dep *d
    cdef uint32_t i
    cdef uint64_t s = state_of(task)
    cdef list found = []
    if (s & 0xFF) != TASK_WAITING:
        return found
    d = deps_of(C, t)
    for i in range(t.ndeps):
        if alive(C, d[i].object) and not sealed(C, d[i].object):
            if object_at(C, d[i].object).task:
                found.append(object_at(C, d[i].object).task)
    return found if state_of(task) == s else []


def interrupt(int pid):
    """Send a process the signal that has it look whether its task is to stop.

    To its main thread, which may be in a call that a signal to another thread would not end.
    """
    pr_signal_main_thread(pid, _signal)
