"""The object store as Python sees it: ids, put, get and wait.

What is shared lies in objects.pyx; here are the private ends of it: an ObjectID's Python reference
count *is* this process's count of the object, numpy views pin it through a Pin, and ids inside
values are kept alive by whoever is liable for them.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from pyray._core.dispatch cimport (
    about_to_search, announce, rescue, token_release, token_resume, wake_process, ring_node,
)
from pyray._core.heap cimport HEAP_FULL, heap_alloc, heap_footprint, heap_free, heap_touch
from pyray._core.heap cimport heap_untouched
from pyray._core.ids cimport object_digest
from pyray._core.layout cimport *
from pyray._core.objects cimport (
    alive, hold, notify_all, raise_depth, register_waiter, seal, sealed, try_free, unhold, waiter_close,
    waiter_open,
)
from pyray._core.queues cimport queue_visible
from pyray._core.records cimport gen_in, object_new, object_recycle
from pyray._core.compact cimport compact_decode as decode_inline, compact_encode as encode_inline
from pyray._core.serializer cimport Encoded, decode, encode
from pyray._core.shm cimport Ctx, current_mapping, get_ctx, object_at, task_at

from pyray._core.errors import (
    ForeignObjectError, GetTimeoutError, NodeDiedError, ObjectLostError, ObjectStoreFullError,
    OutOfRecordsError, ProcessLimitError, SessionError,
)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef Ctx *C = get_ctx()

cdef enum:
    PACKED = 48             # nonce, handle, parent id, counter, index
    SCRATCH = 1024          # values whose compact form fits in here are stored in that form
    SPIN_NS = 30000         # a waiter looks this long before it parks
    CHUNK_NS = 100000000    # and parks this long before it looks round: signals, deaths, strays
    RESUME_NS = 3600000000000
    GUARDED = 1 << 20       # allocations that touch this much new memory are checked first

# id handle -> address of the one ObjectID of this process for an object whose id has escaped.
cdef dict _interned = {}
# Object that contains ids -> those ids, for objects that this process is liable for:
# its own, and results that it wrote and whose owner has not registered yet.
cdef dict _contained = {}
# Handle -> address of the ViewHold, for objects seen through views only.
cdef dict _view_holds = {}
cdef list _dropped = []
cdef bint _dropping = False
cdef uint32_t _mark = 0
cdef unsigned long _task_thread = 0
cdef str _broken_reason = ""
cdef object _tick = None            # called about every 0.1 s of a wait: (seconds, [ids])
cdef object _sweep = None           # lets go of what this process holds for nothing
cdef object _guard = None           # called before memory grows: (bytes) -> None or a reason


def set_callbacks(tick, guard):
    """What the layer above wants to be asked: on long waits, and before memory grows."""
    global _tick, _guard
    _tick = tick
    _guard = guard


cdef void set_sweep(object sweep):
    global _sweep
    _sweep = sweep


def break_session(str reason):
    """The node is gone: whoever waits raises, and so does every later call."""
    global _broken_reason
    _broken_reason = reason
    if C.attached:
        C.broken = True
        notify_all(C)


cdef void set_task_thread(bint on):
    """From now on the calling thread runs tasks: its waits give the CPU back."""
    global _task_thread
    _task_thread = PyThread_get_thread_ident() if on else 0


cdef int check_session() except -1:
    if C.forked:
        raise SessionError(
            "this process was forked from one that uses pyray; it cannot use its parent's "
            "session. Call pyray in the parent, or start pyray anew in a process of its own")
    if C.broken:
        raise NodeDiedError(_broken_reason)
    if not C.attached:
        raise SessionError("there is no session in this process: call pyray.init() first")
    return 0


cdef int check_id(ObjectID oid) except -1:
    if oid.epoch != C.epoch or not C.attached or C.forked:
        check_session()
        raise SessionError(f"{oid!r} belongs to a session that has been shut down")
    return 0


# ---- ids -----------------------------------------------------------------------------------

@cython.no_gc
@cython.final
@cython.freelist(512)
cdef class ObjectID:
    """A reference to an object: the promise of a task's result, or something put.

    As long as an ObjectID lives, in any process, so does the object. Compares, orders and hashes by
    its 20 bytes; picklable inside arguments and objects of the same session.

    Examples
    --------
    >>> import pyray as ray
    >>> ref = ray.put(1)
    >>> len(ref.binary()), ref == ref
    (20, True)
    """

    def __init__(self, *args):
        raise TypeError("an ObjectID is made by put() and .remote() only")

    def __dealloc__(self):
        if self.epoch != C.epoch or not C.attached or C.forked or self.handle == 0:
            return
        if self.escaped:
            _interned.pop(self.handle, None)
            if self.handle not in _view_holds:      # views share the bit
                unhold(C, self.handle)
        else:
            try_free(C, self.handle)
        if _contained:
            drop_contained(self.handle)

    cdef bytes _binary(self):
        cdef uint8_t out[20]
        if self.digest is None:
            object_digest(<const uint8_t *><const char *>self.parent, self.counter, self.index, out)
            self.digest = (<const char *>out)[:20]
        return self.digest

    def binary(self):
        """The id's 20 bytes."""
        return self._binary()

    def hex(self):
        """The id as 40 hexadecimal digits."""
        return self._binary().hex()

    def __repr__(self):
        return f"ObjectID({self._binary().hex()})"

    def __hash__(self):
        return hash(self._binary())

    def __eq__(self, other):
        if type(other) is not ObjectID:
            return NotImplemented
        cdef ObjectID o = <ObjectID>other
        if self is o:
            return True
        if self.epoch == o.epoch:
            return self.handle == o.handle
        return self._binary() == o._binary()

    def __lt__(self, other):
        if type(other) is not ObjectID:
            return NotImplemented
        return self._binary() < (<ObjectID>other)._binary()

    def __le__(self, other):
        if type(other) is not ObjectID:
            return NotImplemented
        return self._binary() <= (<ObjectID>other)._binary()

    def __gt__(self, other):
        if type(other) is not ObjectID:
            return NotImplemented
        return self._binary() > (<ObjectID>other)._binary()

    def __ge__(self, other):
        if type(other) is not ObjectID:
            return NotImplemented
        return self._binary() >= (<ObjectID>other)._binary()

    def __reduce__(self):
        return unpack, (pack(self),)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __class_getitem__(cls, item):
        return cls


