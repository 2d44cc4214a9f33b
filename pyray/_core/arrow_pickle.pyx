# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Pickling inside the serializer, and what decides between fields and pickle.

C pickle is tried first: cloudpickle adds nothing to what it accepts, and costs 20 times more to
set up.  What C pickle refuses, or would refer to as ``__main__.something`` (which no other process
has), goes to cloudpickle.  Both pass classes, functions and ObjectIDs through ``_reduce``.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from pyray._core.arena cimport in_arena
from pyray._core.arrow_block cimport Block
from pyray._core.arrow_numpy cimport ArrayInfo, array_info, numpy_types, raw_dtype
from pyray._core.by_reference cimport Shared, View, is_shared, restore_view, shared

import _thread
import contextvars
import copyreg
import io
import sys
import types

from pyray._core.serial_errors import (
    CorruptObjectError, RECURSION_MESSAGE, RecursionDepthError,
)

cdef extern from *:
    """
    /* Python 3.12 counts C calls by themselves, and allows 1,500, whatever the recursion limit. */
    static void pr_room_for_c_calls(int calls)
    {
    #if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030D0000
        PyThreadState *me = PyThreadState_Get();
        if (me->c_recursion_remaining < calls)
            me->c_recursion_remaining = calls;
    #else
        (void)calls;
    #endif
    }
    """
    void pr_room_for_c_calls(int calls)

cdef extern from "Python.h":
    ctypedef struct CType "PyTypeObject":
        Py_ssize_t tp_basicsize
        Py_ssize_t tp_itemsize
        unsigned long tp_flags
        unsigned int tp_version_tag
    unsigned long Py_TPFLAGS_HEAPTYPE
    CType* Py_TYPE(object) noexcept
    void Py_DECREF(PyObject*) noexcept

cdef Shared* _shared = shared()
cdef Hooks _hooks
_hooks.ref_type = NULL
cdef object _ref_type = None
cdef object _pack = None
cdef object _unpack = None
cdef object _export = None
cdef object _import = None

# class -> (Manner, serializer, deserializer) as registered by the user.
cdef dict _registered = {}
# class -> (version tag, Manner) as found out.
cdef dict _known = {}

cdef enum:
    KNOWN_MAX = 4096
    # Smaller buffers ride inside the pickle: a message of their own would be larger.
    OUT_OF_BAND_MIN = 1024
    # For deep objects: 1,000 levels of anything fit.
    ROOM_LIMIT = 8000
    ROOM_STACK = 64 << 20

cdef object _FunctionType = types.FunctionType
cdef object _fast_pickler = None
cdef object _cloud_pickler = None
cdef object _pickle_loads = None
cdef object _PicklingError = None
cdef object _PickleBuffer = None
# The limit is the whole process's: the first one in raises it, the last one out restores it.
cdef object _room_lock = _thread.RLock()
cdef int _rooms = 0
# Threads that are unpickling what is to be this process's own, to be written to.
cdef set _copying = set()
cdef int _room_outside = 0


class _Plain:
    """A class with nothing but a __dict__; others are compared with its layout."""


cdef const Hooks* hooks() noexcept:
    return &_hooks


cdef int install_hooks(object ref_type, object pack, object unpack, object export_definition,
                       object import_definition) except -1:
    global _ref_type, _pack, _unpack, _export, _import
    _ref_type = ref_type
    _pack = pack
    _unpack = unpack
    _export = export_definition
    _import = import_definition
    _hooks.ref_type = <PyObject*> ref_type if ref_type is not None else NULL
    return 0


cdef object pack_ref(object ref):
    return _pack(ref)


cdef object unpack_ref(object data):
    if _unpack is None:
        raise CorruptObjectError("an ObjectID, but nothing here knows ObjectIDs")
    return _unpack(data)


cdef bint _is_static_class(object obj) noexcept:
    """Say whether something is a class written in C, which cannot travel by value."""
    return (isinstance(obj, type)
            and not (<CType*> <PyObject*> obj).tp_flags & Py_TPFLAGS_HEAPTYPE)


cdef object export_definition(object obj):
    """Ship a class or function of no importable name; None means that this is not possible."""
    if _export is None or not is_definition(obj):
        return None
    if _is_static_class(obj):
        return None
    return _export(obj)


