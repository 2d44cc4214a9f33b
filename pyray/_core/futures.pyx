"""Futures of objects: ``await ref`` and ``ref.future()``, with no polling.

One thread per process, the *bridge*, resolves them.  It is started when something is awaited that
is not there yet, and parks on a waiter of its own (PR_BRIDGE).  Whoever seals an object that names
this waiter leaves the handle in the process's ring (`done`), so a completion costs the same
however many others are outstanding.  What the ring says is a hint: when it has been lapped, after a
death, and now and then, the bridge looks at everything that is outstanding.

Futures of asyncio are only told to look again, all that a loop awaits by one call into it; the
coroutine decodes the value itself, or finds out why there is none.  So no future of asyncio ever
holds an exception that nobody may retrieve.  All state here is private and guarded by the GIL.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pyray._core.dispatch cimport rescue
from pyray._core.holds cimport sweep_now
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.objects cimport ALARM, register_waiter, sealed, waiter_of_bridge
from pyray._core.shm cimport Ctx, current_mapping, get_ctx, object_at
from pyray._core.store cimport ObjectID, check_id
from pyray._core.values cimport load_value
from pyray._core.waiting cimport call_tick, count_in, count_out, deadline, refused, sleep_on
from pyray._core.waiting cimport settle as settle_task
from pyray._core.waiting cimport wait_for

import os
import threading

from pyray._core.errors import SessionError, without_core

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef Ctx *C = get_ctx()

cdef enum:
    HERE_NS = 200000            # an await waits this long before it goes to the bridge
    MISSES = 8                  # after so many in vain in a row only one in 16 does
    CHUNK_NS = 100000000        # how often the bridge looks round while something is outstanding
    LINGER_NS = 1000000000      # and how long it goes on doing so with nothing outstanding
    ASLEEP_NS = 3600000000000
    SCAN_SHARE = 20             # looking at everything takes one part in so many of its time

cdef Bridge _bridge = None
cdef object _running_loop = None
cdef object _future_class = None
cdef bint _fork_hook = False
cdef uint32_t _misses = 0


@cython.final
@cython.freelist(256)
cdef class Pending:
    """A future that the bridge is to resolve.

    It holds no id: the coroutine that awaits, or the future that has been asked for, does.
    """
    cdef uint64_t handle
    cdef object future
    cdef Mailbox mailbox        # of its loop; None for a future of concurrent.futures
    cdef Pending next           # of the same object
    cdef object error           # why there is no value
    cdef uint32_t counted       # what count_in returned
    cdef bint listed


@cython.final
cdef class Mailbox:
    """Futures of one loop that are to be resolved in its thread."""
    cdef object loop
    cdef list futures
    cdef bint posted            # `deliver` is on its way into the loop
    cdef Py_ssize_t users       # what it awaits

    def deliver(self):
        cdef list futures = self.futures
        self.futures = []
        self.posted = False
        for future in futures:
            if not future.done():       # cancelled meanwhile
                future.set_result(None)
        settle_task()


@cython.final
cdef class Bridge:
    """The thread that resolves futures, and what it has to resolve."""
    cdef dict entries           # handle -> the first Pending of that object
    cdef dict mailboxes         # loop -> Mailbox
    cdef object thread
    cdef unsigned long ident
    cdef uint32_t epoch
    cdef int waiter
    cdef uint32_t head          # how far the ring has been read
    cdef uint32_t stuck         # 1 + where reading it stopped a while ago
    cdef bint asleep            # parked for as long as nobody wakes it
    cdef bint over

    def __cinit__(self):
        cdef uint32_t i
        self.entries = {}
        self.mailboxes = {}
        self.epoch = C.epoch
        for i in range(PR_DONE):
            at_store64(&C.me.done[i], 0)
        self.head = at_load32(&C.me.done_tail)
        self.waiter = waiter_of_bridge(C)

    # ---- what is outstanding ---------------------------------------------------------------

    cdef bint remove(self, Pending p):
        """Whoever removes an entry deals with its future.  False if it was removed before."""
        cdef Pending other
        if not p.listed:
            return False
        p.listed = False
        other = self.entries[p.handle]
        if other is not p:
            while other.next is not p:
                other = other.next
            other.next = p.next
        elif p.next is None:
            del self.entries[p.handle]
        else:
            self.entries[p.handle] = p.next
        p.next = None
        count_out(p.counted)
        if p.mailbox is not None:
            p.mailbox.users -= 1
            if p.mailbox.users == 0:
                self.mailboxes.pop(p.mailbox.loop, None)
        return True

    cdef void take(self, Pending p, list found):
        """All entries of an object, from its first."""
        cdef Pending following
        while p is not None:
            following = p.next
            if self.remove(p):
                found.append(p)
            p = following

    cdef list collect(self, bint everything):
        """Take out what is sealed: what the ring names, or whatever is."""
        cdef list found = []
        cdef uint32_t i, tail = at_load32(&C.me.done_tail)
        cdef uint64_t handle
        cdef Pending p
        if tail - self.head > PR_DONE:
            # Lapped.  The slots first, then the look: what is noted from now on is seen later.
            self.head = tail
            for i in range(PR_DONE):
                at_store64(&C.me.done[i], 0)
            everything = True
        while self.head != tail:
            handle = at_xchg64(&C.me.done[self.head % PR_DONE], 0)
            if handle == 0:
                break       # being written; the event that follows wakes us again
            self.head += 1
            p = self.entries.get(handle)
            if p is not None:
                self.take(p, found)
        if everything:
            for p in list(self.entries.values()):
                if sealed(C, p.handle):
                    self.take(p, found)
        return found

    cdef list all(self):
        cdef list found = []
        for p in list(self.entries.values()):
            self.take(<Pending>p, found)
        return found

    cdef int dispatch(self, list found) except -1:
        """Resolve futures that have been taken out, each in its place."""
        cdef Pending p
        cdef Mailbox m
        cdef list posts = []
        for p in found:
            m = p.mailbox
            if m is None:
                continue
            m.futures.append(p.future)
            if not m.posted:
                m.posted = True
                posts.append(m)
        for m in posts:
            try:
                m.loop.call_soon_threadsafe(m.deliver)
            except Exception:
                m.futures = []      # the loop has been closed: nobody is left to be told
                m.posted = False
        for p in found:
            if p.mailbox is None:
                future, p.future = p.future, None
                try:
                    finish(future, p.error)
                except BaseException as e:
                    # The value could not be decoded; or a callback has raised more than the
                    # Exception that concurrent.futures reports by itself.
                    report(future, e)
        return 0

    cdef int fail(self, list found, object error) except -1:
        cdef Pending p
        for p in found:
            p.error = type(error)(*error.args)      # each its own, since tracebacks add up
        self.dispatch(found)
        return 0

    # ---- the thread ------------------------------------------------------------------------

    def run(self):
        cdef object error
        mapping = current_mapping()     # a shutdown must not unmap under us
        self.ident = PyThread_get_thread_ident()
        try:
            error = self.serve(mapping)
        except BaseException as e:
            error = e
        self.over = True
        mapping = None
        self.fail(self.all(), error)

    cdef object serve(self, object mapping):
        """Until the session ends; returns what is to be raised by those that still wait."""
        cdef pr_waiter *w = &C.me.waiter[PR_BRIDGE]
        cdef uint32_t seen, last = at_load32(&w.events)
        cdef uint32_t sweeps = C.swept
        cdef int64_t now, until, looked = now_ns(), active = looked, scanned = 0, cost = 0
        cdef bint everything
        cdef list found
        while True:
            if current_mapping() is not mapping:
                return shut_down()
            if C.broken:
                try:
                    check_session()
                except SessionError as e:
                    return e
            if at_load32(&C.dispatch.stopping):
                return shut_down()
            seen = at_load32(&w.events)
            everything = seen - last >= ALARM
            last = seen
            now = now_ns()
            if self.entries:
                active = now
                if now - looked >= CHUNK_NS - 1000000:
                    looked = now
                    rescue(C)
                    if at_load_relaxed32(&C.dispatch.sweep) != sweeps:
                        sweeps = at_load32(&C.dispatch.sweep)
                        sweep_now()
                    call_tick(0, [])
                    self.drop_closed()
                    if self.stuck == self.head + 1 and self.head != at_load32(&C.me.done_tail):
                        self.head += 1      # whoever was to write there has died, or is stopped
                        everything = True
                    self.stuck = self.head + 1
                    everything = everything or now - scanned > SCAN_SHARE * cost
                if at_load32(&C.me.refused):
                    self.refuse()
            found = self.collect(everything)
            if everything:
                scanned = now_ns()
                cost = scanned - now
            if found:
                self.dispatch(found)
                found = None
                continue        # that ran code of the user's: is there a session still?
            until = now + CHUNK_NS
            if now - active > LINGER_NS:
                # So that a process that awaits one thing after another does not wake us each time.
                until = now + ASLEEP_NS
                self.asleep = True
            at_store32(&w.target, seen + 1)
            with nogil:
                sleep_on(w, until, False)
            self.asleep = False

    cdef int refuse(self) except -1:
        """The node cannot replace this blocked worker: what its task awaits is to raise."""
        cdef list found = []
        cdef Pending p
        for p in list(self.entries.values()):
            if p.counted:
                self.take(p, found)
        if found:
            error = refused()
            self.fail(found, shut_down() if error is None else error)
        return 0

    cdef int drop_closed(self) except -1:
        """Forget what closed loops await."""
        cdef Pending p, following
        cdef set closed = {loop for loop in list(self.mailboxes) if loop.is_closed()}
        if not closed:
            return 0
        for first in list(self.entries.values()):
            p = first
            while p is not None:
                following = p.next
                if p.mailbox is not None and p.mailbox.loop in closed:
                    self.remove(p)
                p = following
        return 0


cdef object shut_down():
    return SessionError("the session was shut down during this wait")


cdef Bridge start_bridge():
    """This process's bridge."""
    global _bridge, _fork_hook
    cdef Bridge b = _bridge
    if b is not None and b.epoch == C.epoch and not b.over:
        return b
    if at_load32(&C.dispatch.stopping):
        raise shut_down()
    if not _fork_hook:
        os.register_at_fork(after_in_child=after_fork_in_child)
        _fork_hook = True
    b = Bridge()
    b.thread = threading.Thread(target=b.run, name="pyray-futures", daemon=True)
    _bridge = b
    try:
        b.thread.start()
    except BaseException as e:
        # Another thread may have entered something while this one started it.
        b.over = True
        b.fail(b.all(), e)
        raise
    return b