cdef ObjectID new_id(uint64_t handle, bytes parent, uint64_t counter, uint32_t index):
    cdef ObjectID oid = ObjectID.__new__(ObjectID)
    oid.handle = handle
    oid.epoch = C.epoch
    oid.parent = parent
    oid.counter = counter
    oid.index = index
    return oid


cdef int escape(ObjectID oid) except -1:
    """Before the id leaves this process: from now on the record says who holds it."""
    check_id(oid)
    if not oid.escaped:
        if not hold(C, oid.handle):
            raise ObjectLostError(f"{oid!r} is gone")
        _interned[oid.handle] = <size_t><PyObject *>oid
        oid.escaped = True
    return 0


def pack(ObjectID oid):
    """The bytes that stand for an id inside a value."""
    cdef char out[PACKED]
    escape(oid)
    memcpy(out, &C.head.nonce, 8)
    memcpy(out + 8, &oid.handle, 8)
    memcpy(out + 16, <const char *>oid.parent, 20)
    memcpy(out + 36, &oid.counter, 8)
    memcpy(out + 44, &oid.index, 4)
    return out[:PACKED]


def unpack(bytes packed):
    """An id from those bytes; this process holds the object from then on.

    Raises
    ------
    ForeignObjectError
        The id is of another session.
    ObjectLostError
        The object is gone.
    """
    cdef const char *p = packed
    cdef uint64_t nonce, handle, counter
    cdef uint32_t index
    cdef object address
    cdef ObjectID oid
    check_session()
    if len(packed) != PACKED:
        raise ValueError(f"a packed id has {PACKED} bytes, not {len(packed)}")
    memcpy(&nonce, p, 8)
    if nonce != C.head.nonce:
        raise ForeignObjectError("this ObjectID is of another session (ids hold only within the "
                                 "session that made them); fetch the value there and pass that on")
    memcpy(&handle, p + 8, 8)
    address = _interned.get(handle)
    if address is not None:
        return <object><PyObject *><size_t>address
    memcpy(&counter, p + 36, 8)
    memcpy(&index, p + 44, 4)
    if not hold(C, handle):
        raise ObjectLostError(
            "an ObjectID inside a value refers to an object that is gone: the process that owned "
            "it died, or the id was kept as bytes while nothing held the object")
    oid = new_id(handle, packed[16:36], counter, index)
    oid.escaped = True
    _interned[handle] = <size_t><PyObject *>oid
    return oid


