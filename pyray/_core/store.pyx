"""The object store as Python sees it: ids, and values going in and out.

What is shared lies in objects.pyx; here are the private ends of it: an ObjectID's Python reference
count *is* this process's count of the object, numpy views pin it through a Pin, and ids inside
values are kept alive by whoever is liable for them.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyray._core.by_reference cimport is_shared, shared
from pyray._core.dispatch cimport about_to_search, ring_node, wake_process
from pyray._core.heap cimport HEAP_FULL, heap_alloc, heap_alloc_on_disk, heap_footprint, heap_free
from pyray._core.heap cimport heap_touch, heap_untouched, heap_used, heap_zero
from pyray._core.ids cimport object_digest, task_digest
from pyray._core.layout cimport *
from pyray._core.points cimport *
from pyray._core.objects cimport alive, hold, notify_all, seal, sealed, try_free, unhold
from pyray._core.private_copy cimport private_copy
from pyray._core.records cimport object_new, object_recycle
from pyray._core.compact cimport compact_decode as decode_inline
from pyray._core.compact cimport compact_encode as encode_inline
from pyray._core.serializer cimport Encoded, decode, encode
from pyray._core.shm cimport Ctx, Mapping, current_mapping, get_ctx, object_at
from pyray._core.pins cimport note_block, pin_place, pins_epoch, pins_reset, place_of, unpin
from pyray._core.spilling cimport relieve, room_for, spilling_reset, why_not

from pyray._core.hex_id import HexID
from pyray._core.errors import (
    ForeignObjectError, NodeDiedError, ObjectLostError, ObjectStoreFullError, OutOfRecordsError,
    SessionError, TaskCancelledError,
)

cdef extern from *:
    """
    #ifdef PYRAY_DEBUG
    #define PR_LIVE(counter, change) ((counter) += (change))
    #define PR_COUNTS 1
    #else
    #define PR_LIVE(counter, change) ((void)0)
    #define PR_COUNTS 0
    #endif
    """
    void PR_LIVE(Py_ssize_t counter, int change)
    const bint PR_COUNTS

cdef Ctx *C = get_ctx()

# Objects of this module that live, counted in debug builds only; see live_counts().
cdef Py_ssize_t _live_ids = 0
cdef Py_ssize_t _live_pins = 0
cdef Py_ssize_t _live_holds = 0

cdef enum:
    NODE = 1                # the node's process slot
    SCRATCH = 1024          # values whose compact form fits in here are stored in that form
    GUARDED = 1 << 20       # allocations that touch this much new memory are checked first
    # In a full store others are asked this often to let go of what they hold for nothing, and given
    # so long for it, before things go to disk that nobody wants any more.
    ASK_NS = 200000000
    ASKED_NS = 10000000

# id handle -> address of the one ObjectID of this process for an object whose id has escaped.
cdef dict _interned = {}
# Object that contains ids -> those ids, for objects that this process is liable for:
# its own, and results that it wrote and whose owner has not registered yet.
cdef dict _contained = {}
# Handle -> address of the ViewHold, for objects seen through views only.
cdef dict _view_holds = {}
cdef uint32_t _private_ids = 0      # ids that have not escaped, each of which holds its object
cdef list _dropped = []
cdef bint _dropping = False
cdef str _broken_reason = ""
cdef object _sweep = None           # lets go of what this process holds for nothing
cdef object _guard = None           # called before memory grows: (bytes) -> None or a reason
cdef object _unseen = None          # told of errors that nobody has asked for


def set_guard(guard):
    """Have `guard(bytes)` asked before memory grows: None, or why it may not."""
    global _guard
    _guard = guard


def set_unseen(unseen):
    """Have `unseen(error)` called with an error that is gone before anybody asked for it, and with
    the object's handle, for `peek`, where it is still to be read; it must not raise."""
    global _unseen
    _unseen = unseen


