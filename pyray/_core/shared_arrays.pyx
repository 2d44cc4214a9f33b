"""Arrays born in the store: written in place by several processes, then sealed where they lie.

An array of these is an object in state OPEN: its payload is in store form from the start, but for
its elements, which are whatever was written last.  To seal it is one compare-and-swap.

A process knows such an array by a `Region`, which all its views there have for their base, with one
hidden array in between, `flat`.  That is how untracked views are found: a plain ndarray made of a
view has `flat` for its base (numpy goes down the chain of bases as long as they are plain arrays),
so `flat` has as many references as there are views of either sort, and the tracked ones are known.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pyray._core.arrow_encode cimport Encoded, encode_frame
from pyray._core.arrow_numpy cimport dtype_description, numpy_load
from pyray._core.by_reference cimport Shared, View, add_methods, shared
from pyray._core.heap cimport heap_free
from pyray._core.holds cimport Pin, ViewHold, borrow_for_view, pin
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.objects cimport alive, open_object, seal_open
from pyray._core.private_copy cimport PrivateCopy, private_copy
from pyray._core.room cimport alloc, discard_record, new_record
from pyray._core.serializer cimport decode
from pyray._core.shm cimport Ctx, Mapping, current_mapping, get_ctx, object_at
from pyray._core.pins cimport note_block, place_of
from pyray._core.store cimport PUT_INDEX, ObjectID, check_id, id_in_record, name_record, new_id
from pyray._core.tasks cimport TaskContext, base, here

from pyray._core.errors import ObjectLostError, SessionError
from pyray._core.serial_errors import CorruptObjectError
from pyray._core.tasks import sweep, tasks_that_hold

cdef extern from "shared_type.h":
    ctypedef Py_ssize_t npy_intp
    ctypedef struct CType "PyTypeObject":
        pass
    ctypedef struct CDescr "PyArray_Descr":
        pass
    ctypedef struct CArray "PyArrayObject":
        pass
    ctypedef struct pr_view:
        PyObject* region
        PyObject* previous
        PyObject* next
    pr_view* PR_VIEW(PyObject* array) noexcept
    int (*pr_join)(PyObject* array) noexcept
    void (*pr_leave)(PyObject* array) noexcept
    void (*pr_lend)(PyObject* array, int change) noexcept
    PyObject* pr_base(PyObject* array) noexcept
    void pr_set_base(PyObject* array, PyObject* base) noexcept
    object pr_make_type(const char* doc)
    CType* c_array_class "(&PyArray_Type)"
    int _import_array() except -1
    CDescr* PyArray_DescrFromType(int) noexcept
    CDescr* PyArray_DESCR(CArray*) noexcept
    bint PyArray_Check(PyObject*) noexcept
    bint PyArray_ISWRITEABLE(CArray*) noexcept
    int PyArray_NDIM(CArray*) noexcept
    npy_intp* PyArray_DIMS(CArray*) noexcept
    npy_intp PyArray_NBYTES(CArray*) noexcept
    char* PyArray_BYTES(CArray*) noexcept
    npy_intp PyDataType_ELSIZE(CDescr*) noexcept
    void PyArray_CLEARFLAGS(CArray*, int) noexcept
    object PyArray_NewFromDescr(CType* subtype, CDescr*, int nd, const npy_intp* dims,
                                const npy_intp* strides, void* data, int flags, PyObject* obj)
    int PyArray_SetBaseObject(CArray*, PyObject*) except -1
    int NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_UBYTE
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    Py_ssize_t Py_REFCNT(PyObject*) noexcept

cdef enum:
    # From here on the elements begin with a page.
    PAGED = 65536
    ALIGN = 64
    SPARES = 4

cdef Ctx *C = get_ctx()
cdef Shared* _shared = shared()
# The class SharedArray, once it is needed.
cdef object _kind = None
# Handle -> address of this process's Region.
cdef dict _regions = {}
# Bases of views that tasks were sent last, kept although nobody may look into them for now: one of
# the next task's arguments is likely to be of the same array.  While it rests its Region holds
# nothing, so the array can be sealed or freed as if it were not there.
cdef PyObject* _spare[SPARES]
cdef uint32_t _spare_next = 0
memset(_spare, 0, sizeof(_spare))
# The region that a view is being made of which has no base yet.
cdef PyObject* _making = NULL
# (array) -> ObjectID, or an error that says what stands in the way; see set_sealer.
cdef object _sealer = None


@cython.no_gc
@cython.final
cdef class Region:
    """A shared array as this process knows it; lives as long as any of its views."""
    cdef uint64_t handle
    cdef uint32_t epoch
    cdef bint sealed
    cdef bint spare             # among the spares
    cdef Pin held               # once it is sealed: keeps it in its place; is let go of first
    cdef object holder          # an ObjectID, or a ViewHold: what keeps the object alive
    cdef Mapping mapping        # and the memory, after the session's end too
    cdef char* low              # its elements, in the writable mapping
    cdef char* high
    cdef PyObject* flat         # borrowed: the base of all views, and itself based on this
    cdef PyObject* views        # borrowed: the first tracked view
    cdef Py_ssize_t n_views
    cdef Py_ssize_t lent        # buffers of them that somebody has
    cdef bytes maker            # the task that made it, if this process did
    cdef uint64_t counter       # and how much that had made before

    def __dealloc__(self):
        self.held = None        # while the object is held still: its pin stands at its place
        if self.flat != NULL:
            _shared.regions -= 1
        if _regions.get(self.handle) == <size_t><PyObject*>self:
            del _regions[self.handle]

    cdef ObjectID id(self):
        if type(self.holder) is not ObjectID:
            self.holder = id_in_record(self.handle)
        return <ObjectID>self.holder


# ---- what the class does -------------------------------------------------------------------

cdef PyObject* region_below(PyObject* array) noexcept:
    """The Region at the end of an array's chain of bases, or NULL."""
    cdef PyObject* at = pr_base(array)
    while at != NULL:
        if type(<object>at) is Region:
            return at
        if not PyArray_Check(at):
            return NULL
        at = pr_base(at)
    return NULL