cdef void drop_contained(uint64_t handle):
    """If an object is gone, let go of the ids that it contained, however deeply that goes on."""
    global _dropping
    if handle not in _contained or alive(C, handle):
        return
    _dropped.append(_contained.pop(handle))
    if _dropping:
        return
    _dropping = True
    while _dropped:
        _dropped.pop()
    _dropping = False


cdef bint has_duties():
    """Whether this process holds ids on behalf of values that others own or hold."""
    return len(_contained) != 0


cdef int sweep_store():
    """Let go of ids inside values that are gone or that their owner has taken over."""
    cdef uint64_t handle
    cdef uint64_t s
    for key in list(_contained):
        handle = key
        if not alive(C, handle):
            drop_contained(handle)
        else:
            s = at_load64(&object_at(C, handle).state)
            if s & OBJ_ACKED and object_at(C, handle).owner != C.self:
                _contained.pop(handle, None)
    return 0


# ---- views ---------------------------------------------------------------------------------

@cython.no_gc
@cython.final
cdef class Pin:
    """What a view into the store holds: the object, and the mapping that it lies in."""


cdef Pin pin(object oid):
    cdef Pin p = Pin.__new__(Pin)
    p.mapping = current_mapping()
    p.oid = oid
    return p


# ---- room ----------------------------------------------------------------------------------

cdef uint64_t new_record() except 0:
    cdef uint64_t handle = object_new(C)
    if handle == 0:
        raise OutOfRecordsError(
            f"no room for another object's record: all {C.head.n_chunks * PR_CHUNK_BYTES >> 20} "
            "MiB of records are in use; drop references to results that you no longer need")
    return handle


cdef uint64_t alloc(uint64_t size) except? 0xFFFFFFFFFFFFFFFF:
    """Room for a payload; asks everybody to let go of what is held for nothing before it fails."""
    cdef uint64_t off = heap_alloc(C, size)
    cdef uint64_t fresh
    cdef int64_t end
    if off == HEAP_FULL and _sweep is not None:
        _sweep()
        off = heap_alloc(C, size)
    if off == HEAP_FULL:
        at_add32(&C.dispatch.sweep, 1)
        ring_node(C)
        end = now_ns() + 300000000
        if heap_footprint(size) > C.head.n_units * PR_UNIT:
            end = 0
        while True:
            off = heap_alloc(C, size)
            if off != HEAP_FULL or now_ns() > end:
                break
            with nogil:
                futex_wait(&C.dispatch.sweep, C.dispatch.sweep, 2000000)
            PyErr_CheckSignals()
    if off == HEAP_FULL:
        raise full(size)
    if size >= GUARDED:
        fresh = heap_untouched(C, off, size)
        if fresh >= GUARDED and _guard is not None:
            reason = _guard(fresh)
            if reason is not None:
                heap_free(C, off, size)
                raise ObjectStoreFullError(
                    f"an object of {size} bytes would take {fresh} more bytes of memory, but "
                    f"{reason}")
    heap_touch(C, off, size)
    return off


cdef object full(uint64_t size):
    cdef uint64_t used = C.head.used_units * PR_UNIT
    cdef uint64_t total = C.head.n_units * PR_UNIT
    return ObjectStoreFullError(
        f"an object of {size} bytes does not fit: {used} of the store's {total} bytes are in use, "
        f"and the rest is {'too small' if total - used < size else 'in pieces'}. Drop references "
        "(ObjectIDs and arrays that views still pin), or pass a larger object_store_memory to "
        "init()")


# ---- values --------------------------------------------------------------------------------

