"""get and wait: how a process waits for objects, and what it does with its CPU meanwhile.

A wait registers one waiter with the objects that are missing.  Each seal adds one to the waiter's
count of events; only the one that completes the wait wakes the process.  A wake-up is a hint: the
waiter looks at the objects again, and every 0.1 s it looks round besides, for signals, deaths, and
work that nobody has picked up.

A task that waits gives its CPU to whoever can use it.  That may be the task's own thread, in get or
wait; and it may be a future that the task has made, by `await` or `ref.future()`, since nobody can
tell what its threads and loops do until the object is there.  So a task *counts as waiting* while
its own thread is in get or wait, or while anything of the second sort is pending; it takes a CPU
again when its own thread next comes by here after that.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from pyray._core.dispatch cimport (
    alone_on_cpu, announce, rescue, ring_node, token_release, token_resume, token_take,
)
from pyray._core.holds cimport Pin, pin, sweep_now
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.objects cimport raise_depth, register_waiter, sealed, waiter_close, waiter_open
from pyray._core.queues cimport queue_more
from pyray._core.shm cimport Ctx, current_mapping, get_ctx, object_at
from pyray._core.store cimport ObjectID, check_id
from pyray._core.values cimport load_raw, load_value

from pyray._core import serializer
from pyray._core.errors import (
    GetTimeoutError, ProcessLimitError, SessionError, without_core,
)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef extern from *:
    """
    /* Both lines of a record: its state, and its value. */
    #define PR_PREFETCH_ID(id) __builtin_prefetch(id)
    #define PR_PREFETCH_RECORD(o) (__builtin_prefetch(o), __builtin_prefetch((char *)(o) + 64))
    """
    void PR_PREFETCH_ID(void *id) noexcept nogil
    void PR_PREFETCH_RECORD(void *o) noexcept nogil

cdef Ctx *C = get_ctx()

cdef enum:
    AHEAD = 8               # of what a loop over many ids or records will look at next
    SPIN_NS = 30000         # a waiter looks this long before it parks
    WOKEN_NS = 200000       # longer, if it had to wake whoever does the work, and that one is up
    CHUNK_NS = 100000000    # and parks this long before it looks round: signals, deaths, strays

cdef unsigned long _task_thread = 0
cdef bint _task_on = False          # a task of the user's runs
cdef uint32_t _task_number = 0      # which one: what an earlier one left pending does not count
cdef Py_ssize_t _pending = 0        # waits of the running task outside of its own thread
cdef bint _given_up = False         # the running task has given its CPU up
cdef bint _resuming = False         # its thread is about to take one again
cdef uint32_t _mark = 0
cdef object _doing = None           # (task's handle) -> what the task is doing, in words
cdef object _tick = None            # called about every 0.1 s of a wait: (seconds, [ids])
cdef object _interrupted = None     # called when Ctrl-C ends a wait of the driver's: ([ids])


def set_tick(tick):
    """Have `tick(seconds, ids)` called some ten times a second by a wait that takes long."""
    global _tick
    _tick = tick


def set_interrupted(interrupted):
    """Have `interrupted(ids)` called when Ctrl-C has ended a wait of the driver's."""
    global _interrupted
    _interrupted = interrupted


def set_doing(doing):
    """Have `doing(task)` say in words what a task is doing that a wait gave up on."""
    global _doing
    _doing = doing


cdef str missing(ObjectID oid):
    """What is known of an object that is not there, for a message."""
    cdef uint64_t task = object_at(C, oid.handle).task
    if task == 0 or _doing is None:
        return repr(oid)
    try:
        return f"{_doing(task)} ({oid!r})"
    except Exception:
        return repr(oid)


cdef int call_tick(int64_t ns, list ids) except -1:
    if _tick is not None:
        _tick(ns / 1e9, ids)
    return 0


cdef void set_task_thread(bint on):
    """From now on the calling thread runs tasks: its waits give the CPU back."""
    global _task_thread
    _task_thread = PyThread_get_thread_ident() if on else 0


