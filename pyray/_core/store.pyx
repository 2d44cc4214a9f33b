"""The store's objects as Python sees them: their ids, and what can be asked about one.

What is shared lies in objects.pyx; here are the private ends of it: an ObjectID's Python reference
count *is* this process's count of the object.  Values go in and out in values.pyx.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyray._core.heap cimport heap_used
from pyray._core.holds cimport (
    PR_COUNTS, PR_LIVE, contained_ids, drop_contained, intern_id, interned, interned_ids,
    live_holds, live_pins, release_id, sweep_now,
)
from pyray._core.ids cimport object_digest, task_digest
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.objects cimport hold, sealed, try_free
from pyray._core.pins cimport place_of
from pyray._core.shm cimport Ctx, get_ctx, object_at

from pyray._core.hex_id import HexID
from pyray._core.errors import ForeignObjectError, ObjectLostError, SessionError

cdef Ctx *C = get_ctx()

cdef Py_ssize_t _live_ids = 0       # counted in debug builds only; see live_counts()
cdef dict _contained = contained_ids()      # here too, as every id that goes looks into it
cdef uint32_t _private_ids = 0      # ids that have not escaped, each of which holds its object
cdef object _unseen = None          # told of errors that nobody has asked for


def set_unseen(unseen):
    """Have `unseen(error)` called with an error that is gone before anybody asked for it, and with
    the object's handle, for `peek`, where it is still to be read; it must not raise."""
    global _unseen
    _unseen = unseen


cdef void say_unseen(object error):
    if _unseen is not None and not at_load32(&C.dispatch.stopping):
        C.inflight += 1
        try:
            _unseen(error)
        except BaseException:
            pass        # this is a destructor's work: nobody could do anything about it
        finally:
            C.inflight -= 1


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
            release_id(self.handle)
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
    intern_id(oid.handle, oid)
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
    cdef object known
    check_session()
    if len(packed) != PACKED_BYTES:
        raise ValueError(f"a packed id has {PACKED_BYTES} bytes, not {len(packed)}")
    memcpy(&nonce, p, 8)
    if nonce != C.head.nonce:
        raise ForeignObjectError("this ObjectID is of another session (ids hold only within the "
                                 "session that made them); fetch the value there and pass that on")
    memcpy(&handle, p + 8, 8)
    known = interned(handle)
    if known is not None:
        return known
    memcpy(&counter, p + 36, 8)
    memcpy(&index, p + 44, 4)
    return adopt(handle, packed[16:36], counter, index)


cdef ObjectID adopt(uint64_t handle, bytes parent, uint64_t counter, uint32_t index):
    """An id that came in from another process, which holds the object while this one begins to."""
    cdef ObjectID oid
    cdef object known = interned(handle)
    if known is not None:
        return <ObjectID>known
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
    known = interned(oid.handle)
    if known is not None:
        return known
    if at_load64(&object_at(C, oid.handle).state) & OBJ_DROPPED or not hold(C, oid.handle):
        raise ObjectLostError(
            "nobody holds this actor any more, so it ends when it has run the calls that it was "
            "sent: its handle cannot be passed on; keep a handle where the actor was made")
    other = new_id(oid.handle, oid.parent, oid.counter, oid.index)
    set_escaped(other)
    return other


cdef ObjectID id_in_record(uint64_t handle):
    """The ObjectID of a shared array, which this process holds by its handle only."""
    cdef pr_name *name = <pr_name *>(object_at(C, handle).data + PR_NAME_AT)
    return adopt(handle, (<const char *>name.parent_id)[:20],
                 name.counter & <uint64_t>0xFFFFFFFFFFFF, name.index)


cdef uint32_t private_ids():
    """Ids of this process's that nobody else knows of."""
    return _private_ids


cdef int ids_reset() except -1:
    global _private_ids
    _private_ids = 0
    return 0


# ---- what can be asked ---------------------------------------------------------------------

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


def object_stats():
    """Figures of the store: bytes in use and in all, and what this process is liable for."""
    check_session()
    sweep_now()
    return {
        "used": heap_used(C) * PR_UNIT,
        "total": C.head.n_units * PR_UNIT,
        "chunks": C.head.chunks_used,
        "interned": interned_ids(),
        "contained": len(_contained),
    }


def live_counts():
    """How many ids, pins and holds of views live in this process, in a debug build; else None."""
    if not PR_COUNTS:
        return None
    return {"ids": _live_ids, "pins": live_pins(), "holds": live_holds()}