def stop(double seconds):
    """The session has been told to end: wait until the bridge has, for so long at most."""
    global _bridge
    cdef Bridge b = _bridge
    if b is not None and b.thread is not threading.current_thread():
        b.thread.join(seconds)
    _bridge = None


def after_fork_in_child():
    """The child has no bridge: what is awaited there looks again, and finds that out."""
    global _bridge
    cdef Bridge b = _bridge
    cdef Pending p
    _bridge = None
    if b is None or not C.forked:
        return
    b.over = True
    for p in b.all():
        # What waits for a future of concurrent.futures raises by itself; its lock may be held for
        # ever by a thread that the child does not have.
        if p.mailbox is not None and not p.future.done():
            p.future.set_result(None)


cdef Pending enter(ObjectID oid, object future, object loop):
    """Have the bridge resolve a future.  None if the object is there by now."""
    cdef Bridge b = start_bridge()
    cdef Pending p = Pending.__new__(Pending)
    cdef Mailbox m = None
    if loop is not None:
        m = b.mailboxes.get(loop)
        if m is None:
            m = Mailbox.__new__(Mailbox)
            m.loop = loop
            m.futures = []
    p.handle = oid.handle
    p.future = future
    # Starting the thread, and allocating, may have let others run.
    check_id(oid)
    if b.over or at_load32(&C.dispatch.stopping):
        raise shut_down()
    if m is not None:
        p.mailbox = m
        m.users += 1
        b.mailboxes[loop] = m
    p.next = b.entries.get(p.handle)
    b.entries[p.handle] = p
    p.listed = True
    if register_waiter(C, p.handle, b.waiter):
        b.remove(p)
        return None
    p.counted = count_in(&p.handle, 1)
    if b.asleep:
        at_add32(&C.me.waiter[PR_BRIDGE].events, 1)
        at_store32(&C.me.waiter[PR_BRIDGE].parked, 0)
        futex_wake(&C.me.waiter[PR_BRIDGE].parked, 1)
    return p


