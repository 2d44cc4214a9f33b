# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Python objects into the store form.

The store form is Arrow: the object tree flattened in preorder into one dense union of tokens,
then a tensor message per ndarray.  Nothing is written while the tree is walked: tokens gather in
C vectors, arrays are only noted, so that the size is known before the store is asked for room and
every large block is copied exactly once.  The walk keeps its own stack: neither Python's recursion
limit nor the thread's stack size matters, and the limit of 1,000 levels is exact.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t
from libc.string cimport memset

from pyray._core.arena cimport in_arena
from pyray._core.arrow_format cimport *
from pyray._core.arrow_layout cimport Blob, Job, Segment, draft_finish, draft_free, draft_write
from pyray._core.arrow_numpy cimport (
    ArrayInfo, NumpyTypes, array_info, dtype_description, numpy_look, numpy_types,
)
from pyray._core.by_reference cimport Shared, View, shared
from pyray._core.arrow_pickle cimport (
    BY_CUSTOM, BY_FIELDS, Hooks, Pickled, checksum, custom_pair, export_definition, hooks,
    is_definition, is_importable, manner_of, pack_ref,
)
from pyray._core.arrow_python cimport *
from pyray._core.arrow_vec cimport vec_byte, vec_bytes, vec_free, vec_i64

from pyray._core.serial_errors import (
    RECURSION_MESSAGE, RecursionDepthError, describe, explain,
)

cdef enum:
    MAX_LEVELS = 1000
    # Larger strings stay where they are until they are written.
    SEGMENT_MIN = 32768

    F_LIST = 0
    F_TUPLE = 1
    F_DICT = 2
    F_FIELDS = 3
    F_SET = 4       # obj is a list of the elements
    F_CUSTOM = 5    # obj is a tuple of the one payload

cdef const NumpyTypes* _numpy = numpy_types()
cdef const Hooks* _hooks = hooks()
cdef Shared* _shared = shared()