def peek(uint64_t handle):
    """The value of an error that `unseen` was told of."""
    return load_raw(handle, None)


cdef void say_unseen(object error):
    if _unseen is not None and not at_load32(&C.dispatch.stopping):
        C.inflight += 1
        try:
            _unseen(error)
        except BaseException:
            pass        # this is a destructor's work: nobody could do anything about it
        finally:
            C.inflight -= 1


cdef int sweep_now() except -1:
    """Let go of what this process holds for nothing: somebody needs room."""
    if _sweep is not None:
        _sweep()
    return 0


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
    if oid.epoch != C.epoch or not C.attached or C.forked or C.broken:
        if C.attached:
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

    def __cinit__(self):
        PR_LIVE(_live_ids, 1)

    def __dealloc__(self):
        global _private_ids
        PR_LIVE(_live_ids, -1)
        if self.epoch != C.epoch or not C.attached or C.forked or self.handle == 0:
            return
        if self.escaped:
            _interned.pop(self.handle, None)
            if not (_view_holds and views_hold(self.handle)):       # they share the bit
                unhold(C, self.handle)
        else:
            if not self.weak:
                _private_ids -= 1
            # An id that never left this process: nobody else can have asked for the error.
            if at_load64(&object_at(C, self.handle).state) & OBJ_ERROR and not self.asked:
                say_unseen(self.handle)
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

    def task_id(self):
        """Id of the task that returns the object, or that put it: a string of 40 digits."""
        cdef uint8_t out[20]
        if self.index == PUT_INDEX:
            return HexID(self.parent.hex())
        # That of a stream has a bit of its own in its counter.
        task_digest(<const uint8_t *><const char *>self.parent, self.counter & ~PR_CELLS, out)
        return HexID((<const char *>out)[:20].hex())

    def __repr__(self):
        return f"ObjectID({self._binary().hex()})"

    def __hash__(self):
        # Of what the 20 bytes are computed from, which is a hundred times quicker.
        cdef uint64_t h = <uint64_t>hash(self.parent)
        h ^= (self.counter + 1) * <uint64_t>0x9E3779B97F4A7C15 + self.index
        return <Py_hash_t>(h ^ (h >> 32))

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

    def __await__(self):
        if _make_awaitable is None:
            import_futures()
        return _make_awaitable(self)

    def future(self):
        """A future of the object's value, for code that knows nothing of pyray.

        Cancelling it does not cancel the task. In a task, the task counts as waiting, and so has
        given its CPU up, from this call until the object is there.

        Returns
        -------
        concurrent.futures.Future
            Resolved already if the object is there; what ``result()`` returns or raises is what
            `get` would.

        Raises
        ------
        SessionError
            The id is of a session that is over; and so does the future's ``result()`` when the
            session ends before the object is there.

        Examples
        --------
        >>> import pyray as ray
        >>> ray.put(1).future().result(timeout=10)
        1
        """
        if _make_future is None:
            import_futures()
        return _make_future(self)


# futures.pyx's, which stands above this module: (ObjectID) -> iterator, (ObjectID) -> Future.
cdef object _make_awaitable = None
cdef object _make_future = None


cdef int import_futures() except -1:
    global _make_awaitable, _make_future
    from pyray._core.futures import awaitable, future_of
    _make_awaitable, _make_future = awaitable, future_of
    return 0


cdef ObjectID new_id(uint64_t handle, bytes parent, uint64_t counter, uint32_t index):
    global _private_ids
    cdef ObjectID oid = ObjectID.__new__(ObjectID)
    _private_ids += 1
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
        set_escaped(oid)
    return 0


cdef int set_escaped(ObjectID oid) except -1:
    """This process's bit is set: the record says from now on that it holds the object."""
    global _private_ids
    _interned[oid.handle] = <size_t><PyObject *>oid
    oid.escaped = True
    _private_ids -= 1
    return 0