cdef int leave(Pending p) except -1:
    """Nobody waits for this future any more."""
    cdef Bridge b = _bridge
    if b is not None and p.listed and b.remove(p):
        settle_task()
    return 0


# ---- await ---------------------------------------------------------------------------------

cdef bint wait_here(ObjectID oid, object loop) except -1:
    """Wait for a moment before the bridge is troubled, which takes a wake-up more.  True if the
    object is there.  Only where the loop has nothing else to do, and short waits have paid."""
    global _misses
    cdef Bridge b = _bridge
    cdef uint32_t counted
    cdef bint found
    if b is not None and b.entries:
        return False
    if _misses >= MISSES:
        _misses += 1
        if _misses % 16:
            return False
    # asyncio's own attribute, of what it is to run in this round: other loops have none.
    ready = getattr(loop, "_ready", None)
    if ready is None or len(ready):
        return False
    counted = count_in(&oid.handle, 1)      # so that no CPU is taken again in between
    try:
        found = wait_for(&oid.handle, 1, 1, now_ns() + HERE_NS, False, [oid]) == 1
    finally:
        count_out(counted)
    if found:
        _misses = 0
        settle_task()
    elif _misses < MISSES:
        _misses += 1
    return found


cdef object running_loop():
    global _running_loop
    if _running_loop is None:
        from asyncio import get_running_loop
        _running_loop = get_running_loop
    try:
        return _running_loop()
    except RuntimeError:
        raise RuntimeError("await of an ObjectID needs a running asyncio event loop; outside of "
                           "one use get()") from None