cdef int store_value(uint64_t handle, object value, uint64_t flags, bint own,
                     object root) except -1:
    """Write a value into a record and seal it.  On an error nothing is sealed and nothing lost."""
    cdef pr_object *o = object_at(C, handle)
    cdef char scratch[SCRATCH]
    cdef Py_ssize_t n
    cdef Encoded enc
    cdef uint64_t off, count, total
    cdef char *at
    n = encode_inline(value, <char *>o.data, PR_INLINE_OBJECT)
    if n >= 0:
        o.size = n
        if not own:
            about_to_search(C)
        seal(C, handle, flags | OBJ_INLINE)
        return 0
    n = encode_inline(value, scratch, SCRATCH)
    if n >= 0:
        off = alloc(n)
        memcpy(C.payload + off, scratch, n)
        o.off = off
        o.size = n
        if not own:
            about_to_search(C)
        seal(C, handle, flags | OBJ_COMPACT)
        return 0
    enc = encode(value, root)
    count = len(enc.contained)
    total = enc.nbytes
    if count:
        total += count * PACKED + 8
    off = alloc(total)
    try:
        enc.write_to(C.payload + off)
        if count:
            at = C.payload + off + enc.nbytes
            for oid in enc.contained:
                packed = pack(<ObjectID>oid)
                memcpy(at, <const char *>packed, PACKED)
                at += PACKED
            memcpy(at, &count, 8)
    except BaseException:
        heap_free(C, off, total)
        raise
    o.off = off
    o.size = total
    if count:
        flags |= OBJ_NESTED
        o.liable = <unsigned short>C.self
        if own:
            flags |= OBJ_ACKED
        _contained[handle] = enc.contained
    if not own:
        about_to_search(C)
    seal(C, handle, flags)
    if count:
        drop_contained(handle)
    return 0


cdef list nested_ids(pr_object *o):
    cdef uint64_t count
    cdef const char *end = C.readonly + o.off + o.size
    memcpy(&count, end - 8, 8)
    cdef const char *at = end - 8 - count * PACKED
    return [unpack(at[i * PACKED:(i + 1) * PACKED]) for i in range(count)]


cdef object load_raw(uint64_t handle, object holder):
    """Decode a sealed object's value; `holder` is what views of it are to hold."""
    cdef pr_object *o = object_at(C, handle)
    cdef uint64_t s = at_load64(&o.state)
    cdef uint64_t size = o.size
    cdef uint64_t count
    if s & OBJ_INLINE:
        return decode_inline(<const char *>o.data, size)
    if s & OBJ_COMPACT:
        return decode_inline(C.readonly + o.off, size)
    if s & OBJ_NESTED:
        memcpy(&count, C.readonly + o.off + size - 8, 8)
        size -= count * PACKED + 8
    return decode(C.readonly + o.off, size, pin(holder))


cdef object load_value(ObjectID oid):
    """The value of a sealed object; raises it if it is an error."""
    cdef pr_object *o = object_at(C, oid.handle)
    cdef uint64_t s = at_load64(&o.state)
    value = load_raw(oid.handle, oid)
    if s & OBJ_NESTED and not s & OBJ_ACKED and o.owner == C.self:
        # First look of the owner: take over the ids inside, so that the writer may let go.
        _contained[oid.handle] = nested_ids(o)
        at_or64(&o.state, OBJ_ACKED)
        wake_process(C, o.liable)
    if s & OBJ_ERROR:
        raise value
    return value


cdef object borrow_for_view(uint64_t handle):
    """Something that holds an object whose bytes this process is about to look into.

    Not an id that can be passed on: a task's argument is known here by its handle only.
    """
    cdef object address = _interned.get(handle)
    cdef ObjectID oid
    if address is not None:
        return <object><PyObject *><size_t>address
    cdef ViewHold v = ViewHold.__new__(ViewHold)
    address = _view_holds.get(handle)
    if address is not None:
        return <object><PyObject *><size_t>address
    if not hold(C, handle):
        raise ObjectLostError("an argument's object is gone: the process that owned it died")
    v.handle = handle
    v.epoch = C.epoch
    _view_holds[handle] = <size_t><PyObject *>v
    return v