def pack(ObjectID oid):
    """The bytes that stand for an id inside a value."""
    cdef char out[PACKED_BYTES]
    escape(oid)
    memcpy(out, &C.head.nonce, 8)
    memcpy(out + 8, &oid.handle, 8)
    memcpy(out + 16, <const char *>oid.parent, 20)
    memcpy(out + 36, &oid.counter, 8)
    memcpy(out + 44, &oid.index, 4)
    return out[:PACKED_BYTES]


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
    check_session()
    if len(packed) != PACKED_BYTES:
        raise ValueError(f"a packed id has {PACKED_BYTES} bytes, not {len(packed)}")
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
    return adopt(handle, packed[16:36], counter, index)


cdef ObjectID adopt(uint64_t handle, bytes parent, uint64_t counter, uint32_t index):
    """An id that came in from another process, which holds the object while this one begins to."""
    cdef ObjectID oid
    cdef object address = _interned.get(handle)
    if address is not None:
        return <ObjectID><PyObject *><size_t>address
    if not hold(C, handle):
        raise ObjectLostError(
            "an ObjectID inside a value refers to an object that is gone: the process that owned "
            "it died, or the id was kept as bytes while nothing held the object")
    oid = new_id(handle, parent, counter, index)
    set_escaped(oid)
    return oid


def weak(bytes packed):
    """An id from those bytes that keeps nothing alive: an actor's own ref, in its process.

    The object may be gone: an actor that nobody holds still runs its last calls.
    """
    global _private_ids
    cdef const char *p = packed
    cdef uint64_t handle, counter
    cdef uint32_t index
    cdef ObjectID oid
    check_session()
    memcpy(&handle, p + 8, 8)
    memcpy(&counter, p + 36, 8)
    memcpy(&index, p + 44, 4)
    oid = new_id(handle, packed[16:36], counter, index)
    oid.asked = True        # its end is no news of an error
    oid.weak = True
    _private_ids -= 1
    return oid


def strong(ObjectID oid):
    """The same id as one that keeps its object alive."""
    cdef ObjectID other
    check_id(oid)
    if oid.escaped:
        return oid
    address = _interned.get(oid.handle)
    if address is not None:
        return <object><PyObject *><size_t>address
    if at_load64(&object_at(C, oid.handle).state) & OBJ_DROPPED or not hold(C, oid.handle):
        raise ObjectLostError(
            "nobody holds this actor any more, so it ends when it has run the calls that it was "
            "sent: its handle cannot be passed on; keep a handle where the actor was made")
    other = new_id(oid.handle, oid.parent, oid.counter, oid.index)
    set_escaped(other)
    return other


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


cdef dict contained_ids():
    """Object that contains ids -> those ids, for objects that this process is liable for."""
    return _contained


cdef bint has_duties():
    """Whether this process holds ids on behalf of values that others own or hold."""
    return len(_contained) != 0


cdef int sweep_store():
    """Let go of ids inside values that are gone or that their owner has taken over."""
    cdef uint64_t handle
    cdef uint64_t s
    cdef uint32_t owner
    for key in list(_contained):
        handle = key
        if not alive(C, handle):
            drop_contained(handle)
        else:
            s = at_load64(&object_at(C, handle).state)
            owner = object_at(C, handle).owner
            # Of a cell the reader holds what it needs, and no longer what the cell contains.  What
            # a dead process owned is the node's, which may not have come to say so.
            if s & OBJ_ACKED and (s & OBJ_CELL or (owner != C.self and (
                    C.self != NODE or at_load32(&C.procs[owner].status) != PROC_DEAD))):
                _contained.pop(handle, None)
    return 0


# ---- views ---------------------------------------------------------------------------------

@cython.no_gc
@cython.final
cdef class Pin:
    """What a view into the store holds: the object, its place, and the mapping that it lies in."""

    def __cinit__(self):
        PR_LIVE(_live_pins, 1)

    def __dealloc__(self):
        PR_LIVE(_live_pins, -1)
        if self.unit and self.epoch == C.epoch and self.pins == pins_epoch() and not C.forked:
            unpin(self.unit)