cdef int join(PyObject* array) noexcept:
    cdef PyObject* found = _making
    cdef Region r
    cdef pr_view* view = PR_VIEW(array)
    cdef char* data = PyArray_BYTES(<CArray*>array)
    if found == NULL:
        found = region_below(array)
        if found == NULL:
            return 0
    r = <Region>found
    if not r.low <= data <= r.high:
        return 0
    # Whatever it was made of need not live on for it, and must not count.
    if pr_base(array) != r.flat:
        pr_set_base(array, r.flat)
    view.region = found
    view.previous = NULL
    view.next = r.views
    if r.views != NULL:
        PR_VIEW(r.views).previous = array
    r.views = array
    r.n_views += 1
    return 1


cdef void leave(PyObject* array) noexcept:
    cdef pr_view* view = PR_VIEW(array)
    cdef Region r = <Region>view.region
    if view.previous != NULL:
        PR_VIEW(view.previous).next = view.next
    else:
        r.views = view.next
    if view.next != NULL:
        PR_VIEW(view.next).previous = view.previous
    r.n_views -= 1
    view.region = NULL
    if r.n_views == 0 and r.spare:
        put_to_rest(r)


cdef bint resting(Region r) noexcept:
    return r.spare and type(r.holder) is ViewHold and (<ViewHold>r.holder).resting


cdef int keep_spare(Region r) except -1:
    """Keep what views are made of beyond the last of them."""
    global _spare_next
    cdef PyObject* old = _spare[_spare_next]
    if old != NULL and not resting(<Region>pr_base(old)):
        return 0                # in use: the next one's turn, next time
    Py_INCREF(r.flat)
    r.spare = True
    _spare[_spare_next] = r.flat
    _spare_next = (_spare_next + 1) % SPARES
    if old != NULL:
        (<Region>pr_base(old)).spare = False
        Py_DECREF(old)
    return 0


cdef void drop_spare(Region r) noexcept:
    cdef int i
    for i in range(SPARES):
        if _spare[i] == r.flat:
            _spare[i] = NULL
            r.spare = False
            Py_DECREF(r.flat)
            return