cdef bint on_task_thread():
    return _task_thread != 0 and PyThread_get_thread_ident() == _task_thread


cdef void begin_task():
    """A task of the user's is about to run in the calling thread."""
    global _task_on, _task_number, _pending, _given_up
    _task_on = True
    _task_number = _task_number + 1 if _task_number != <uint32_t>-1 else 1
    _pending = 0
    _given_up = False


cdef int end_task() except -1:
    """It is over.  What it left pending counts no more; without its CPU, the worker looks for one
    together with its next task, but CPUs that the node lends an actor are to be had back."""
    global _task_on, _pending, _given_up
    _task_on = False
    _pending = 0
    if _given_up:
        _given_up = False
        if C.me.shaped == SHAPED_BLOCKED:
            unblock(False)
        at_store32(&C.me.blocked, 0)
    return 0


cdef uint32_t count_in(uint64_t *handles, Py_ssize_t n):
    """The running task counts as waiting, for these objects, until `count_out` of what this
    returns; for waits outside of its thread, from any thread.  0 if no task runs."""
    global _pending
    if not _task_on:
        return 0
    _pending += 1
    give_up(handles, n)
    return _task_number


cdef void count_out(uint32_t number):
    global _pending
    if number and number == _task_number and _task_on:
        _pending -= 1


cdef void give_up(uint64_t *handles, Py_ssize_t n):
    global _given_up
    cdef Py_ssize_t i
    for i in range(n):
        if not sealed(C, handles[i]):
            raise_depth(C, handles[i], C.me.depth + 1, 0)
    # While the task's own thread takes a CPU it must not be taken from it: it looks afterwards.
    if not _given_up and not _resuming:
        _given_up = True
        block()


cdef int settle(bint interrupted=False) except -1:
    """Have the running task take its CPU again if it waits for nothing any more; called whenever
    its own thread comes by."""
    global _given_up, _resuming
    if not _given_up or _pending or C.forked or not on_task_thread():
        return 0
    _resuming = True
    try:
        unblock(interrupted)
    finally:
        _given_up = False
        _resuming = False
    if _pending:
        give_up(NULL, 0)    # another thread's wait began meanwhile
    return 0


cdef Py_ssize_t count_sealed(uint64_t *handles, Py_ssize_t n, Py_ssize_t need,
                             bint *error) noexcept nogil:
    """How many are there; stops at `need`.  `error`: one of those seen is an error."""
    cdef Py_ssize_t i, ready = 0
    cdef uint64_t s
    for i in range(n):
        if i + AHEAD < n:
            PR_PREFETCH_RECORD(object_at(C, handles[i + AHEAD]))
        s = at_load64(&object_at(C, handles[i]).state)
        if (s & 0xFF) == OBJ_SEALED:
            ready += 1
            if s & OBJ_ERROR:
                error[0] = True
            if ready >= need:
                break
    return ready


cdef bint worth_spinning(int64_t spun, uint32_t woken) noexcept nogil:
    """Whether to look on after so many ns, having woken process `woken` - 1 (0: none)."""
    if spun <= SPIN_NS:
        return True
    # Who has not come up by then may be queued for this very CPU.
    return (woken != 0 and spun <= WOKEN_NS
            and at_load_relaxed32(&C.procs[woken - 1].cpu) != 0)


cdef void sleep_on(pr_waiter *w, int64_t until, bint patient) noexcept nogil:
    """Spin, then park, until enough events came in or the time is up or a signal came.

    `patient`: spin longer where somebody had to be woken for it.
    """
    cdef uint32_t woken = C.woken if patient else 0
    cdef int64_t start = now_ns(), left
    cdef int i, _
    C.woken = 0
    while True:
        if <int>(at_load_relaxed32(&w.events) - w.target) >= 0:
            return
        left = now_ns()
        if not worth_spinning(left - start, woken) or left > until or not alone_on_cpu(C):
            break
        for _ in range(20):
            cpu_pause()
    while True:
        left = until - now_ns()
        if left <= 0:
            return
        at_store32(&w.parked, 1)
        # After the announcement: who counts on before it is seen here, who does so after it looks
        # at `parked`.  We sleep on that word and not on `events`: whoever takes it back may have
        # meant an earlier round, and nobody else would wake us then.
        if <int>(at_load32(&w.events) - w.target) >= 0:
            at_store32(&w.parked, 0)
            return
        at_store_relaxed32(&C.me.parked_on, cpu_here())
        at_store_relaxed32(&C.me.cpu, 0)
        i = futex_wait(&w.parked, 1, left)
        at_store_relaxed32(&C.me.cpu, cpu_here())
        at_store32(&w.parked, 0)
        if i == -4:     # EINTR
            return