cdef Pin pin(object oid, pr_object *o):
    """Have an object's payload stay where it is; `oid` is what keeps the object."""
    cdef Pin p = Pin.__new__(Pin)
    p.mapping = current_mapping()
    p.oid = oid
    p.epoch = C.epoch
    p.pins = pins_epoch()
    p.place = pin_place(o, &p.unit)
    return p


# ---- room ----------------------------------------------------------------------------------

cdef uint64_t new_record() except 0:
    cdef uint64_t handle = object_new(C)
    if handle == 0:
        sweep_now()
        handle = object_new(C)
    if handle == 0:
        raise OutOfRecordsError(
            f"no room for another object's record: all {C.head.n_chunks * PR_CHUNK_BYTES >> 20} "
            "MiB of records are in use; drop references to results that you no longer need")
    return handle


cdef void discard_record(uint64_t handle) noexcept nogil:
    """Give back a record that came to nothing: nobody else knows of it."""
    cdef pr_object *o = object_at(C, handle)
    at_store64(&o.state, (at_load64(&o.state) & PR_GEN_MASK) | OBJ_EMPTY | PR_BY(C.self))
    object_recycle(C, handle)


cdef uint64_t alloc(uint64_t size, bint zero=False) except? 0xFFFFFFFFFFFFFFFF:
    """Room for a payload, in memory if there is any to be had."""
    cdef uint64_t off = heap_alloc(C, size)
    if off == HEAP_FULL:
        off = alloc_in_full_store(size)
    if size >= GUARDED and _guard is not None:
        off = alloc_guarded(off, size)
    if zero:
        with nogil:
            heap_zero(C, off, size)
    heap_touch(C, off, size)
    PR_POINT(C, POINT_BLOCK_CLAIMED)
    return off


cdef int64_t _asked = 0


cdef uint64_t alloc_in_full_store(uint64_t size) except? 0xFFFFFFFFFFFFFFFF:
    """Have everybody let go of what is held for nothing, spill, and fail if that does not help."""
    global _asked
    cdef uint64_t off
    cdef int64_t now = now_ns(), end = now
    cdef int error = 0
    cdef bint hopeless = heap_footprint(size) > C.head.n_units * PR_UNIT
    sweep_now()
    off = heap_alloc(C, size)
    if off != HEAP_FULL:
        return off
    # The node's own sweep is all the help that it has.
    if C.self != NODE and not hopeless and (C.spill.fd < 0 or now - _asked > ASK_NS):
        _asked = now
        at_add32(&C.dispatch.sweep, 1)
        ring_node(C)
        if C.spill.fd >= 0:
            off = alloc_when_swept(size, now + ASKED_NS)
    if off == HEAP_FULL:
        off = room_for(size, &error)
    if off == HEAP_FULL:
        if C.self != NODE and not hopeless:
            end = now + 300000000
        off = alloc_when_swept(size, end)
    if off == HEAP_FULL:
        raise full(size, error)
    return off


cdef uint64_t alloc_when_swept(uint64_t size, int64_t end) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t off
    while True:
        # Each time: what a task held is let go of only once its worker is through with it.
        sweep_now()
        off = heap_alloc(C, size)
        if off != HEAP_FULL or now_ns() > end:
            return off
        with nogil:
            futex_wait(&C.dispatch.sweep, C.dispatch.sweep, 2000000)
        PyErr_CheckSignals()


