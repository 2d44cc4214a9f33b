"""Running generators: what they yield goes into a stream, a list of ids, or a number of returns.

A generator runs after its function has returned, while its results are stored.  So here interrupts
may strike whenever its own code runs, and not while a value is being stored.
"""

from libc.stdint cimport uint32_t, uint64_t

from pyray._core.interrupts cimport refuse_cancelled, stop_if_asked, users_code
from pyray._core.layout cimport *
from pyray._core.objects cimport alive, returns_of, sealed
from pyray._core.shm cimport Ctx, get_ctx, task_at
from pyray._core.store cimport ObjectID
from pyray._core.streams cimport Writer, new_item, new_writer
from pyray._core.values cimport RESULT, RESULT_MORE, store_value
from pyray._core.waiting cimport wait_for

cdef Ctx *C = get_ctx()

cdef enum:
    LOOK_NS = 100000000         # how often a call looks, beside which others run, if it is to stop

cdef object THE_END = object()


cdef int check_iterator(str name, object values, str how) except -1:
    if not hasattr(values, "__next__"):
        raise ValueError(
            f"{name} was called with num_returns={how!r}, so it has to return a generator; it "
            f"returned a value of type {type(values).__name__}")
    return 0


cdef int let_strike(uint64_t task, bint alone) except -1:
    """Code of the user's is about to run.  `alone`: it is the only task here, in the main thread;
    otherwise it is told that it has been cancelled when it comes by."""
    if alone:
        users_code(True)
        stop_if_asked(task)
    else:
        refuse_cancelled(task)
    return 0


cdef object following(uint64_t task, object values, bint alone):
    """The generator's next value, or THE_END."""
    try:
        let_strike(task, alone)
        return next(values)
    except StopIteration:
        return THE_END
    finally:
        if alone:
            users_code(False)


cdef int close(uint64_t task, object values, bint alone) except -1:
    """What is still suspended is ended."""
    end = getattr(values, "close", None)
    if end is not None:
        try:
            if alone:
                users_code(True)
            end()
        finally:
            if alone:
                users_code(False)
    return 0


cdef int wait(uint64_t task, Writer w, bint alone) except -1:
    """Backpressure: until the reader has taken enough."""
    cdef ObjectID credit
    try:
        while True:
            credit = w.must_wait()
            if credit is None:
                return 0
            let_strike(task, alone)
            wait_for(&credit.handle, 1, 1, -1 if alone else now_ns() + LOOK_NS, False, [credit])
    finally:
        if alone:
            users_code(False)


cdef int write_all(uint64_t task, str name, object values, bint alone) except -1:
    """Run a generator to its end, as a stream; its errors are the caller's to store."""
    cdef Writer w
    check_iterator(name, values, "streaming")
    w = new_writer(task)
    try:
        while w.is_open():
            value = following(task, values, alone)
            if value is THE_END or C.forked:
                break
            w.write(value)
            value = None        # it may be large, and need not outlive the next one's making
            if w.window:
                wait(task, w, alone)
            if w.unwanted():
                break
    finally:
        close(task, values, alone)
    if not C.forked:
        w.end()
    return 0


cdef int store_items(uint64_t task, object values, list refs, bint alone) except -1:
    """num_returns="dynamic": store what a generator yields, and add the ids to `refs`."""
    while True:
        value = following(task, values, alone)
        if value is THE_END or C.forked:
            return 0
        refs.append(new_item(task_at(C, task), <uint32_t>len(refs) + 1, value, 0))
        value = None


cdef int store_each(uint64_t task, str name, object values, bint alone) except -1:
    """Seal the returns with what a generator yields, each as it comes: so it need not have all in
    memory, and those before an exception stand.  The last one only when it has ended."""
    cdef pr_task *t = task_at(C, task)
    cdef uint64_t *rets = returns_of(C, t)
    cdef int n = 0, last = t.nreturns - 1
    kept = None
    while True:
        value = following(task, values, alone)
        if C.forked:
            return 0
        if value is THE_END:
            break
        if n > last:
            raise ValueError(f"{name} was to yield {n} values (num_returns), but went on after "
                             "that")
        if n < last:
            store_return(rets[n], value, RESULT_MORE)
        else:
            kept = value
        value = None
        n += 1
    if n <= last:
        raise ValueError(f"{name} was to yield {t.nreturns} values (num_returns), but yielded {n}")
    return store_return(rets[last], kept, RESULT)


cdef int store_return(uint64_t handle, object value, int whose) except -1:
    # An earlier attempt may have sealed it, and its id been dropped since.
    if alive(C, handle) and not sealed(C, handle):
        store_value(handle, value, 0, whose, "result")
    return 0