cdef object import_definition(object ident):
    if _import is None:
        raise CorruptObjectError("a shipped definition, but nothing here knows of any")
    return _import(ident)


# What pickles refer to by name; they must stay importable under these names.
def _restore_ref(data):
    return unpack_ref(data)


def _restore_shared(ref, dtype, at, dims, strides, writable):
    cdef Py_ssize_t places[128]
    cdef int ndim = len(dims)
    if not ndim <= 64 >= len(strides):
        raise CorruptObjectError("too many dimensions")
    for i in range(ndim):
        places[i] = dims[i]
        places[64 + i] = strides[i]
    return restore_view(0, ref, raw_dtype(dtype), at, ndim, places, places + 64, writable,
                        _thread.get_ident() in _copying)


def _restore_definition(ident):
    return import_definition(ident)


def _restore_custom(deserializer, payload):
    return deserializer(payload)


def _restore_fields(cls, fields):
    value = object.__new__(cls)
    value.__dict__.update(fields)
    return value


def _restore_view(data, form, shape):
    return memoryview(data).cast(form, shape)


def _restore_arrow(data, table):
    import pyarrow

    with pyarrow.ipc.open_stream(data) as reader:
        return reader.read_all() if table else reader.read_next_batch()


def _unwrap(value):
    return value


cdef class Pickled:
    """A value that is to be pickled whole, so that its inner identities survive.

    Reading gives back the value itself, not the wrapper.

    Parameters
    ----------
    value : object
        Anything that cloudpickle can handle, objects that contain themselves included.
    """

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return _unwrap, (self.value,)

    def __repr__(self):
        return f"Pickled({self.value!r})"


# -- classes -------------------------------------------------------------------------------------

cdef bint _by_value_module(str module) except -1:
    """Say whether cloudpickle has been told to ship this module's contents by value."""
    cloud = sys.modules.get("cloudpickle.cloudpickle")
    registry = getattr(cloud, "_PICKLE_BY_VALUE_MODULES", None)
    if not registry:
        return False
    while module:
        if module in registry:
            return True
        module = module.rpartition(".")[0]
    return False


cdef bint is_definition(object obj) noexcept:
    """Say whether something is a class or a Python function."""
    return type(obj) is _FunctionType or isinstance(obj, type)


cdef bint is_importable(object obj) except -1:
    """Say whether importing a class's or function's module elsewhere gives the same thing."""
    name = getattr(obj, "__qualname__", None)
    module_name = getattr(obj, "__module__", None)
    if type(name) is not str or type(module_name) is not str or module_name == "__main__":
        return False
    found = sys.modules.get(module_name)
    if found is None:
        # Where a class says it belongs need not be where it was imported from (numpy.rec).
        try:
            __import__(module_name)
        except Exception:
            return False
        found = sys.modules.get(module_name)
    try:
        for part in (<str> name).split("."):
            found = getattr(found, part)
    except AttributeError:
        return False
    return found is obj and not _by_value_module(module_name)


cdef object find_global(str module, str qualname):
    """Import what is_importable accepted."""
    found = sys.modules.get(module)
    if found is None:
        __import__(module)
        found = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


cdef bint _is_plain(object cls) except -1:
    """Say whether an instance is nothing but its __dict__, to pickle as to everyone."""
    cdef CType* layout = <CType*> <PyObject*> cls
    cdef CType* plain = <CType*> <PyObject*> _Plain
    if type(cls) is not type or layout.tp_basicsize != plain.tp_basicsize:
        return False
    if layout.tp_itemsize or cls.__dictoffset__ == 0:
        return False
    # object's own methods, found through the class: pickle would use nothing else.
    if (cls.__reduce_ex__ is not object.__reduce_ex__
            or cls.__reduce__ is not object.__reduce__
            or cls.__getstate__ is not object.__getstate__
            or cls.__new__ is not object.__new__
            or cls.__getattribute__ is not object.__getattribute__):
        return False
    for base in cls.__mro__:
        if base is object:
            continue
        names = base.__dict__
        if (names.get("__slots__", ()) != () or "__class__" in names
                or not (<CType*> <PyObject*> base).tp_flags & Py_TPFLAGS_HEAPTYPE):
            return False
        if "__dict__" in names and type(names["__dict__"]) is not types.GetSetDescriptorType:
            return False
    for name in ("__setstate__", "__getnewargs__", "__getnewargs_ex__"):
        if hasattr(cls, name):
            return False
    return True