@cython.no_gc
@cython.final
cdef class ViewHold:
    """This process's hold on an object that it sees only through views."""
    cdef uint64_t handle
    cdef uint32_t epoch

    def __dealloc__(self):
        if self.epoch != C.epoch or not C.attached or C.forked or self.handle == 0:
            return
        _view_holds.pop(self.handle, None)
        # An id that came in since shares the bit; the last of the two clears it.
        if self.handle not in _interned:
            unhold(C, self.handle)


cdef ObjectID put_value(object value, bytes parent, uint64_t counter, object root):
    cdef uint64_t handle = new_record()
    cdef ObjectID oid
    try:
        store_value(handle, value, 0, True, root)
    except BaseException:
        at_store64(&object_at(C, handle).state,
                   (at_load64(&object_at(C, handle).state) & ~<uint64_t>0xFF) | OBJ_FREEING)
        object_recycle(C, handle)
        raise
    oid = new_id(handle, parent, counter, 0x80000000)
    return oid


# ---- waiting -------------------------------------------------------------------------------

cdef Py_ssize_t count_sealed(uint64_t *handles, Py_ssize_t n, Py_ssize_t need,
                             bint *error) noexcept nogil:
    """How many are there; stops at `need`.  `error`: one of those seen is an error."""
    cdef Py_ssize_t i, ready = 0
    cdef uint64_t s
    for i in range(n):
        s = at_load64(&object_at(C, handles[i]).state)
        if (s & 0xFF) == OBJ_SEALED:
            ready += 1
            if s & OBJ_ERROR:
                error[0] = True
            if ready >= need:
                break
    return ready


cdef void sleep_on(pr_waiter *w, int64_t until) noexcept nogil:
    """Spin, then park, until enough events came in or the time is up or a signal came."""
    cdef uint32_t events = 0
    cdef int64_t start = now_ns(), left
    cdef int i
    while True:
        if <int>(at_load_relaxed32(&w.events) - w.target) >= 0:
            return
        for i in range(20):
            cpu_pause()
        left = now_ns()
        if left - start > SPIN_NS or left > until:
            break
    while True:
        events = at_load32(&w.events)
        if <int>(events - w.target) >= 0:
            return
        left = until - now_ns()
        if left <= 0:
            return
        at_store32(&w.parked, 1)
        i = futex_wait(&w.events, events, left)
        at_store32(&w.parked, 0)
        if i == -4:     # EINTR
            return


cdef void block(uint64_t *handles, Py_ssize_t n) noexcept nogil:
    """The task that this process runs starts to wait: give its CPU to whoever can use it."""
    cdef Py_ssize_t i
    for i in range(n):
        if not sealed(C, handles[i]):
            raise_depth(C, handles[i], C.me.depth + 1, 0)
    at_store32(&C.me.blocked, 1)
    if C.me.shaped == SHAPED_RUNS:
        at_store32(&C.me.shaped, SHAPED_BLOCKED)
        ring_node(C)
    else:
        token_release(C)
        if queue_visible(C):
            announce(C)


cdef int unblock() except -1:
    """Take the CPU again before the task goes on."""
    cdef uint32_t seen
    if C.me.shaped == SHAPED_BLOCKED:
        at_store32(&C.me.shaped, SHAPED_WANTS)
        ring_node(C)
        while at_load32(&C.me.shaped) == SHAPED_WANTS and not at_load32(&C.dispatch.stopping):
            with nogil:
                seen = at_load32(&C.me.wake)
                if at_load32(&C.me.shaped) == SHAPED_WANTS:
                    at_store32(&C.me.parked, 1)
                    futex_wait(&C.me.wake, seen, CHUNK_NS)
                    at_store32(&C.me.parked, 0)
    else:
        with nogil:
            token_resume(C, RESUME_NS)
    at_store32(&C.me.blocked, 0)
    return 0