cdef class Encoded:
    """A value ready to be written in store form.

    Attributes
    ----------
    nbytes : int
        Bytes that it takes, a multiple of 64.
    contained : list
        The ObjectIDs anywhere inside, pickles included.
    """

    def __cinit__(self):
        self.contained = []

    def __dealloc__(self):
        self.clear_stack()
        vec_free(&self.stack)
        draft_free(&self.draft)

    # -- walking ---------------------------------------------------------------------------------

    cdef void clear_stack(self) noexcept:
        cdef Frame* frame
        while self.stack.n:
            self.stack.n -= sizeof(Frame)
            frame = <Frame*> (self.stack.p + self.stack.n)
            Py_XDECREF(frame.obj)
            Py_XDECREF(frame.key)
            Py_XDECREF(frame.item)

    cdef int push(self, Frame* frame) except -1:
        """Take over a frame."""
        vec_bytes(&self.stack, frame, sizeof(Frame))
        if self.stack.n > MAX_LEVELS * sizeof(Frame):
            raise RecursionDepthError(RECURSION_MESSAGE)
        return 0

    cdef int step(self, Frame* top, PyObject** value) except -1:
        """Find the next value of a container; 0 means that there is none."""
        cdef PyObject* key = NULL
        cdef PyObject* item = NULL
        if top.kind == F_DICT or top.kind == F_FIELDS:
            if top.in_value:
                top.in_value = False
                value[0] = top.item
                return 1
            if PyDict_Size(top.obj) != top.n:
                raise RuntimeError("a dictionary changed size while it was serialized")
            if not PyDict_Next(top.obj, &top.i, &key, &item):
                return 0
            Py_INCREF(key)
            Py_INCREF(item)
            Py_XDECREF(top.key)
            top.key = key
            Py_XDECREF(top.item)
            top.item = item
            top.in_value = True
            value[0] = key
            return 1
        if top.kind == F_TUPLE or top.kind == F_CUSTOM:
            if top.i >= top.n:
                return 0
            item = PyTuple_GET_ITEM(top.obj, top.i)
        else:
            if PyList_GET_SIZE(top.obj) != top.n:
                raise RuntimeError("a list changed size while it was serialized")
            if top.i >= top.n:
                return 0
            item = PyList_GET_ITEM(top.obj, top.i)
        top.i += 1
        Py_INCREF(item)
        Py_XDECREF(top.item)
        top.item = item
        value[0] = item
        return 1

    cdef int walk(self, PyObject* root) except -1:
        cdef Frame frame
        cdef Frame* top
        cdef PyObject* value = root
        cdef uint32_t count = 0
        if self.emit(value, &frame):
            self.push(&frame)
        while self.stack.n:
            top = <Frame*> (self.stack.p + self.stack.n - sizeof(Frame))
            if self.step(top, &value):
                if self.emit(value, &frame):
                    self.push(&frame)
                count += 1
                if count & 0xFFFFF == 0:
                    # A tree made of shared parts can be astronomically larger than its memory.
                    PyErr_CheckSignals()
                    if self.draft.types.n >= 0x7FFFFFFF:
                        raise OverflowError("more than 2,147,483,647 elements in one object")
            else:
                self.stack.n -= sizeof(Frame)
                top = <Frame*> (self.stack.p + self.stack.n)
                Py_XDECREF(top.key)
                Py_XDECREF(top.item)
                Py_XDECREF(top.obj)
        return 0

    cdef object path(self, object root):
        """Spell out where the walk stands."""
        cdef size_t at = 0
        cdef Frame* frame
        parts = [str(root)]
        while at < self.stack.n:
            frame = <Frame*> (self.stack.p + at)
            at += sizeof(Frame)
            if frame.kind == F_LIST or frame.kind == F_TUPLE:
                if frame.i:
                    parts.append(f"[{frame.i - 1}]")
            elif frame.kind == F_SET:
                parts.append("{...}")
            elif frame.key != NULL:
                if frame.in_value:      # its key is being written
                    parts.append(".<key>")
                elif frame.kind == F_FIELDS:
                    parts.append(f".{<object> frame.key}")
                else:
                    parts.append(f"[{describe(<object> frame.key)}]")
        return "".join(parts)

    # -- tokens ----------------------------------------------------------------------------------

    cdef int emit(self, PyObject* value, Frame* frame) except -1:
        """Write a value's token; 1 means that its elements follow, as `frame` says."""
        cdef PyObject* kind = PYRAY_TYPE(value)
        cdef int overflow = 0
        cdef int64_t number
        cdef double real
        if kind == t_float:
            vec_byte(&self.draft.types, TK_FLOAT)
            real = PyFloat_AS_DOUBLE(value)
            vec_bytes(&self.draft.floats, &real, 8)
            return 0
        if kind == t_int:
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow:
                data = (<object> value).to_bytes(
                    (<object> value).bit_length() // 8 + 1, "little", signed=True)
                self.emit_op(OP_BIGINT, 0)
                self.emit_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
                return 0
            vec_byte(&self.draft.types, TK_INT)
            vec_i64(&self.draft.ints, number)
            return 0
        if kind == t_str:
            self.emit_str(value)
            return 0
        if value == Py_None:
            vec_byte(&self.draft.types, TK_NONE)
            return 0
        if kind == t_bool:
            vec_byte(&self.draft.types, TK_BOOL)
            vec_byte(&self.draft.bools, value == Py_True)
            return 0
        if kind == _numpy.ndarray:
            self.emit_array(value)
            return 0
        if kind == t_bytes:
            self.emit_bytes(PyBytes_AS_STRING(<object> value), PyBytes_GET_SIZE(<object> value),
                            <object> value)
            return 0
        if kind == _hooks.ref_type:
            self.contained.append(<object> value)
            self.emit_ref(<object> value)
            return 0
        frame.obj = value
        frame.key = NULL
        frame.item = NULL
        frame.i = 0
        frame.in_value = False
        if kind == t_list:
            frame.kind = F_LIST
            frame.n = PyList_GET_SIZE(value)
            vec_byte(&self.draft.types, TK_LIST)
            vec_i64(&self.draft.lists, frame.n)
        elif kind == t_tuple:
            frame.kind = F_TUPLE
            frame.n = PyTuple_GET_SIZE(value)
            vec_byte(&self.draft.types, TK_TUPLE)
            vec_i64(&self.draft.tuples, frame.n)
        elif kind == t_dict:
            frame.kind = F_DICT
            frame.n = PyDict_Size(value)
            vec_byte(&self.draft.types, TK_DICT)
            vec_i64(&self.draft.dicts, frame.n)
        else:
            return self.emit_other(value, frame)
        Py_INCREF(value)
        return 1

    cdef int emit_other(self, PyObject* value, Frame* frame) except -1:
        cdef PyObject* kind = PYRAY_TYPE(value)
        cdef object obj = <object> value
        cdef object part
        cdef int manner
        cdef double real
        if kind == t_set or kind == t_frozenset:
            part = list(obj)
            frame.kind = F_SET
            frame.n = len(part)
            self.emit_op(OP_SET if kind == t_set else OP_FROZENSET, frame.n)
            frame.obj = <PyObject*> part
            Py_INCREF(frame.obj)
            return 1
        if kind == t_complex:
            self.emit_op(OP_COMPLEX, 0)
            for real in (obj.real, obj.imag):
                vec_byte(&self.draft.types, TK_FLOAT)
                vec_bytes(&self.draft.floats, &real, 8)
            return 0
        if kind == t_bytearray:
            part = bytes(obj)
            self.emit_op(OP_BYTEARRAY, 0)
            self.emit_bytes(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part), part)
            return 0
        if numpy_look():
            if kind == _numpy.ndarray or kind == _shared.kind:
                self.emit_array(value)
                return 0
            if PYRAY_IS_SUBTYPE(kind, _numpy.generic) and self.emit_scalar(value):
                return 0
            if self.by_reference and PYRAY_IS_SUBTYPE(kind, _numpy.ndarray):
                self.refuse_view(value)
        if is_definition(obj):
            self.emit_definition(obj)
            return 0
        if type(obj) is Pickled:
            self.emit_pickle((<Pickled> obj).value)
            return 0
        manner = manner_of(obj)
        if manner == BY_CUSTOM:
            serializer, deserializer = custom_pair(type(obj))
            part = (serializer(obj),)
            self.emit_op(OP_CUSTOM, 0)
            self.emit_definition(deserializer)
            frame.kind = F_CUSTOM
            frame.n = 1
            frame.obj = <PyObject*> part
            Py_INCREF(frame.obj)
            return 1
        if manner == BY_FIELDS:
            part = obj.__dict__
            if all([type(name) is str for name in part]):
                frame.kind = F_FIELDS
                frame.n = len(part)
                self.emit_op(OP_FIELDS, frame.n)
                self.emit_definition(type(obj))
                frame.obj = <PyObject*> part
                Py_INCREF(frame.obj)
                return 1
        self.emit_pickle(obj)
        return 0

    cdef int emit_ref(self, object ref) except -1:
        data = pack_ref(ref)
        if type(data) is not bytes:
            raise TypeError("an ObjectID must be packed into bytes")
        vec_byte(&self.draft.types, TK_OBJECT_ID)
        vec_bytes(&self.draft.oids.data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        vec_i64(&self.draft.oids.ends, self.draft.oids.data.n)
        self.draft.oids.size = self.draft.oids.data.n
        return 0

    cdef int emit_op(self, int op, int64_t count) except -1:
        vec_byte(&self.draft.types, TK_OP)
        return vec_i64(&self.draft.ops, op | count << 8)

    cdef int emit_str(self, PyObject* value) except -1:
        cdef Py_ssize_t n = 0
        cdef const char* text
        cdef object owner = <object> value
        if PyUnicode_IS_COMPACT_ASCII(value):
            text = PYRAY_ASCII(value)
            n = PyUnicode_GET_LENGTH(value)
        else:
            try:
                if PyUnicode_GET_LENGTH(value) < SEGMENT_MIN // 4:
                    text = PyUnicode_AsUTF8AndSize(value, &n)   # stays cached in the string
                else:
                    owner = (<object> value).encode()
                    text = PyBytes_AS_STRING(owner)
                    n = PyBytes_GET_SIZE(owner)
            except UnicodeEncodeError:
                owner = (<object> value).encode("utf-8", "surrogatepass")
                self.emit_op(OP_SURROGATES, 0)
                return self.emit_bytes(PyBytes_AS_STRING(owner), PyBytes_GET_SIZE(owner), owner)
        vec_byte(&self.draft.types, TK_STR)
        return _add(self, &self.draft.strs, text, n, owner)

    cdef int emit_bytes(self, const char* data, size_t n, object owner) except -1:
        vec_byte(&self.draft.types, TK_BYTES)
        return _add(self, &self.draft.blobs, data, n, owner)

    cdef int emit_scalar(self, PyObject* value) except -1:
        """Write a numpy scalar; 0 means that it is none of the simple ones."""
        cdef object obj = <object> value
        cdef object dtype = obj.dtype
        if dtype.type is not type(obj) or dtype.kind in "SUVOT":
            return 0
        text = dtype_description(value)
        if type(text) is not str:
            return 0
        data = obj.tobytes()
        self.emit_op(OP_SCALAR, 0)
        self.emit_str(<PyObject*> text)
        self.emit_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
        return 1

    cdef int emit_array(self, PyObject* array) except -1:
        cdef ArrayInfo info
        cdef Job job
        cdef int64_t token
        cdef object description = None
        cdef object done
        cdef View view
        cdef int axis
        array_info(array, &info)
        if (_shared.find != NULL
                and (PYRAY_TYPE(array) == _shared.kind or in_arena(info.data))
                and _shared.find(array, self.by_reference, &view)):
            self.contained.append(<object> view.oid)
            Py_XDECREF(view.oid)
            return self.emit_shared(array, &info, &view)
        if info.element < 0:
            description = dtype_description(array)
            if description is None:
                return self.emit_pickle(<object> array)
            self.emit_op(OP_ARRAY, info.ndim)
            if type(description) is str:
                self.emit_str(<PyObject*> description)
            else:
                self.emit_pickle(description)
            vec_byte(&self.draft.types, TK_BOOL)
            vec_byte(&self.draft.bools, info.fortran)
            for axis in range(info.ndim):
                vec_byte(&self.draft.types, TK_INT)
                vec_i64(&self.draft.ints, info.dims[axis])
        vec_byte(&self.draft.types, TK_NDARRAY)
        if self.seen is None:
            self.seen = {}
        done = self.seen.get(<size_t> array)
        if done is not None:
            return vec_i64(&self.draft.arrays, done)
        job.array = array
        job.data = info.data
        job.nbytes = info.nbytes
        job.element = info.element
        job.ndim = info.ndim
        job.fortran = info.fortran
        job.scattered = info.scattered
        if info.element < 0:
            job.element = EL_UINT8
            job.ndim = 1
        token = (
            <int64_t> (self.draft.tensors.n // sizeof(Job)) | <int64_t> job.ndim << 32
            | <int64_t> job.element << 40 | <int64_t> (job.fortran and info.element >= 0) << 48
        )
        vec_i64(&self.draft.arrays, token)
        if self.keep is None:
            self.keep = []
        self.keep.append(<object> array)
        self.seen[<size_t> array] = token
        if info.element < 0:
            job.fortran = False
            if not job.scattered:
                job.array = NULL
        return vec_bytes(&self.draft.tensors, &job, sizeof(Job))

    cdef int refuse_view(self, PyObject* array) except -1:
        """A matrix, a masked array or another subclass's view of a shared array would be copied,
        and what a task writes to it be lost."""
        cdef ArrayInfo info
        cdef View view
        array_info(array, &info)
        if (_shared.find != NULL and in_arena(info.data)
                and _shared.find(array, True, &view)):
            Py_XDECREF(view.oid)
            if view.writable:
                name = type(<object> array).__name__
                raise TypeError(f"a {name} of a shared array cannot be passed by reference: pass "
                                "numpy.asarray of it, or a copy")
        return 0

    cdef int emit_shared(self, PyObject* array, ArrayInfo* info, View* view) except -1:
        """Write where an array lies that is part of a shared one, the last in `contained`."""
        cdef object description = dtype_description(array)
        cdef int axis
        self.emit_op(OP_SHARED, info.ndim)
        self.emit_ref(self.contained[len(self.contained) - 1])
        vec_byte(&self.draft.types, TK_INT)
        vec_i64(&self.draft.ints, view.at)
        vec_byte(&self.draft.types, TK_BOOL)
        vec_byte(&self.draft.bools, view.writable)
        if type(description) is str:
            self.emit_str(<PyObject*> description)
        else:
            self.emit_pickle(description)
        for axis in range(info.ndim):
            vec_byte(&self.draft.types, TK_INT)
            vec_i64(&self.draft.ints, info.dims[axis])
        for axis in range(info.ndim):
            vec_byte(&self.draft.types, TK_INT)
            vec_i64(&self.draft.ints, info.strides[axis])
        return 0

    cdef int emit_raw(self, char* data, size_t n, object owner) except -1:
        """Note a block of bytes as a tensor."""
        cdef Job job
        vec_byte(&self.draft.types, TK_NDARRAY)
        vec_i64(&self.draft.arrays, <int64_t> (self.draft.tensors.n // sizeof(Job))
                | <int64_t> 1 << 32 | <int64_t> EL_UINT8 << 40)
        memset(&job, 0, sizeof(Job))
        job.data = data
        job.nbytes = n
        job.element = EL_UINT8
        job.ndim = 1
        if self.keep is None:
            self.keep = []
        self.keep.append(owner)
        return vec_bytes(&self.draft.tensors, &job, sizeof(Job))

    cdef int emit_pickle(self, object value) except -1:
        cdef const unsigned char[::1] view
        cdef bytes data
        cdef list buffers
        cdef int64_t check, size
        if self.pickler is None:
            self.pickler = PickleState(self.contained, self.by_reference)
        data = self.pickler.dumps(value)
        buffers = self.pickler.buffers
        self.emit_op(OP_PICKLE, len(buffers))
        check = checksum(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0)
        for buffer in buffers:
            size = buffer.nbytes
            check = checksum(<char*> &size, 8, check)
        vec_byte(&self.draft.types, TK_INT)
        vec_i64(&self.draft.ints, check)
        self.emit_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
        for buffer in buffers:
            view = buffer
            self.emit_raw(<char*> &view[0], view.shape[0], buffer)
        return 0

    cdef int emit_definition(self, object obj) except -1:
        """Write a class or function: by name, by number, or whole."""
        if self.classes is not None:
            known = self.classes.get(id(obj))
            if known is not None:
                return self.emit_op(OP_AGAIN, known[0])
        if is_definition(obj) and is_importable(obj):
            self.emit_op(OP_GLOBAL, 0)
            self.emit_str(<PyObject*> obj.__module__)
            self.emit_str(<PyObject*> obj.__qualname__)
        else:
            ident = export_definition(obj)
            if ident is not None:
                self.emit_op(OP_DEFINITION, ident)
            else:
                self.emit_op(OP_BY_VALUE, 0)
                self.emit_pickle(obj)
        if self.classes is None:
            self.classes = {}
        self.classes[id(obj)] = (len(self.classes), obj)
        return 0

    cdef int write_to(self, char* dst) except -1:
        return draft_write(&self.draft, dst)


cdef int _add(Encoded to, Blob* blob, const char* data, size_t n, object owner) except -1:
    """Add a str's or bytes' contents; `owner` is who holds them."""
    cdef Segment segment
    if n < SEGMENT_MIN:
        vec_bytes(&blob.data, data, n)
    else:
        segment.at = blob.data.n
        segment.data = data
        segment.n = n
        vec_bytes(&blob.segments, &segment, sizeof(Segment))
        if to.keep is None:
            to.keep = []
        to.keep.append(owner)
    blob.size += n
    return vec_i64(&blob.ends, blob.size)


cdef Encoded encode_frame(object array, bint paged):
    cdef Encoded made = Encoded.__new__(Encoded)
    made.draft.frame = True
    made.draft.paged = paged
    made.emit_array(<PyObject*> array)
    made.nbytes = draft_finish(&made.draft)
    return made


cdef Encoded encode_store(object value, object root, bint by_reference):
    """Encode a value; SerializationError says what cannot be."""
    cdef Encoded made = Encoded.__new__(Encoded)
    made.by_reference = by_reference
    try:
        made.walk(<PyObject*> value)
        made.nbytes = draft_finish(&made.draft)
    except RecursionError:
        raise RecursionDepthError(RECURSION_MESSAGE) from None
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise _explain(made, value, root, error) from error
    finally:
        if made.pickler is not None:
            made.pickler.close()
    return made


cdef object _explain(Encoded made, object value, object root, object error):
    """Word an error: which element, and why."""
    cdef Frame* top
    cdef object culprit = value
    if made.stack.n:
        top = <Frame*> (made.stack.p + made.stack.n - sizeof(Frame))
        if top.in_value:
            culprit = <object> top.key
        elif top.item != NULL:
            culprit = <object> top.item
    if type(culprit) is Pickled:
        culprit = (<Pickled> culprit).value
    return explain(error, made.path(root), culprit, _probe)


def _probe(value):
    """Try to pickle a part, which is how its whole has failed; give the error, or None."""
    cdef PickleState state = PickleState([], False)
    try:
        state.dumps(value)
    except Exception as error:
        return error
    finally:
        state.close()
    return None