cdef uint64_t alloc_guarded(uint64_t off, uint64_t size) except? 0xFFFFFFFFFFFFFFFF:
    """The block, or another one, if the machine can spare the memory that it would take."""
    cdef uint64_t fresh = heap_untouched(C, off, size)
    cdef int error = 0
    reason = why_not_grow(fresh, off, size)
    if reason is None:
        return off
    heap_free(C, off, size)
    if relieve(fresh, &error) > 0:
        off = heap_alloc(C, size)
        if off != HEAP_FULL:
            fresh = heap_untouched(C, off, size)
            if why_not_grow(fresh, off, size) is None:
                return off
            heap_free(C, off, size)
    if not C.spill.in_memory and not error:
        with nogil:
            off = heap_alloc_on_disk(C, size, &error)
        if off != HEAP_FULL:
            at_add64(&C.head.direct_bytes, size)
            return off
    raise ObjectStoreFullError(
        f"an object of {size} bytes would take {fresh} more bytes of memory, but {reason}; "
        f"{why_not(error)}")


cdef object why_not_grow(uint64_t fresh, uint64_t off, uint64_t size):
    """What stands against using a block that takes so much more memory; frees it if that cannot be
    said."""
    if fresh < GUARDED:
        return None
    try:
        return _guard(fresh)
    except BaseException:
        heap_free(C, off, size)
        raise


cdef object full(uint64_t size, int error):
    cdef uint64_t used = heap_used(C) * PR_UNIT
    cdef uint64_t total = C.head.n_units * PR_UNIT
    return ObjectStoreFullError(
        f"an object of {size} bytes does not fit: {used} of the store's {total} bytes are in use, "
        f"and the rest is {'too small' if total - used < size else 'in pieces'}; "
        f"{why_not(error)}. Drop references (ObjectIDs and arrays that views still pin), or pass a "
        "larger object_store_memory or max_spill_bytes to init()")


# ---- values --------------------------------------------------------------------------------

cdef object as_result(object value, uint64_t since=0):
    """What a task returns or yields: a shared array that it has made is sealed."""
    if is_shared(value):
        return shared().finish(value, since)
    return value


cdef int store_value(uint64_t handle, object value, uint64_t flags, int whose,
                     object root, bint by_reference=False) except -1:
    """Write a value into a record and seal it.  On an error nothing is sealed and nothing lost."""
    cdef pr_object *o = object_at(C, handle)
    cdef char scratch[SCRATCH]
    cdef Py_ssize_t n
    cdef Encoded enc
    cdef uint64_t off, count, total
    cdef char *at
    n = encode_inline(value, scratch, SCRATCH)
    if 0 <= n <= PR_INLINE_OBJECT:
        o.size = n
        if n > PR_NAME_AT:
            move_name(o, handle)
            memcpy(o.data, scratch, PR_INLINE_OBJECT)
        else:
            memcpy(o.data, scratch, PR_NAME_AT)
        if whose == RESULT:
            about_to_search(C)
        seal(C, handle, flags | OBJ_INLINE)
        return 0
    if n >= 0:
        off = alloc(n)
        memcpy(C.payload + off, scratch, n)
        o.off = off
        o.size = n
        if whose == RESULT:
            about_to_search(C)
        if not seal(C, handle, flags | OBJ_COMPACT):
            heap_free(C, off, n)
        return 0
    if whose != OWN:
        value = as_result(value)
    enc = encode(value, root, by_reference)
    count = len(enc.contained)
    total = enc.nbytes
    if count:
        total += count * PACKED_BYTES + 8
    off = alloc(total)
    try:
        enc.write_to(C.payload + off)
        if count:
            at = C.payload + off + enc.nbytes
            for nested in enc.contained:
                packed = pack(<ObjectID>nested)
                memcpy(at, <const char *>packed, PACKED_BYTES)
                at += PACKED_BYTES
            memcpy(at, &count, 8)
    except BaseException:
        heap_free(C, off, total)
        raise
    o.off = off
    o.size = total
    note_block(handle, off, total)
    PR_POINT(C, POINT_PAYLOAD_WRITTEN)
    if count:
        flags |= OBJ_NESTED
        o.liable = <unsigned short>C.self
        if whose == OWN:
            flags |= OBJ_ACKED
        _contained[handle] = enc.contained
    if whose == RESULT:
        about_to_search(C)
    if not seal(C, handle, flags):
        heap_free(C, off, total)        # an earlier attempt's result stands
    if count:
        drop_contained(handle)
    return 0