cdef Py_ssize_t wait_for(uint64_t *handles, Py_ssize_t n, Py_ssize_t need, int64_t until,
                         bint stop_at_error, list ids) except -1:
    """Wait until `need` of the objects are sealed; how many are, which may be fewer at the time
    limit (`until`, monotonic ns; negative: none) or, if so told, when one is an error."""
    cdef bint error = False, blocked = False
    cdef Py_ssize_t i, ready
    cdef int waiter
    cdef pr_waiter *w = NULL
    cdef uint32_t events = 0
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
    blocked = _task_thread != 0 and PyThread_get_thread_ident() == _task_thread
    if blocked:
        block(handles, n)
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
                    sleep_on(w, end)
            else:
                # More threads wait than there are waiters: this one looks every millisecond.
                with nogil:
                    futex_wait(&C.dispatch.sweep, C.dispatch.sweep, 1000000)
            PyErr_CheckSignals()
            if C.broken:
                raise NodeDiedError(_broken_reason)
            if at_load32(&C.dispatch.stopping) or not C.attached:
                raise SessionError("the session was shut down during this wait")
            now = now_ns()
            if now - looked >= CHUNK_NS - 1000000:
                looked = now
                rescue(C)
                if at_load32(&C.me.refused):
                    count = C.me.refused - 1
                    at_store32(&C.me.refused, 0)
                    raise ProcessLimitError(
                        f"this wait needs one more worker, but the session has its limit of "
                        f"{count} processes, blocked in waits of their own: nest less deeply, or "
                        "wait in fewer tasks at once")
                if _tick is not None:
                    _tick((now - start) / 1e9, ids)
    finally:
        if waiter >= 0 and C.attached:
            waiter_close(C, waiter)
        if blocked and C.attached:
            unblock()


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


cdef object get_one(ObjectID oid, object timeout):
    cdef int64_t until
    check_id(oid)
    if not sealed(C, oid.handle):
        until = deadline(timeout)
        if wait_for(&oid.handle, 1, 1, until, False, [oid]) < 1:
            raise GetTimeoutError(
                f"get waited {timeout} s for {oid!r}, which is not there yet; "
                "the task goes on, and get may be called again")
    return load_value(oid)


def get(refs, *, timeout=None):
    """The value of an object, or the values of a list of them: see pyray.get."""
    cdef Py_ssize_t n, i, ready
    cdef uint64_t *handles
    cdef ObjectID oid
    cdef int64_t until
    cdef list ids, out
    if type(refs) is ObjectID:
        return get_one(<ObjectID>refs, timeout)
    check_session()
    if type(refs) is not list:
        if isinstance(refs, (list, tuple)):
            refs = list(refs)
        else:
            raise TypeError(
                f"get takes an ObjectID or a list of ObjectIDs, not {type(refs).__name__}")
    ids = refs
    n = len(ids)
    for i in range(n):
        if type(<object>PyList_GET_ITEM(ids, i)) is not ObjectID:
            raise TypeError(f"get takes ObjectIDs; item {i} of the list is "
                            f"{type(ids[i]).__name__}")
        check_id(<ObjectID>ids[i])
    until = deadline(timeout)
    handles = <uint64_t *>malloc(max(n, 1) * sizeof(uint64_t))
    if handles == NULL:
        raise MemoryError
    ids = list(ids)     # the caller's may change while we wait
    try:
        for i in range(n):
            handles[i] = (<ObjectID>PyList_GET_ITEM(ids, i)).handle
        ready = wait_for(handles, n, n, until, True, ids)
        if ready < n:
            for i in range(n):
                # An error that is there is raised at once, whatever is still missing.
                if (sealed(C, handles[i])
                        and at_load64(&object_at(C, handles[i]).state) & OBJ_ERROR):
                    load_value(<ObjectID>ids[i])
            raise GetTimeoutError(f"get waited {timeout} s: {n - ready} of {n} objects are not "
                                  "there yet; the tasks go on, and get may be called again")
    finally:
        free(handles)
    out = []
    for i in range(n):
        out.append(load_value(<ObjectID>PyList_GET_ITEM(ids, i)))
    return out