def awaitable(ObjectID oid, bint value=True):
    """What ``await`` of an id goes through; without `value`, until it is there only."""
    cdef Pending p
    try:
        check_id(oid)
        while not sealed(C, oid.handle):
            loop = running_loop()
            if wait_here(oid, loop):
                break
            future = loop.create_future()
            p = enter(oid, future, loop)
            if p is None:
                break
            try:
                yield from future
            finally:
                leave(p)
            if p.error is not None:
                raise p.error
            check_id(oid)
        settle_task()
        return load_value(oid) if value else None
    except Exception as error:
        raise without_core(error)


# ---- concurrent.futures --------------------------------------------------------------------

def future_of(ObjectID oid):
    """An `ObjectFuture`, resolved if the object is there."""
    global _future_class
    cdef Pending p = None
    check_id(oid)
    if _future_class is None:
        from pyray._core.object_future import ObjectFuture
        _future_class = ObjectFuture
    future = _future_class(oid)
    if not sealed(C, oid.handle):
        p = enter(oid, future, None)
    if p is None:
        finish(future, None)
    else:
        future.pending = p
    return future


cdef int finish(object future, object error) except -1:
    """Resolve a future of concurrent.futures; its callbacks run here."""
    cdef ObjectID oid
    cdef uint64_t s
    if error is not None:
        future.fail(error)
        return 0
    oid = future.ref
    if oid is None:
        return 0        # cancelled meanwhile
    s = at_load64(&object_at(C, oid.handle).state)
    if s & (OBJ_INLINE | OBJ_COMPACT) and not s & OBJ_ERROR:
        future.found(load_value(oid))
    else:
        # Decoding may run code of the user's: in the thread of whoever wants the value.
        future.found_undecoded(bool(s & OBJ_ERROR))
    return 0


cdef int report(object future, object error) except -1:
    if not future.done():
        future.fail(error)
        return 0
    import logging
    logging.getLogger("pyray").error("exception calling callback for %r", future, exc_info=error)
    return 0


def load(ObjectID oid):
    """The value of an object that is there; raises it if it is an error."""
    check_id(oid)
    return load_value(oid)


def settle():
    """The calling thread has waited: its task takes its CPU again."""
    settle_task()


def cancel(Pending p):
    """A future has been cancelled."""
    leave(p)


def before_wait(Pending p, ObjectID oid, timeout):
    """A thread is about to wait for a future.  The bridge itself, in a callback, waits here, since
    nobody else would resolve it."""
    cdef Bridge b = _bridge
    if C.forked:
        check_session()
    if b is None or oid is None or b.ident != PyThread_get_thread_ident() or not p.listed:
        return
    check_id(oid)
    wait_for(&oid.handle, 1, 1, deadline(None if timeout is None else max(0, timeout)), False,
             [oid])
    if sealed(C, oid.handle) and b.remove(p):
        b.dispatch([p])


def outstanding():
    """How many objects have futures that wait to be resolved."""
    return 0 if _bridge is None else len(_bridge.entries)