cdef void move_name(pr_object *o, uint64_t handle) noexcept nogil:
    """The value takes the name's room in the record."""
    cdef pr_name *name = <pr_name *>(o.data + PR_NAME_AT)
    if name.counter >> 48 == ((handle >> 32) & 0xFFFF):
        C.names[<uint32_t>handle] = name[0]
    # Readers look here first, and see this before any of the value.
    at_store64(&name.counter, 0)


cdef int copy_value(uint64_t to, ObjectID source, uint64_t flags) except -1:
    """Write another object's value into a record and seal it, without looking into the value."""
    cdef pr_object *o = object_at(C, to)
    cdef pr_object *old = object_at(C, source.handle)
    cdef uint64_t s = at_load64(&old.state)
    cdef uint64_t off, size = old.size
    cdef Pin from_
    flags |= s & (OBJ_INLINE | OBJ_COMPACT | OBJ_NESTED)
    if s & OBJ_INLINE:
        if size > PR_NAME_AT:
            move_name(o, to)
            memcpy(o.data, old.data, PR_INLINE_OBJECT)
        else:
            memcpy(o.data, old.data, PR_NAME_AT)
        o.size = size
        seal(C, to, flags)
        return 0
    nested = nested_ids(old) if s & OBJ_NESTED else None
    off = alloc(size)
    from_ = pin(None, old)
    memcpy(C.payload + off, C.readonly + from_.place, size)
    o.off = off
    o.size = size
    note_block(to, off, size)
    if nested is not None:
        o.liable = <unsigned short>C.self
        _contained[to] = nested
    if not seal(C, to, flags):
        heap_free(C, off, size)
    if nested is not None:
        drop_contained(to)
    return 0


cdef list nested_ids(pr_object *o):
    cdef uint64_t count
    cdef const char *end
    cdef pr_cell *cell
    cdef bytes parent
    if at_load64(&o.state) & OBJ_CELL:
        cell = <pr_cell *>o.data
        parent = (<const char *>cell.parent)[:20]
        return [adopt(cell.value, parent, cell.counter, cell.index + 1),
                adopt(cell.next, parent, cell.counter | PR_CELLS, cell.index + 1)]
    cdef Pin held = pin(None, o)
    end = C.readonly + held.place + o.size
    memcpy(&count, end - 8, 8)
    cdef const char *at = end - 8 - count * PACKED_BYTES
    return [unpack(at[i * PACKED_BYTES:(i + 1) * PACKED_BYTES]) for i in range(count)]


cdef object load_raw(uint64_t handle, object holder, bint writable=False):
    """Decode a sealed object's value; `holder` is what views of it are to hold.

    With `writable` arrays are views of a private copy instead, which holds it where it has to.
    """
    cdef pr_object *o = object_at(C, handle)
    cdef uint64_t s = at_load64(&o.state)
    cdef uint64_t size = o.size
    cdef uint64_t count
    if s & OBJ_CELL:
        return None     # it has no value: streams.pyx reads it
    if s & OBJ_INLINE:
        return decode_inline(<const char *>o.data, size)
    if s & OBJ_COMPACT:
        return decode_inline(C.readonly + place_of(o), size)
    cdef Pin held = pin(holder, o)
    cdef const char *payload = C.readonly + held.place
    if s & OBJ_NESTED:
        memcpy(&count, payload + size - 8, 8)
        size -= count * PACKED_BYTES + 8
    if not writable:
        return decode(payload, size, held)
    cdef Mapping mapping = held.mapping
    return decode(payload, size, private_copy(
        payload, size, mapping.file_of(held.place), mapping.place_in_file(held.place), held))