def wait(refs, *, num_returns=1, timeout=None):
    """Which of some objects are there: see pyray.wait."""
    global _mark
    cdef Py_ssize_t n, i, need, found
    cdef uint64_t *handles
    cdef ObjectID oid
    cdef list ids, ready, rest
    cdef int64_t until
    check_session()
    if type(refs) is ObjectID:
        raise TypeError("wait takes a list of ObjectIDs, not a single one")
    if not isinstance(refs, (list, tuple)):
        raise TypeError(f"wait takes a list of ObjectIDs, not {type(refs).__name__}")
    ids = list(refs)
    n = len(ids)
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns is a whole number, not {num_returns!r}")
    need = num_returns
    if n == 0:
        raise ValueError("wait needs at least one ObjectID")
    if not 1 <= need <= n:
        raise ValueError(f"num_returns is between 1 and the number of ids, {n}, not {need}")
    until = deadline(timeout)
    _mark += 1
    for i in range(n):
        if type(<object>PyList_GET_ITEM(ids, i)) is not ObjectID:
            raise TypeError(f"wait takes ObjectIDs; item {i} of the list is "
                            f"{type(ids[i]).__name__}")
        oid = <ObjectID>PyList_GET_ITEM(ids, i)
        if oid.epoch != C.epoch:
            check_id(oid)
        if oid.mark == _mark:
            raise ValueError(f"wait takes each id once; {oid!r} is there twice")
        oid.mark = _mark
    found = 0
    for i in range(n):
        if sealed(C, (<ObjectID>PyList_GET_ITEM(ids, i)).handle):
            found += 1
            if found == need:
                break
    if found < need:
        handles = <uint64_t *>malloc(n * sizeof(uint64_t))
        if handles == NULL:
            raise MemoryError
        try:
            for i in range(n):
                handles[i] = (<ObjectID>PyList_GET_ITEM(ids, i)).handle
            wait_for(handles, n, need, until, False, ids)
        finally:
            free(handles)
    ready = []
    rest = []
    for i in range(n):
        oid = <ObjectID>PyList_GET_ITEM(ids, i)
        if sealed(C, oid.handle):
            ready.append(oid)
            if <Py_ssize_t>len(ready) == need:
                rest.extend(ids[i + 1:])
                break
        else:
            rest.append(oid)
    return ready, rest


def arrow_parts(ObjectID oid):
    """An object's bytes and whether they are the compact form; waits for it."""
    cdef pr_object *o
    cdef uint64_t s, size, count
    check_id(oid)
    if not sealed(C, oid.handle):
        wait_for(&oid.handle, 1, 1, -1, False, [oid])
    o = object_at(C, oid.handle)
    s = at_load64(&o.state)
    size = o.size
    if s & OBJ_INLINE:
        return (<const char *>o.data)[:size], True
    if s & OBJ_NESTED:
        memcpy(&count, C.readonly + o.off + size - 8, 8)
        size -= count * PACKED + 8
    return (C.readonly + o.off)[:size], bool(s & OBJ_COMPACT)


def object_stats():
    """Figures of the store: bytes in use and in all, and what this process is liable for."""
    check_session()
    return {
        "used": C.head.used_units * PR_UNIT,
        "total": C.head.n_units * PR_UNIT,
        "chunks": C.head.chunks_used,
        "interned": len(_interned),
        "contained": len(_contained),
    }


def object_size(ObjectID oid):
    """Bytes of an object's value in the store, or None while it is not there."""
    check_id(oid)
    if not sealed(C, oid.handle):
        return None
    return object_at(C, oid.handle).size


def object_address(ObjectID oid):
    """Offset of an object's payload: the same in every process, so tests can compare places."""
    check_id(oid)
    return object_at(C, oid.handle).off


cdef void store_reset():
    _interned.clear()
    _view_holds.clear()
    _contained.clear()


cdef int take_over_nested(uint64_t handle) except -1:
    """The node becomes liable for the ids inside a dead process's value."""
    cdef pr_object *o = object_at(C, handle)
    try:
        _contained[handle] = nested_ids(o)
    except ObjectLostError:
        return 0
    o.liable = <unsigned short>C.self
    return 0


def check():
    """Raise unless this process has a session that can be used."""
    check_session()


def is_broken():
    """Whether the session's node process is gone."""
    return bool(C.broken)


def is_ready(ObjectID oid):
    """Whether an object is there."""
    check_id(oid)
    return bool(sealed(C, oid.handle))


def task_of(ObjectID oid):
    """Handle of the task that makes an object, or 0."""
    check_id(oid)
    return object_at(C, oid.handle).task