cdef void put_to_rest(Region r) noexcept:
    """The last view that is known of is going, and has its base still."""
    if (Py_REFCNT(r.flat) > 2 or r.lent or r.sealed or type(r.holder) is not ViewHold
            or Py_REFCNT(<PyObject*>r.holder) > 1 or r.epoch != C.epoch):
        drop_spare(r)
    else:
        (<ViewHold>r.holder).rest()


cdef Region wake_spare(uint64_t handle):
    """The Region of an array that this process has looked into lately, which it holds again."""
    cdef Region r
    cdef int i
    for i in range(SPARES):
        if _spare[i] == NULL:
            continue
        r = <Region>pr_base(_spare[i])
        if r.handle == handle and r.epoch == C.epoch:
            if not resting(r):
                return r
            if (<ViewHold>r.holder).wake():
                # Held before it is looked at: what is open now, nobody else can seal.
                if (at_load64(&object_at(C, handle).state) & 0xFF) == OBJ_OPEN:
                    return r
                (<ViewHold>r.holder).rest()
            drop_spare(r)
            return None
    return None


cdef void forget() noexcept:
    cdef int i
    for i in range(SPARES):
        if _spare[i] != NULL:
            drop_spare(<Region>pr_base(_spare[i]))


cdef void lend(PyObject* array, int change) noexcept:
    (<Region>PR_VIEW(array).region).lent += change


def array_class():
    """The class SharedArray; imports numpy, and has what else belongs to the class be added."""
    global _kind
    if _kind is None:
        numpy_load()
        _import_array()
        _kind = pr_make_type(
            b"An ndarray in shared memory: tasks that get it, or a part of it, write to the same\n"
            b"elements.  Made by `pyray.shared.empty`, `zeros`, `full` and `empty_like`.")
        _shared.kind = <PyObject*>_kind
        add_methods()
    return _kind


# ---- making them ---------------------------------------------------------------------------

cdef object new_flat(uint64_t handle, object holder):
    """The base of all views of an array in this process, whose Region that of the result is."""
    cdef pr_object *o = object_at(C, handle)
    cdef pr_body *body = <pr_body *>o.data
    cdef Region r = Region.__new__(Region)
    cdef npy_intp n = <npy_intp>body.nbytes
    if body.start > o.size or body.nbytes > o.size - body.start:
        raise CorruptObjectError("a shared array's elements lie outside of it")
    r.handle = handle
    r.epoch = C.epoch
    r.holder = holder
    r.mapping = current_mapping()
    r.low = C.payload + place_of(o) + body.start
    r.high = r.low + n
    flat = PyArray_NewFromDescr(c_array_class, PyArray_DescrFromType(NPY_UBYTE), 1, &n, NULL, r.low,
                                NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE, NULL)
    Py_INCREF(<PyObject*>r)         # SetBaseObject takes it over
    PyArray_SetBaseObject(<CArray*><PyObject*>flat, <PyObject*>r)
    r.flat = <PyObject*>flat
    _shared.regions += 1
    _regions[handle] = <size_t><PyObject*>r
    return flat


cdef object new_view(PyObject* flat, object dtype, int ndim, const Py_ssize_t* dims,
                     const Py_ssize_t* strides, char* data, int flags):
    global _making
    Py_INCREF(<PyObject*>dtype)     # NewFromDescr takes it over
    _making = pr_base(flat)
    try:
        made = PyArray_NewFromDescr(<CType*><PyObject*>_kind, <CDescr*><PyObject*>dtype, ndim, dims,
                                    strides, data, flags, NULL)
    finally:
        _making = NULL
    if pr_base(<PyObject*>made) == NULL:
        raise CorruptObjectError("a part of a shared array lies outside of it")
    return made