cdef int manner_of(object value) except -1:
    """Decide how a value that is no builtin, array or definition is to travel."""
    cdef object cls = type(value)
    cdef unsigned int tag
    cdef int manner
    if _registered:
        entry = _registered.get(cls)
        if entry is not None:
            return entry[0]
    if cls in copyreg.dispatch_table:
        return BY_PICKLE
    # A class's version tag changes with any of its or its bases' attributes (0: not counted).
    tag = Py_TYPE(value).tp_version_tag
    entry = _known.get(cls)
    if entry is not None and tag and entry[0] == tag:
        return entry[1]
    manner = BY_FIELDS if _is_plain(cls) else BY_PICKLE
    if len(_known) >= KNOWN_MAX:
        _known.clear()
    _known[cls] = (Py_TYPE(value).tp_version_tag, manner)
    return manner


cdef tuple custom_pair(object cls):
    entry = _registered[cls]
    return entry[1], entry[2]


cdef int set_manner(object cls, object manner) except -1:
    """Register (Manner, serializer, deserializer) for a class, or None to forget it."""
    if manner is None:
        _registered.pop(cls, None)
    else:
        _registered[cls] = manner
    return 0


# -- parts of Arrow tables ---------------------------------------------------------------------

cdef frozenset _no_classes = frozenset()
cdef frozenset _arrow = None


cdef frozenset _arrow_classes():
    """Give pyarrow's classes that can be a small part of large buffers, if it is loaded."""
    global _arrow
    if _arrow is None:
        pyarrow = sys.modules.get("pyarrow")
        if pyarrow is None or not hasattr(pyarrow, "ipc"):
            return _no_classes
        _arrow = frozenset((pyarrow.Table, pyarrow.RecordBatch))
    return _arrow


cdef object _reduce_arrow(object obj):
    """Reduce a slice to its own rows: pyarrow pickles all the buffers that it is a part of."""
    if obj.get_total_buffer_size() <= 2 * obj.nbytes + 4096:
        return NotImplemented
    pyarrow = sys.modules["pyarrow"]
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, obj.schema) as writer:
        writer.write(obj)
    return _restore_arrow, (sink.getvalue(), type(obj) is pyarrow.Table)


# -- arrays --------------------------------------------------------------------------

cdef object _reduce_plain(object array):
    """Reduce a read-only array as if it could be written to, as arrays outside of pickles are.

    Pickle would note that it is read-only, and then even ``get(writable=True)`` could not have it
    otherwise; most such arrays are views of the store, inside a table that is passed on.
    """
    cdef ArrayInfo info
    cdef Block block
    if array.flags.writeable:
        return NotImplemented
    reduced = array.__reduce_ex__(5)
    if type(reduced[1][0]) is not _PickleBuffer:
        return reduced      # its elements are no plain bytes, or scattered: they are copied
    array_info(<PyObject*> array, &info)
    block = Block.__new__(Block)
    block.data = info.data
    block.nbytes = info.nbytes
    block.pin = array
    block.writable = True   # so it says; pickling only reads it
    return reduced[0], (_PickleBuffer(block), *reduced[1][1:])


# -- pickling ------------------------------------------------------------------------------------

class _NeedsCloudpickle(Exception):
    """C pickle cannot do it; not an error."""


cdef object _reduce_array(PickleState state, object obj):
    """Reduce an array inside of something that is pickled: parts of shared ones are references."""
    cdef ArrayInfo info
    cdef View view
    array_info(<PyObject*> obj, &info)
    if is_shared(obj) or (_shared.find != NULL and in_arena(info.data)):
        if _shared.find(<PyObject*> obj, state.by_reference, &view):
            ref = <object> view.oid     # is met again, and counted, when this is pickled
            Py_DECREF(view.oid)
            return _restore_shared, (ref, obj.dtype, view.at, obj.shape, obj.strides, view.writable)
        if is_shared(obj):      # its class has no way to be pickled
            return _unwrap, (obj.copy("K"),)
    return _reduce_plain(obj)


