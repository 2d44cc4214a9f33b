"""What this process holds in the store, and for whom.

Its bit in an object's record stands for two things at once: for the one ObjectID that this process
has of it, and for a hold of views into it, where no id came in with them.  Whichever of the two
goes last clears the bit.  Beside it there are the ids inside values, kept alive by whoever is
liable for them, and the pins that keep what is looked at in its place.
"""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from pyray._core.layout cimport *
from pyray._core.objects cimport alive, hold, unhold
from pyray._core.pins cimport pin_place, pins_epoch, unpin
from pyray._core.shm cimport Ctx, current_mapping, get_ctx, object_at

from pyray._core.errors import ObjectLostError

cdef Ctx *C = get_ctx()

cdef enum:
    NODE = 1                # the node's process slot

cdef Py_ssize_t _live_pins = 0
cdef Py_ssize_t _live_holds = 0

# Handle -> address of the one ObjectID of this process for an object whose id has escaped.
cdef dict _interned = {}
# Handle -> address of the ViewHold, for objects seen through views only.
cdef dict _view_holds = {}
# Object that contains ids -> those ids, for objects that this process is liable for:
# its own, and results that it wrote and whose owner has not registered yet.
cdef dict _contained = {}
cdef list _dropped = []
cdef bint _dropping = False
cdef object _sweep = None           # lets go of what this process holds for nothing


# ---- ids -----------------------------------------------------------------------------------

cdef object interned(uint64_t handle):
    """This process's ObjectID for an object whose id has escaped, or None."""
    cdef object address = _interned.get(handle)
    if address is None:
        return None
    return <object><PyObject *><size_t>address


cdef int intern_id(uint64_t handle, object oid) except -1:
    """This process's bit is set, and this is the ObjectID that it stands for."""
    _interned[handle] = <size_t><PyObject *>oid
    return 0


cdef void release_id(uint64_t handle) noexcept:
    """The ObjectID is gone."""
    _interned.pop(handle, None)
    if not (_view_holds and views_hold(handle)):        # they share the bit
        unhold(C, handle)


# ---- what is held for nothing ---------------------------------------------------------------

cdef int sweep_now() except -1:
    """Let go of what this process holds for nothing: somebody needs room."""
    if _sweep is not None:
        _sweep()
    return 0


cdef void set_sweep(object sweep):
    global _sweep
    _sweep = sweep


# ---- ids inside values ---------------------------------------------------------------------

cdef void drop_contained(uint64_t handle) noexcept:
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


def duties():
    """Whether this process holds ids on behalf of values that others own or hold."""
    return has_duties()


cdef int sweep_contained():
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


# ---- views ---------------------------------------------------------------------------------

cdef object borrow_for_view(uint64_t handle):
    """Something that holds an object whose bytes this process is about to look into.

    Not an id that can be passed on: a task's argument is known here by its handle only.
    """
    cdef object oid = interned(handle)
    if oid is not None:
        return oid
    cdef ViewHold v = ViewHold.__new__(ViewHold)
    cdef object address = _view_holds.get(handle)
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


cdef bint is_known(uint64_t handle):
    """Whether this process holds an object, and not only its bit is set."""
    return handle in _interned or views_hold(handle)


cdef list known_handles():
    """Handles of the objects that this process has its bit in the records of."""
    return list(_interned) + [h for h in _view_holds if h not in _interned and views_hold(h)]


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


# ---- figures -------------------------------------------------------------------------------

cdef Py_ssize_t interned_ids():
    return len(_interned)


cdef Py_ssize_t live_pins():
    """How many Pins live in this process, in a debug build."""
    return _live_pins


cdef Py_ssize_t live_holds():
    """The same of ViewHolds."""
    return _live_holds


cdef int holds_reset() except -1:
    _interned.clear()
    _view_holds.clear()
    _contained.clear()
    return 0