def create(dtype, tuple shape, bint fortran, bint zero):
    """An array in the store.

    Parameters
    ----------
    dtype : numpy.dtype
        Without references to Python objects.
    shape : tuple of int
        At most 64 lengths.
    fortran : bool
        Whether the first index varies fastest.
    zero : bool
        Filled with zeros; else its elements are what happened to be there.

    Returns
    -------
    SharedArray
    """
    cdef npy_intp dims[64]
    cdef int ndim = len(shape), i
    cdef int flags = NPY_ARRAY_F_CONTIGUOUS if fortran else NPY_ARRAY_C_CONTIGUOUS
    cdef Encoded frame
    cdef uint64_t handle, off, nbytes, counter
    cdef pr_object *o
    cdef pr_body *body
    cdef TaskContext me = here()
    cdef bytes parent
    check_session()
    array_class()
    for i in range(ndim):
        dims[i] = shape[i]
    # Nobody looks at its elements: the store stands in for them.
    Py_INCREF(<PyObject*>dtype)
    like = PyArray_NewFromDescr(c_array_class, <CDescr*><PyObject*>dtype, ndim, dims, NULL,
                                C.base, flags, NULL)
    if dtype_description(<PyObject*>like) is None:
        raise TypeError(f"the elements of a shared array are plain bytes; of dtype {dtype} they "
                        "are not")
    nbytes = PyArray_NBYTES(<CArray*><PyObject*>like)
    frame = encode_frame(like, nbytes >= PAGED)
    parent = base(me)
    me.counter += 1
    counter = me.counter
    handle = new_record(C)
    o = object_at(C, handle)
    name_record(o, handle, parent, counter, PUT_INDEX)
    C.inflight += 1
    try:
        off = alloc(frame.nbytes, zero)
        try:
            frame.write_to(C.payload + off)
        except BaseException:
            heap_free(C, off, frame.nbytes)
            raise
    except BaseException:
        discard_record(handle)
        raise
    finally:
        C.inflight -= 1
    o.off = off
    o.size = frame.nbytes
    body = <pr_body *>o.data
    body.start = frame.nbytes - (nbytes + ALIGN - 1) // ALIGN * ALIGN
    body.nbytes = nbytes
    note_block(handle, off, o.size)
    open_object(C, handle)
    flat = new_flat(handle, new_id(handle, parent, counter, PUT_INDEX))
    (<Region>pr_base(<PyObject*>flat)).maker = parent
    (<Region>pr_base(<PyObject*>flat)).counter = counter
    return new_view(<PyObject*>flat, dtype, ndim, dims, NULL,
                    (<Region>pr_base(<PyObject*>flat)).low, flags | NPY_ARRAY_WRITEABLE)


cdef object restore(uint64_t handle, object oid, object dtype, int64_t at, int ndim,
                    const Py_ssize_t* dims, const Py_ssize_t* strides, bint writable, bint copy):
    """A part of an array that another process has sent: writable memory while it is open, and the
    read-only mapping from the seal on."""
    cdef pr_object *o
    cdef object known, flat
    cdef Region r = None
    cdef Py_ssize_t item
    cdef int64_t first = at, last = at
    cdef bint none = False
    cdef int i
    if oid is not None:
        handle = (<ObjectID>oid).handle
    array_class()
    if not alive(C, handle):
        raise ObjectLostError("a shared array among the arguments is gone: the process that "
                              "submitted the task died")
    o = object_at(C, handle)
    item = PyDataType_ELSIZE(<CDescr*><PyObject*>dtype)
    for i in range(ndim):
        if dims[i] < 0:
            raise CorruptObjectError("negative array dimension")
        if dims[i] == 0:
            none = True
    if strides != NULL and not none:
        for i in range(ndim):
            if strides[i] < 0:
                first += strides[i] * (dims[i] - 1)
            else:
                last += strides[i] * (dims[i] - 1)
        last += item
    elif not none:
        last = item
        for i in range(ndim):
            if dims[i] > (<Py_ssize_t>1 << 62) // last:
                raise CorruptObjectError("array dimensions are too large")
            last *= dims[i]
        last += at
    if first < 0 or last < 0 or <uint64_t>last > o.size:
        raise CorruptObjectError("a part of a shared array lies outside of it")
    r = wake_spare(handle)
    if r is None:
        known = _regions.get(handle)
        if known is not None:
            r = <Region><PyObject*><size_t>known
    # Handles are used again by later sessions.
    if r is not None and r.epoch == C.epoch and not r.sealed:
        flat = <object>r.flat
    else:
        # Held before it is looked at: what is open now, nobody else can seal.
        if oid is None:
            oid = borrow_for_view(handle)
        if (at_load64(&o.state) & 0xFF) != OBJ_OPEN:
            return sealed_view(handle, oid, dtype, at, ndim, dims, strides, copy)
        flat = new_flat(handle, oid)
        if type(oid) is ViewHold:
            keep_spare(<Region>pr_base(<PyObject*>flat))
    try:
        return new_view(<PyObject*>flat, dtype, ndim, dims, strides, C.payload + place_of(o) + at,
                        NPY_ARRAY_WRITEABLE if writable else 0)
    except BaseException:
        r = <Region>pr_base(<PyObject*>flat)
        if r.n_views == 0 and r.spare:
            put_to_rest(r)
        raise