cdef void block() noexcept nogil:
    """The task that this process runs starts to wait: give its CPU to whoever can use it."""
    at_store32(&C.me.refused, 0)
    at_store32(&C.me.blocked, 1)
    if C.me.shaped == SHAPED_RUNS or C.me.shaped == SHAPED_WANTS:
        at_store32(&C.me.shaped, SHAPED_BLOCKED)
        ring_node(C)
    elif C.me.shaped == SHAPED_NONE and C.me.role != ROLE_DEDICATED:
        token_release(C)
        if queue_more(C):
            announce(C)


cdef int unblock(bint interrupted) except -1:
    """Take the CPU again before the task goes on.

    An interrupted task goes on at once, with or without one: all CPUs may be busy for hours, and it
    is to end.
    """
    cdef uint32_t seen
    cdef bint resumed
    try:
        if C.me.shaped == SHAPED_BLOCKED:
            at_store32(&C.me.shaped, SHAPED_WANTS)
            ring_node(C)
            while (at_load32(&C.me.shaped) == SHAPED_WANTS and not interrupted
                    and not at_load32(&C.dispatch.stopping)):
                with nogil:
                    seen = at_load32(&C.me.wake)
                    if at_load32(&C.me.shaped) == SHAPED_WANTS:
                        at_store32(&C.me.parked, 1)
                        futex_wait(&C.me.wake, seen, CHUNK_NS)
                        at_store32(&C.me.parked, 0)
                PyErr_CheckSignals()
        elif C.me.shaped == SHAPED_NONE and C.me.role != ROLE_DEDICATED:
            if interrupted:
                if C.me.token == 0:
                    token_take(C)
                return 0
            while True:
                with nogil:
                    resumed = token_resume(C, CHUNK_NS)
                if resumed or at_load32(&C.dispatch.stopping):
                    break
                PyErr_CheckSignals()
    finally:
        at_store32(&C.me.blocked, 0)
    return 0


cdef object refused():
    """What to raise if the node cannot put another worker in this blocked one's place, or None."""
    cdef uint32_t limit = at_load32(&C.me.refused)
    if limit == 0:
        return None
    at_store32(&C.me.refused, 0)
    return ProcessLimitError(
        f"this wait needs one more worker, but the session has its limit of {limit - 1} processes, "
        "blocked in waits of their own: nest less deeply, or wait in fewer tasks at once")