cdef object load_value(ObjectID oid, bint writable=False):
    """The value of a sealed object; raises it if it is an error."""
    cdef pr_object *o = object_at(C, oid.handle)
    cdef uint64_t s = at_load64(&o.state)
    if s & OBJ_INLINE and not s & (OBJ_ERROR | OBJ_CELL):
        return decode_inline(<const char *>o.data, o.size)
    if s & OBJ_ERROR:
        oid.asked = True
    C.inflight += 1         # unpickling runs code of the user's
    try:
        return load_stored(oid, o, s, writable)
    finally:
        C.inflight -= 1


cdef object load_stored(ObjectID oid, pr_object *o, uint64_t s, bint writable):
    value = load_raw(oid.handle, oid, writable and not s & OBJ_ERROR)
    if s & OBJ_NESTED and not s & OBJ_ACKED and o.owner == C.self:
        # First look of the owner: take over the ids inside, so that the writer may let go.
        _contained[oid.handle] = nested_ids(o)
        PR_POINT(C, POINT_NESTED_TAKEN)
        at_or64(&o.state, OBJ_ACKED)
        wake_process(C, o.liable)
    if s & OBJ_ERROR:
        if type(value) is str:
            raise ObjectStoreFullError(f"a task failed, and its error could not be stored: {value}")
        if type(value) is tuple:
            raise TaskCancelledError(*value)
        raise value
    return value


cdef object borrow_for_view(uint64_t handle):
    """Something that holds an object whose bytes this process is about to look into.

    Not an id that can be passed on: a task's argument is known here by its handle only.
    """
    cdef object address = _interned.get(handle)
    if address is not None:
        return <object><PyObject *><size_t>address
    cdef ViewHold v = ViewHold.__new__(ViewHold)
    address = _view_holds.get(handle)
    if address is not None:
        if not (<ViewHold><PyObject *><size_t>address).resting:
            return <object><PyObject *><size_t>address
        # Whoever keeps that one would keep the object: it is replaced.
    if not hold(C, handle):
        raise ObjectLostError("an argument's object is gone: the process that owned it died")
    v.handle = handle
    v.epoch = C.epoch
    _view_holds[handle] = <size_t><PyObject *>v
    return v


@cython.no_gc
@cython.final
cdef class ViewHold:
    """This process's hold on an object that it sees only through views.

    It can rest, and then holds nothing: who is likely to look into the object again soon, as a
    worker that gets one row of an array after the other, keeps it for that.
    """

    def __cinit__(self):
        PR_LIVE(_live_holds, 1)

    def __dealloc__(self):
        PR_LIVE(_live_holds, -1)
        if self.epoch != C.epoch or not C.attached or C.forked or self.handle == 0:
            return
        if _view_holds.get(self.handle) == <size_t><PyObject *>self:
            del _view_holds[self.handle]
        if not self.resting:
            self.rest()

    cdef void rest(self):
        self.resting = True
        if self.epoch != C.epoch or not C.attached or C.forked:
            return
        # An id that came in since shares the bit; the last of the two clears it.
        if not _interned or self.handle not in _interned:
            unhold(C, self.handle)
            if _contained:
                drop_contained(self.handle)

    cdef bint wake(self):
        """Hold it again; False if it is gone, or another one is in use."""
        if self.epoch != C.epoch or not C.attached or C.forked:
            return False
        if _view_holds.get(self.handle) != <size_t><PyObject *>self:
            return False
        if not (_interned and self.handle in _interned) and not hold(C, self.handle):
            return False
        self.resting = False
        return True


cdef bint views_hold(uint64_t handle):
    cdef object address = _view_holds.get(handle)
    return address is not None and not (<ViewHold><PyObject *><size_t>address).resting