cdef object sealed_view(uint64_t handle, object holder, object dtype, int64_t at, int ndim,
                        const Py_ssize_t* dims, const Py_ssize_t* strides, bint copy):
    """A plain array, as `get` gives them."""
    cdef pr_object *o = object_at(C, handle)
    cdef Pin held = pin(holder, o)
    cdef const char* payload = C.readonly + held.place
    cdef char* data = <char*>payload + at
    cdef Mapping mapping
    owner = held
    if copy:
        mapping = held.mapping
        owner = private_copy(payload, o.size, mapping.file_of(held.place),
                             mapping.place_in_file(held.place), held)
        data = (<PrivateCopy>owner).memory((<pr_body *>o.data).start, at)
    Py_INCREF(<PyObject*>dtype)
    array = PyArray_NewFromDescr(c_array_class, <CDescr*><PyObject*>dtype, ndim, dims, strides,
                                 data, NPY_ARRAY_WRITEABLE if copy else 0, NULL)
    Py_INCREF(<PyObject*>owner)
    PyArray_SetBaseObject(<CArray*><PyObject*>array, <PyObject*>owner)
    return array


# ---- finding and sealing them --------------------------------------------------------------

cdef Region region_of(PyObject* array):
    """The shared array that an array is a part of, or None."""
    cdef PyObject* found = NULL
    cdef char* data = PyArray_BYTES(<CArray*>array)
    if type(<object>array) is _kind:
        found = PR_VIEW(array).region
    if found == NULL:
        found = region_below(array)
    if found == NULL:
        # Made of an address (as_strided does that): the base leads nowhere.
        for address in _regions.values():
            found = <PyObject*><size_t>address
            if (<Region>found).low <= data < (<Region>found).high and not resting(<Region>found):
                break
        else:
            return None
    return <Region>found


cdef object whole(Region r):
    """The array as its header describes it, to compare with."""
    cdef pr_object *o = object_at(C, r.handle)
    return decode(C.payload + place_of(o), o.size, r)


cdef bint is_whole(Region r, object array):
    if PyArray_BYTES(<CArray*><PyObject*>array) != r.low:
        return False
    full = whole(r)
    if array.shape != full.shape or array.dtype != full.dtype:
        return False
    # Where there is but one element, or none, strides say nothing.
    return array.size == 0 or all([n == 1 or a == b for n, a, b in
                                   zip(array.shape, array.strides, full.strides)])


cdef object session_over():
    return SessionError("this shared array belongs to a session that has been shut down; "
                        "numpy.array(a) copies it")


cdef int find(PyObject* array, bint by_reference, View* found) except -1:
    cdef Region r = region_of(array)
    if r is None:
        return 0
    if r.epoch != C.epoch or not C.attached:
        if not by_reference:
            return 0
        raise session_over()
    if not by_reference:
        if not r.sealed or not is_whole(r, <object>array):
            return 0
    elif r.sealed and PyArray_ISWRITEABLE(<CArray*>array):
        raise ValueError("this array may be written to, but it overlaps a shared array that has "
                         "been sealed; pass a view of that one, or a copy")
    oid = r.id()
    found.oid = <PyObject*>oid
    Py_INCREF(found.oid)
    found.handle = r.handle
    found.writable = PyArray_ISWRITEABLE(<CArray*>array)
    found.at = PyArray_BYTES(<CArray*>array) - (C.payload + place_of(object_at(C, r.handle)))
    return 1