cdef object _reduce(PickleState state, object obj, bint cloud):
    """Reduce what pickle does not know; NotImplemented leaves the rest to it."""
    cdef object cls = type(obj)
    if cls is _ref_type and cls is not None:
        state.contained.append(obj)
        return _restore_ref, (_pack(obj),)
    if cls is _FunctionType or isinstance(obj, type):
        if (obj is type(None) or obj is type(...) or obj is type(NotImplemented)
                or is_importable(obj)):
            return NotImplemented
        ident = export_definition(obj)
        if ident is not None:
            return _restore_definition, (ident,)
        if not cloud:
            raise _NeedsCloudpickle
        return NotImplemented
    if is_shared(obj) or <PyObject*> cls == numpy_types().ndarray:
        return _reduce_array(state, obj)
    if cls is memoryview:       # cloudpickle would make bytes of it
        return _restore_view, (obj.tobytes(), obj.format, obj.shape)
    if isinstance(obj, io.TextIOWrapper) and obj is not sys.stdout and obj is not sys.stderr:
        raise _PicklingError("cannot pickle a file")    # cloudpickle would read it
    if cls in _arrow_classes():
        return _reduce_arrow(obj)
    if _registered:
        entry = _registered.get(cls)
        if entry is not None:
            if entry[0] == BY_CUSTOM:
                return _restore_custom, (entry[2], entry[1](obj))
            if entry[0] == BY_FIELDS:
                return _restore_fields, (cls, dict(obj.__dict__))
    return NotImplemented


cdef object _load_pickle():
    """Import pickle and make the two picklers."""
    global _fast_pickler, _pickle_loads, _PicklingError, _PickleBuffer
    import pickle

    class FastPickler(pickle.Pickler):
        def __init__(self, file, state):
            super().__init__(file, 5, buffer_callback=(<PickleState> state)._keep_buffer)
            self._state = state

        def reducer_override(self, obj):
            return _reduce(<PickleState> self._state, obj, False)

    _pickle_loads = pickle.loads
    _PicklingError = pickle.PicklingError
    _PickleBuffer = pickle.PickleBuffer
    _fast_pickler = FastPickler


cdef object _load_cloudpickle():
    global _cloud_pickler
    import pickle

    import cloudpickle

    class CloudPickler(cloudpickle.Pickler):
        def __init__(self, file, state):
            super().__init__(file, 5, buffer_callback=(<PickleState> state)._keep_buffer)
            self._state = state

        def reducer_override(self, obj):
            reduced = _reduce(<PickleState> self._state, obj, True)
            if reduced is not NotImplemented:
                return reduced
            reduced = super().reducer_override(obj)
            if type(reduced) is tuple and len(reduced) > 2 and _is_static_class(obj):
                # Taken for a class of the program's, which could not be rebuilt.
                raise pickle.PicklingError(f"cannot pickle {obj!r}: nothing imports it")
            return reduced

    _cloud_pickler = CloudPickler