cdef Py_ssize_t wait_for(uint64_t *handles, Py_ssize_t n, Py_ssize_t need, int64_t until,
                         bint stop_at_error, list ids) except -1:
    """Wait until `need` of the objects are sealed; how many are, which may be fewer at the time
    limit (`until`, monotonic ns; negative: none) or, if so told, when one is an error."""
    cdef bint error = False, blocked = False, interrupted = False
    cdef Py_ssize_t i, ready
    cdef int waiter
    cdef pr_waiter *w = NULL
    cdef uint32_t events = 0, counted = 0, sweeps
    cdef int64_t start, now, end, looked
    ready = count_sealed(handles, n, need, &error)
    if ready >= need or (error and stop_at_error):
        return ready
    start = now_ns()
    if 0 <= until <= start:
        return ready
    mapping = current_mapping()     # a shutdown in another thread must not unmap under us
    waiter = waiter_open(C)
    looked = start
    sweeps = C.swept
    C.inflight += 1
    blocked = on_task_thread()
    if blocked:
        give_up(handles, n)
    else:
        counted = count_in(handles, n)
    try:
        while True:
            if waiter >= 0:
                w = &C.me.waiter[waiter % PR_WAITERS]
                events = at_load32(&w.events)
                at_store32(&w.target, events + (1 << 30))
                ready = 0
                error = False
                for i in range(n):
                    if sealed(C, handles[i]) or register_waiter(C, handles[i], waiter):
                        ready += 1
                        if at_load64(&object_at(C, handles[i]).state) & OBJ_ERROR:
                            error = True
                        if ready >= need:
                            break
            else:
                ready = count_sealed(handles, n, need, &error)
            if ready >= need or (error and stop_at_error):
                return ready
            now = now_ns()
            if 0 <= until <= now:
                return ready
            end = now + CHUNK_NS
            if 0 <= until < end:
                end = until
            if waiter >= 0:
                at_store32(&w.target, events + <uint32_t>(need - ready))
                with nogil:
                    # Not for many: their workers are to have this CPU.  Nor in a task, for the
                    # same reason.
                    sleep_on(w, end, need - ready == 1 and C.me.role == ROLE_DRIVER)
            else:
                # More threads wait than there are waiters: this one looks every millisecond.
                with nogil:
                    futex_wait(&C.dispatch.sweep, C.dispatch.sweep, 1000000)
            # A handler may end the session, which waits for calls that look into its memory: not
            # for this one, which looks again only after it has made sure that it is the same.
            C.inflight -= 1
            try:
                PyErr_CheckSignals()
            finally:
                C.inflight += 1
            if current_mapping() is not mapping:
                raise SessionError("the session was shut down during this wait")
            if C.broken:
                check_session()
            if at_load32(&C.dispatch.stopping):
                raise SessionError("the session was shut down during this wait")
            now = now_ns()
            if now - looked >= CHUNK_NS - 1000000:
                looked = now
                rescue(C)
                if at_load_relaxed32(&C.dispatch.sweep) != sweeps:
                    sweeps = at_load32(&C.dispatch.sweep)
                    sweep_now()
                refusal = refused()
                if refusal is not None:
                    raise refusal
                call_tick(now - start, ids)
    except KeyboardInterrupt:
        interrupted = True
        if _interrupted is not None and C.me.role == ROLE_DRIVER and current_mapping() is mapping:
            try:
                _interrupted(ids)
            except BaseException:
                pass        # Ctrl-C twice, or the session is gone: what is raised stays the first
        raise
    finally:
        C.inflight -= 1
        if current_mapping() is mapping:
            if waiter >= 0:
                waiter_close(C, waiter)
            count_out(counted)
            if blocked:
                settle(interrupted)


cdef int64_t deadline(object timeout) except? -2:
    if timeout is None:
        return -1
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        try:
            timeout = float(timeout)
        except (TypeError, ValueError):
            raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}") from None
    if not timeout >= 0:
        raise ValueError(f"timeout is a number of seconds, 0 or more, not {timeout!r}")
    if timeout > 1e9:
        return -1
    return now_ns() + <int64_t>(timeout * 1e9)


cdef str described(object value):
    """What was given in place of an ObjectID, and how that usually comes about."""
    name = type(value).__name__
    if name == "RemoteFunction":
        return f"a remote function: call {value._name}.remote(...) and get what that returns"
    if name == "Caller":
        return f".remote itself: call it, {value.function._name}.remote(...)"
    if isinstance(value, Waitable):
        return f"an {name}: iterate over it, and get what that gives"
    return name


cdef class Waitable:
    """What `wait` takes besides ObjectIDs: something that is ready when an object is there."""


cdef object get_one(ObjectID oid, object timeout, bint writable):
    cdef int64_t until = -1
    check_id(oid)
    if timeout is not None:
        until = deadline(timeout)
    if not sealed(C, oid.handle):
        if wait_for(&oid.handle, 1, 1, until, False, [oid]) < 1:
            raise GetTimeoutError(
                f"get waited {timeout} s for the result of {missing(oid)}; the task goes on, and "
                "get may be called again")
    return load_value(oid, writable)