cdef ObjectID new_object(object value, uint64_t flags, object root, bytes parent, uint64_t counter,
                         uint32_t index, bint by_reference=False):
    """A sealed object of this process's own, under the id that hashes from the last three."""
    cdef uint64_t handle = new_record()
    name_record(object_at(C, handle), handle, parent, counter, index)
    try:
        store_value(handle, value, flags, OWN, root, by_reference)
    except BaseException:
        discard_record(handle)
        raise
    return new_id(handle, parent, counter, index)


cdef ObjectID put_value(object value, bytes parent, uint64_t counter, object root):
    return new_object(value, 0, root, parent, counter, PUT_INDEX)


cdef ObjectID put_arguments(object payload, bytes parent, uint64_t counter, object root):
    """A call's arguments, where they do not fit in its record."""
    return new_object(payload, 0, root, parent, counter, PUT_INDEX, True)


cdef ObjectID id_in_record(uint64_t handle):
    """The ObjectID of a shared array, which this process holds by its handle only."""
    cdef pr_name *name = <pr_name *>(object_at(C, handle).data + PR_NAME_AT)
    return adopt(handle, (<const char *>name.parent_id)[:20],
                 name.counter & <uint64_t>0xFFFFFFFFFFFF, name.index)


# ---- figures ---------------------------------------------------------------------------------

def object_stats():
    """Figures of the store: bytes in use and in all, and what this process is liable for."""
    check_session()
    if _sweep is not None:
        _sweep()
    return {
        "used": heap_used(C) * PR_UNIT,
        "total": C.head.n_units * PR_UNIT,
        "chunks": C.head.chunks_used,
        "interned": len(_interned),
        "contained": len(_contained),
    }


def live_counts():
    """How many ids, pins and holds of views live in this process, in a debug build; else None."""
    if not PR_COUNTS:
        return None
    return {"ids": _live_ids, "pins": _live_pins, "holds": _live_holds}


def object_size(ObjectID oid):
    """Bytes of an object's value in the store, or None while it is not there."""
    check_id(oid)
    if not sealed(C, oid.handle):
        return None
    return object_at(C, oid.handle).size


def object_address(ObjectID oid):
    """Offset of an object's payload: the same in every process, so tests can compare places."""
    check_id(oid)
    return place_of(object_at(C, oid.handle))


cdef bint is_known(uint64_t handle):
    """Whether this process holds an object, and not only its bit is set."""
    return handle in _interned or views_hold(handle)


cdef uint32_t private_ids():
    """Ids of this process's that nobody else knows of."""
    return _private_ids


cdef list known_handles():
    """Handles of the objects that this process has its bit in the records of."""
    return list(_interned) + [h for h in _view_holds if h not in _interned and views_hold(h)]


cdef int store_reset() except -1:
    global _private_ids
    if shared().forget != NULL:
        shared().forget()
    _private_ids = 0
    _interned.clear()
    _view_holds.clear()
    _contained.clear()
    spilling_reset()
    pins_reset()
    return 0


cdef int take_over_ids(uint64_t handle, list inside, uint32_t p) except -1:
    """This process becomes liable, in place of a dead one, for the ids inside a value: their
    objects' handles are given.

    Nobody holds the value for that, and its owner may be freeing it: then what is held for it here
    goes with the next sweep, and for what the record becomes somebody who lives is liable.
    """
    cdef list held = []
    for each in inside:
        try:
            held.append(borrow_for_view(each))
        except ObjectLostError:
            continue    # as whoever gets the value will be told
    _contained[handle] = held
    at_cas16(&object_at(C, handle).liable, <uint16_t>p, <uint16_t>C.self)
    return 0


def duties():
    """Whether this process holds ids on behalf of values that others own or hold."""
    return has_duties()


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


def is_put(ObjectID oid):
    """Whether an object was made by `put`, and not by a task."""
    check_id(oid)
    return bool(oid.index & 0x80000000)


def task_of(ObjectID oid):
    """Handle of the task that makes an object, or 0."""
    check_id(oid)
    return object_at(C, oid.handle).task