cdef class PickleState:
    """A pickler for the parts of one object that need one.

    Each part is pickled on its own (the memo is cleared), so that the parts stay a tree.
    """

    def __init__(self, list contained, bint by_reference):
        self.contained = contained
        self.by_reference = by_reference
        self.buffers = []

    def _keep_buffer(self, buffer):
        try:
            view = buffer.raw()
        except BufferError:         # not contiguous
            return True
        if view.nbytes < OUT_OF_BAND_MIN:
            return True
        self.buffers.append(view)
        return False

    cdef int close(self) except -1:
        """Part from the pickler, which refers back: a cycle would keep the ids and the buffers of
        the value until the garbage collector comes by."""
        self._pickler = None
        self._file = None
        return 0

    cdef bytes dumps(self, object value):
        """Pickle a value; its large buffers are in `buffers` afterwards."""
        cdef Py_ssize_t met = len(self.contained)
        try:
            return self.dump_once(value)
        except RecursionError:
            del self.contained[met:]
            self._pickler = None        # may have been left in the middle
        return _with_room(self, value)

    cdef bytes dump_once(self, object value):
        cdef Py_ssize_t met = len(self.contained)
        self.buffers = []
        if _fast_pickler is None:
            _load_pickle()
        if self._pickler is None:
            self._file = io.BytesIO()
            self._pickler = _fast_pickler(self._file, self)
        try:
            self._pickler.dump(value)
            data = self._file.getvalue()
            if b"__main__" not in data:
                return data
        except RecursionError:
            raise
        except (TypeError, AttributeError, ValueError, _NeedsCloudpickle, _PicklingError):
            pass        # cloudpickle either does it or words the error
        finally:
            self._pickler.clear_memo()
            self._file.seek(0)
            self._file.truncate()
        del self.contained[met:]
        self.buffers = []
        if _cloud_pickler is None:
            _load_cloudpickle()
        file = io.BytesIO()
        try:
            _cloud_pickler(file, self).dump(value)
        except _PicklingError as error:
            # cloudpickle turns a RecursionError into this.
            if isinstance(error.__cause__, RecursionError):
                raise RecursionError from None
            raise
        return file.getvalue()


cdef int _leave_room() except -1:
    global _rooms
    _rooms -= 1
    if not _rooms:
        sys.setrecursionlimit(_room_outside)
    return 0


cdef bytes _with_room(PickleState state, object value):
    """Pickle on a thread of its own, whose stack is large and as yet unused.

    Python 3.11 counts pickle's C calls against the recursion limit, three or more of
    them for each level, and the caller may have used up most of it.
    """
    global _rooms, _room_outside
    done = _thread.allocate_lock()
    result = []
    context = contextvars.copy_context()

    def work():
        try:
            result.append(context.run(_dump_once, state, value))
        except BaseException as error:
            result.append(error)
        finally:
            done.release()

    done.acquire()
    with _room_lock:
        if not _rooms:
            _room_outside = sys.getrecursionlimit()
            sys.setrecursionlimit(max(_room_outside, ROOM_LIMIT))
        _rooms += 1
        size = _thread.stack_size(ROOM_STACK)
        try:
            _thread.start_new_thread(work, ())
        except BaseException:
            _leave_room()
            raise
        finally:
            _thread.stack_size(size)
    try:
        done.acquire()
    finally:
        with _room_lock:
            _leave_room()
    made = result[0]
    if isinstance(made, RecursionError):
        raise RecursionDepthError(RECURSION_MESSAGE) from None
    if isinstance(made, BaseException):
        raise made
    return made


def _dump_once(state, value):
    pr_room_for_c_calls(ROOM_LIMIT)     # of this thread, which ends with the call
    return (<PickleState> state).dump_once(value)


cdef object pickle_loads(const char* data, size_t n, object buffers, bint copy):
    cdef object me = None
    cdef bint outside = False   # unpickling may run code that gets other objects
    if _pickle_loads is None:
        _load_pickle()
    view = PyMemoryView_FromMemory(<char*> data, <Py_ssize_t> n, PyBUF_READ)
    if copy or _copying:
        me = _thread.get_ident()
        outside = me in _copying
        if copy:
            _copying.add(me)
        else:
            _copying.discard(me)
    try:
        return _pickle_loads(view, buffers=buffers)
    finally:
        if outside:
            _copying.add(me)
        elif me is not None:
            _copying.discard(me)
        view.release()


cdef int64_t checksum(const char* data, size_t n, int64_t before) noexcept nogil:
    """Mix bytes into 63 bits; guards pickles, which must never be read when damaged."""
    cdef uint64_t mix = <uint64_t> 0x9E3779B97F4A7C15 ^ n ^ (<uint64_t> before << 1)
    cdef uint64_t word
    cdef size_t at = 0
    while n - at >= 8:
        memcpy(&word, data + at, 8)
        mix = (mix ^ word) * <uint64_t> 0xFF51AFD7ED558CCD
        mix ^= mix >> 32
        at += 8
    if at < n:
        word = 0
        memcpy(&word, data + at, n - at)
        mix = (mix ^ word) * <uint64_t> 0xFF51AFD7ED558CCD
        mix ^= mix >> 32
    return <int64_t> (mix >> 1)