def set_sealer(sealer):
    """Have `sealer(array)` seal arrays for put() and results: it gives the ObjectID, or raises."""
    global _sealer
    _sealer = sealer


cdef object seal_for_put(object array):
    """The ObjectID of a whole array; a part is stored as any array is."""
    cdef Region r = region_of(<PyObject*>array)
    if r is None or r.epoch != C.epoch or not is_whole(r, array):
        return array
    return _sealer(array)


cdef object finish(object array, uint64_t since):
    cdef Region r = region_of(<PyObject*>array)
    if (r is not None and r.epoch == C.epoch and not r.sealed and r.maker is not None
            and r.maker == base(here()) and r.counter > since and is_whole(r, array)):
        _sealer(array)
    return array


def is_sealed(array):
    """Whether a SharedArray has been sealed, here or elsewhere."""
    cdef Region r = region_of(<PyObject*>array)
    if r is None:
        raise TypeError("this array is no part of a shared one")
    return bool(r.sealed)


def try_seal(array):
    """Seal a SharedArray if nothing else can write to it.

    Returns
    -------
    ObjectID or tuple
        Its ObjectID; or who else has it: (handles of this process's own tasks, [process slots]).

    Raises
    ------
    BufferError
        This process looks at its memory in ways that cannot be made read-only.
    SessionError
        It is of a session that is over.
    ValueError
        It is a part of an array.
    """
    cdef Region r = region_of(<PyObject*>array)
    cdef PyObject* view
    cdef pr_object *o
    cdef Py_ssize_t plain
    cdef uint64_t s
    cdef uint32_t p
    if r is None:
        raise TypeError("this array is no part of a shared one")
    if r.epoch != C.epoch or not C.attached:
        raise session_over()
    check_session()
    check_id(r.id())
    if not is_whole(r, array):
        raise ValueError(f"only a whole shared array can be sealed, and this is a part of one, or "
                         f"another view of it: it has shape {array.shape} and dtype {array.dtype}, "
                         f"the array {whole(r).shape} and {whole(r).dtype}")
    if r.sealed:
        return r.holder
    # First, since it may run code of anybody's.
    if Py_REFCNT(<PyObject*>r.holder) > 1:
        sweep()
    plain = Py_REFCNT(r.flat) - r.n_views - r.spare
    if plain or r.lent:
        what = []
        if plain:
            what.append(f"{plain} plain array(s) made of it, by numpy.asarray or .view(ndarray)")
        if r.lent:
            what.append(f"{r.lent} buffer(s) of it, as memoryviews are, Cython's included")
        raise BufferError(f"this shared array cannot be sealed, for this process could still write "
                          f"to it through {' and '.join(what)}: drop or copy them first")
    o = object_at(C, r.handle)
    if Py_REFCNT(<PyObject*>r.holder) > 1:
        return tasks_that_hold(r.holder), []
    s = at_load64(&o.state)
    # From the seal on others may move it to disk, and views of this process's are to stay good.
    # Without the holder, whose references say who else has it.
    r.held = pin(None, o)
    slots = [p for p in range(PR_MAX_PROCS)
             if p != C.self and at_load64(&o.holders[p // 64]) >> (p % 64) & 1]
    # Fails if somebody has come to hold it since, which moves the state's version.
    if slots or not seal_open(C, r.handle, s):
        r.held = None
        return [], slots
    view = r.views
    while view != NULL:
        PyArray_CLEARFLAGS(<CArray*>view, NPY_ARRAY_WRITEABLE)
        view = PR_VIEW(view).next
    PyArray_CLEARFLAGS(<CArray*>r.flat, NPY_ARRAY_WRITEABLE)
    r.sealed = True
    return r.holder


pr_join = join
pr_leave = leave
pr_lend = lend
_shared.find = find
_shared.restore = restore
_shared.seal = seal_for_put
_shared.finish = finish
_shared.forget = forget