cdef object get_several(object refs, object timeout, bint writable):
    cdef Py_ssize_t n, i, ready
    cdef uint64_t *handles
    cdef int64_t until
    cdef list ids, out
    if refs == []:
        return []
    check_session()
    if type(refs) is not list:
        if isinstance(refs, (list, tuple)):
            refs = list(refs)
        elif isinstance(refs, Waitable):
            return refs     # as Ray's: what takes the results of any task needs no case for it
        else:
            raise TypeError(
                f"get takes an ObjectID or a list of ObjectIDs, not {described(refs)}")
    ids = list(refs)    # the caller's may change while we wait
    n = len(ids)
    until = deadline(timeout)
    handles = <uint64_t *>malloc(max(n, 1) * sizeof(uint64_t))
    if handles == NULL:
        raise MemoryError
    try:
        for i in range(n):
            if i + AHEAD < n:
                PR_PREFETCH_ID(<void *>PyList_GET_ITEM(ids, i + AHEAD))
            if type(<object>PyList_GET_ITEM(ids, i)) is not ObjectID:
                raise TypeError(
                    f"get takes ObjectIDs; item {i} of the list is {described(ids[i])}")
            check_id(<ObjectID>PyList_GET_ITEM(ids, i))
            handles[i] = (<ObjectID>PyList_GET_ITEM(ids, i)).handle
        ready = wait_for(handles, n, n, until, True, ids)
        if ready < n:
            for i in range(n):
                # An error that is there is raised at once, whatever is still missing.
                if (sealed(C, handles[i])
                        and at_load64(&object_at(C, handles[i]).state) & OBJ_ERROR):
                    load_value(<ObjectID>ids[i])
            first = ids[0]
            for i in range(n):
                if not sealed(C, handles[i]):
                    first = ids[i]
                    break
            raise GetTimeoutError(
                f"get waited {timeout} s: {n - ready} of {n} objects are not there yet, first the "
                f"result of {missing(first)}; the tasks go on, and get may be called again")
    finally:
        free(handles)
    out = []
    for i in range(n):
        # By now either may have left the cache again.
        if i + AHEAD < n:
            PR_PREFETCH_ID(<void *>PyList_GET_ITEM(ids, i + AHEAD))
            PR_PREFETCH_RECORD(
                object_at(C, (<ObjectID>PyList_GET_ITEM(ids, i + AHEAD // 2)).handle))
        out.append(load_value(<ObjectID>PyList_GET_ITEM(ids, i), writable))
    return out


def get(refs, *, timeout=None, writable=False):
    """The value of an object, or the values of several; waits until they are there.

    Parameters
    ----------
    refs : ObjectID or list of ObjectID
        What to fetch.
    timeout : float, optional
        Seconds to wait at most; default: as long as it takes.
    writable : bool, default False
        Have arrays that may be written to. They are this process's own: nobody else sees what is
        written, the object in the store included. Large ones (128 KiB and more) are copied page by
        page, when written to; small ones at once.

    Returns
    -------
    object or list of object
        Arrays are read-only views into the store, unless `writable`.

    Raises
    ------
    TypeError
        Something that is no ObjectID, or an option of the wrong type.
    MemoryError
        With `writable`: no memory for the copy.
    TaskError
        The task raised; this is an instance of the task's exception class too. With a list, the
        first error is raised as soon as it is known.
    GetTimeoutError
        The time is up (it is a TimeoutError too).
    WorkerCrashedError
        The task's worker died, more often than the task may be retried.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.get([ray.put(1), ray.put(2)])
    [1, 2]

    >>> import numpy as np
    >>> ref = ray.put(np.zeros(3))
    >>> mine = ray.get(ref, writable=True)
    >>> mine += 1
    >>> mine, ray.get(ref)
    (array([1., 1., 1.]), array([0., 0., 0.]))
    """
    try:
        if type(writable) is not bool:
            raise TypeError(f"get: writable is True or False, not {writable!r}")
        if type(refs) is ObjectID:
            return get_one(<ObjectID>refs, timeout, writable)
        return get_several(refs, timeout, writable)
    except Exception as error:
        if isinstance(refs, (list, tuple)) and not isinstance(error, GetTimeoutError):
            # One error was raised on behalf of all: the others are not unheard of.
            for oid in refs:
                if type(oid) is ObjectID:
                    (<ObjectID>oid).asked = True
        raise without_core(error)
    except KeyboardInterrupt as error:
        raise without_core(error)


cdef inline bint is_there(object oid):
    """Of what `wait` waits for; None stands for what has nothing more to wait for."""
    return oid is None or sealed(C, (<ObjectID>oid).handle)


def wait(refs, *, num_returns=1, timeout=None, fetch_local=True):
    """Wait until some of several objects are there.

    Parameters
    ----------
    refs : list of ObjectID
        Each at most once. An ObjectRefGenerator may be among them: it is ready when ``next`` of it
        does not wait.
    num_returns : int, default 1
        How many to wait for.
    timeout : float, optional
        Seconds to wait at most; default: as long as it takes.
    fetch_local : bool, default True
        Of no effect: every object is local.

    Returns
    -------
    ready, not_ready : list of ObjectID
        In the order of `refs`; `ready` has at most `num_returns`.

    Examples
    --------
    >>> import pyray as ray
    >>> ref = ray.put(1)
    >>> ready, not_ready = ray.wait([ref])
    >>> ready == [ref], not_ready
    (True, [])
    """
    cdef Py_ssize_t need
    cdef list given
    cdef int64_t until
    check_session()
    if type(refs) is ObjectID:
        raise TypeError("wait takes a list of ObjectIDs, not a single one")
    if not isinstance(refs, (list, tuple)):
        raise TypeError(f"wait takes a list of ObjectIDs, not {type(refs).__name__}")
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns is a whole number, not {num_returns!r}")
    if len(refs) == 0:
        return [], []       # as in Ray: a loop over what is left need not look first
    need = num_returns
    if not 1 <= need <= len(refs):
        raise ValueError(
            f"num_returns is between 1 and the number of ids, {len(refs)}, not {need}")
    until = deadline(timeout)
    if type(refs) is list and need <= len(refs):
        # Without a copy, which would cost as much as all the rest: nothing of the user's runs
        # before there is a result.
        given = refs
        if all_distinct(given):
            found = split(given, given, need, False)
            if found is not None:
                return found
    given = list(refs)
    return wait_with(given, min(need, len(given)), until)


cdef bint all_distinct(list given) except -1:
    """Whether all are ObjectIDs of this session, each once.

    An error says what is wrong; False is for lists with anything else in them, which may be fine.
    """
    global _mark
    cdef Py_ssize_t i
    cdef ObjectID oid
    cdef uint32_t mark = _mark + 1, epoch = C.epoch
    _mark = mark
    for i in range(len(given)):
        if type(<object>PyList_GET_ITEM(given, i)) is not ObjectID:
            return False
        oid = <ObjectID>PyList_GET_ITEM(given, i)
        if oid.epoch != epoch:
            check_id(oid)
        if oid.mark == mark:
            raise ValueError(f"wait takes each id once; {oid!r} is there twice")
        oid.mark = mark
    return True


cdef tuple split(list given, list ids, Py_ssize_t need, bint fewer):
    """(those that are there, `need` of them at most, the rest), of `given`, by the `ids` that they
    stand for; None if there are `fewer` and that is not asked for."""
    cdef Py_ssize_t i, n = len(given), rest_from = 0
    cdef list ready = [], rest = None
    for i in range(n):
        if not is_there(<object>PyList_GET_ITEM(ids, i)):
            continue
        ready.append(<object>PyList_GET_ITEM(given, i))
        # In slices: one reference at a time would take longer than all the looks.
        if rest is None:
            rest = given[rest_from:i]
        elif rest_from < i:
            rest += given[rest_from:i]
        rest_from = i + 1
        if <Py_ssize_t>len(ready) == need:
            break
    else:
        if not fewer:
            return None
    if rest is None or not rest:
        rest = given[rest_from:]
    elif rest_from < n:
        rest += given[rest_from:]
    return ready, rest


cdef tuple wait_with(list given, Py_ssize_t need, int64_t until):
    """`wait`, for a list that is nobody else's."""
    cdef Py_ssize_t i, n = len(given), open_ = 0
    cdef uint64_t *handles
    cdef list ids = given, known
    for i in range(n):
        if type(<object>PyList_GET_ITEM(given, i)) is not ObjectID:
            if not isinstance(given[i], Waitable):
                raise TypeError(f"wait takes ObjectIDs; item {i} of the list is "
                                f"{type(given[i]).__name__}")
            if ids is given:
                ids = list(given)
            ids[i] = (<Waitable>given[i]).awaited
    known = ids if ids is given else [oid for oid in ids if oid is not None]
    all_distinct(known)
    found = split(given, ids, need, False)
    if found is not None:
        return found
    handles = <uint64_t *>malloc(n * sizeof(uint64_t))
    if handles == NULL:
        raise MemoryError
    try:
        for i in range(<Py_ssize_t>len(known)):
            handles[open_] = (<ObjectID>PyList_GET_ITEM(known, i)).handle
            open_ += 1
        wait_for(handles, open_, need - (n - open_), until, False, known)
    except KeyboardInterrupt as error:
        raise without_core(error)
    finally:
        free(handles)
    return split(given, ids, need, True)


def arrow_parts(ObjectID oid):
    """An object's bytes and whether they are the compact form; waits for it."""
    cdef pr_object *o
    cdef uint64_t s, size
    cdef Pin held
    check_id(oid)
    if not sealed(C, oid.handle):
        wait_for(&oid.handle, 1, 1, -1, False, [oid])
    o = object_at(C, oid.handle)
    s = at_load64(&o.state)
    size = o.size
    if s & OBJ_INLINE:
        return (<const char *>o.data)[:size], True
    if s & OBJ_NESTED:
        # Shared arrays inside are only referred to: an Arrow stream is to have their elements.
        return serializer.dumps(load_raw(oid.handle, oid)), False
    held = pin(oid, o)
    return (C.readonly + held.place)[:size], bool(s & OBJ_COMPACT)


def poll(look, double seconds):
    """Call `look()` about every millisecond until it returns something, as a wait: the running task
    gives its CPU up meanwhile.

    Parameters
    ----------
    look : callable
        Returns None while the wait is to go on; may raise.
    seconds : float
        For how long; negative: no limit.

    Returns
    -------
    object
        What `look` returned, or None when the time was up.
    """
    cdef int64_t start = now_ns(), now = start, looked = start
    cdef int64_t until
    cdef bint blocked = False
    if seconds > 1e9:
        seconds = -1        # no limit, and no overflow
    until = start + <int64_t>(seconds * 1e9)
    mapping = current_mapping()
    try:
        while True:
            found = look()
            if found is not None or (seconds >= 0 and now >= until):
                return found
            if not blocked and now - start > 2000000 and on_task_thread():
                blocked = True
                give_up(NULL, 0)
            with nogil:
                # Nobody tells us: this only sleeps, and shorter at first.
                futex_wait(&C.dispatch.sweep, C.dispatch.sweep, min(1000000, 20000 + now - start))
            PyErr_CheckSignals()
            if current_mapping() is not mapping or at_load32(&C.dispatch.stopping):
                raise SessionError("the session was shut down during this wait")
            check_session()
            now = now_ns()
            if now - looked >= CHUNK_NS:
                looked = now
                rescue(C)
                refusal = refused()
                if refusal is not None:
                    raise refusal
    finally:
        if blocked and current_mapping() is mapping:
            settle(False)
