# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compact form of small values, which never see the object store.

One byte says what follows, and for small ints and short lengths it also says the value.  Only
exact builtin types qualify; no Python object is made while encoding.  A value that does not fit
in the room given, or holds anything else, is refused with -1 and goes to the store form.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyray._core.arena cimport in_arena
from pyray._core.arrow_numpy cimport (
    ArrayInfo, NumpyTypes, array_info, element_dtype, numpy_types,
)
from pyray._core.by_reference cimport Shared, View, restore_view, shared

from pyray._core.serial_errors import CorruptObjectError

cdef extern from "Python.h":
    """
    #define PYRAY_KIND(o) ((PyObject *)Py_TYPE(o))
    #define PYRAY_IS_ASCII(o) (PyUnicode_IS_COMPACT_ASCII(o))
    #define PYRAY_ASCII(o) ((const char *)PyUnicode_1BYTE_DATA(o))
    """
    const char* PyUnicode_AsUTF8AndSize(PyObject* text, Py_ssize_t* size) except NULL
    const char* PYRAY_ASCII(PyObject* text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* text) noexcept
    bint PYRAY_IS_ASCII(PyObject* text) noexcept
    bint PyLong_CheckExact(PyObject*) noexcept
    bint PyFloat_CheckExact(PyObject*) noexcept
    bint PyUnicode_CheckExact(PyObject*) noexcept
    bint PyBytes_CheckExact(PyObject*) noexcept
    bint PyList_CheckExact(PyObject*) noexcept
    bint PyTuple_CheckExact(PyObject*) noexcept
    bint PyDict_CheckExact(PyObject*) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject*, int* overflow) noexcept
    Py_ssize_t PyDict_GET_SIZE "PyDict_Size"(PyObject*) noexcept
    int PyDict_Next(PyObject*, Py_ssize_t*, PyObject**, PyObject**) noexcept
    int PyDict_SetItem(PyObject*, PyObject*, PyObject*) except -1
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)
    object PyLong_FromLongLong(long long)
    object PyFloat_FromDouble(double)
    object PyList_New(Py_ssize_t)
    object PyTuple_New(Py_ssize_t)
    void PyList_SET_ITEM(PyObject*, Py_ssize_t, PyObject*) noexcept
    void PyTuple_SET_ITEM(PyObject*, Py_ssize_t, PyObject*) noexcept
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    PyObject* PYRAY_KIND(PyObject*) noexcept
    PyObject* Py_None
    PyObject* Py_True
    PyObject* Py_False

cdef enum:
    # The byte that begins each value.  0 is never written, so cleared memory decodes to an error.
    C_NONE = 1
    C_TRUE = 2
    C_FALSE = 3
    C_INT8 = 4
    C_INT32 = 5
    C_INT64 = 6
    C_FLOAT = 7
    C_STR = 8           # then a length byte; + 1: then a length of 4 bytes
    C_BYTES = 10
    C_LIST = 12
    C_TUPLE = 14
    C_DICT = 16
    C_SHARED = 18       # part of a shared array: see _put_shared
    C_STR_SHORT = 0x20  # lengths 0 to 31
    C_TUPLE_SHORT = 0x40    # lengths 0 to 15
    C_DICT_SHORT = 0x50     # lengths 0 to 15
    C_SMALL = 0x80      # ints from 0 to 127
    MAX_DEPTH = 16
    # In the byte with a shared array's number of dimensions: in C order, without its strides.
    IN_ORDER = 0x80
    # In the byte with its element type.
    READ_ONLY = 0x80
    MAX_VIEW_DIMS = 64

cdef const NumpyTypes* _numpy = numpy_types()
cdef Shared* _shared = shared()
# Where the ids of shared arrays go while arguments are encoded; None: they are refused.
cdef list _ids = None

cdef struct Reader:
    const char* at
    const char* end


cdef inline char* _put_length(int tag, Py_ssize_t n, char* at, char* end) noexcept nogil:
    """Write a tag and a length, with room for at least n more bytes after it, or give NULL."""
    cdef uint32_t wide
    if n < 256:
        if end - at < 2 + n:
            return NULL
        at[0] = <char> tag
        at[1] = <char> <uint8_t> n
        return at + 2
    if n > 0x7FFFFFFF or end - at < 5 + n:
        return NULL
    wide = <uint32_t> n
    at[0] = <char> (tag + 1)
    memcpy(at + 1, &wide, 4)
    return at + 5


cdef inline char* _put_int(int64_t value, char* at, char* end) noexcept nogil:
    cdef int32_t half
    if 0 <= value < 128:
        at[0] = <char> (C_SMALL | value)
        return at + 1
    if -128 <= value < 0:
        if end - at < 2:
            return NULL
        at[0] = C_INT8
        at[1] = <char> value
        return at + 2
    if -0x80000000 <= value <= 0x7FFFFFFF:
        if end - at < 5:
            return NULL
        half = <int32_t> value
        at[0] = C_INT32
        memcpy(at + 1, &half, 4)
        return at + 5
    if end - at < 9:
        return NULL
    at[0] = C_INT64
    memcpy(at + 1, &value, 8)
    return at + 9


cdef char* _put_str(PyObject* value, char* at, char* end) noexcept:
    cdef Py_ssize_t n = 0
    cdef const char* text
    if PYRAY_IS_ASCII(value):
        text = PYRAY_ASCII(value)
        n = PyUnicode_GET_LENGTH(value)
    else:
        # The UTF-8 is cached inside the string, so keep that to what can fit at all.
        if PyUnicode_GET_LENGTH(value) > end - at:
            return NULL
        try:
            text = PyUnicode_AsUTF8AndSize(value, &n)
        except UnicodeEncodeError:      # lone surrogates
            return NULL
        except MemoryError:
            return NULL
    if n < 32:
        if end - at < 1 + n:
            return NULL
        at[0] = <char> (C_STR_SHORT | n)
        at += 1
    else:
        at = _put_length(C_STR, n, at, end)
        if at == NULL:
            return NULL
    memcpy(at, text, n)
    return at + n


cdef char* _put_shared(PyObject* array, char* at, char* end) noexcept:
    """Write where an array lies that is part of a shared one: tag, dimensions, element type, the
    object's handle, the place in it, lengths and, if it is not in C order, strides."""
    cdef ArrayInfo info
    cdef View view
    cdef bint in_order
    cdef Py_ssize_t n
    array_info(array, &info)
    if info.element < 0 or not in_arena(info.data):
        return NULL
    in_order = not info.fortran and not info.scattered
    n = 8 * info.ndim
    if end - at < 19 + (n if in_order else 2 * n):
        return NULL
    try:
        if not _shared.find(array, True, &view):
            return NULL
        _ids.append(<object> view.oid)
    except Exception:       # the store form says it in full
        return NULL
    Py_DECREF(view.oid)
    at[0] = C_SHARED
    at[1] = <char> (info.ndim | (IN_ORDER if in_order else 0))
    at[2] = <char> (info.element | (0 if view.writable else READ_ONLY))
    memcpy(at + 3, &view.handle, 8)
    memcpy(at + 11, &view.at, 8)
    memcpy(at + 19, info.dims, n)
    at += 19 + n
    if not in_order:
        memcpy(at, info.strides, n)
        at += n
    return at


cdef char* _put(PyObject* value, char* at, char* end, int depth) noexcept:
    """Write a value; give the position after it, or NULL if it is refused."""
    cdef Py_ssize_t n, i, pos
    cdef int overflow
    cdef int64_t number
    cdef double real
    cdef PyObject* key
    cdef PyObject* item
    if at >= end:
        return NULL
    if value == Py_None:
        at[0] = C_NONE
        return at + 1
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        return NULL if overflow else _put_int(number, at, end)
    if PyUnicode_CheckExact(value):
        return _put_str(value, at, end)
    if PyFloat_CheckExact(value):
        if end - at < 9:
            return NULL
        real = PyFloat_AS_DOUBLE(<object> value)
        at[0] = C_FLOAT
        memcpy(at + 1, &real, 8)
        return at + 9
    if value == Py_True:
        at[0] = C_TRUE
        return at + 1
    if value == Py_False:
        at[0] = C_FALSE
        return at + 1
    if PyTuple_CheckExact(value):
        n = PyTuple_GET_SIZE(<object> value)
        if n < 16:
            at[0] = <char> (C_TUPLE_SHORT | n)
            at += 1
        else:
            at = _put_length(C_TUPLE, n, at, end)
        if at == NULL or depth >= MAX_DEPTH:
            return NULL
        for i in range(n):
            at = _put(<PyObject*> PyTuple_GET_ITEM(<object> value, i), at, end, depth + 1)
            if at == NULL:
                return NULL
        return at
    if PyList_CheckExact(value):
        n = PyList_GET_SIZE(<object> value)
        at = _put_length(C_LIST, n, at, end)
        if at == NULL or depth >= MAX_DEPTH:
            return NULL
        for i in range(n):
            at = _put(<PyObject*> PyList_GET_ITEM(<object> value, i), at, end, depth + 1)
            if at == NULL:
                return NULL
        return at
    if PyDict_CheckExact(value):
        n = PyDict_GET_SIZE(value)
        if n < 16:
            at[0] = <char> (C_DICT_SHORT | n)
            at += 1
        else:
            at = _put_length(C_DICT, n, at, end)
        if at == NULL or depth >= MAX_DEPTH:
            return NULL
        pos = 0
        while PyDict_Next(value, &pos, &key, &item):
            at = _put(key, at, end, depth + 1)
            if at == NULL:
                return NULL
            at = _put(item, at, end, depth + 1)
            if at == NULL:
                return NULL
        return at
    if PyBytes_CheckExact(value):
        n = PyBytes_GET_SIZE(<object> value)
        at = _put_length(C_BYTES, n, at, end)
        if at == NULL:
            return NULL
        memcpy(at, PyBytes_AS_STRING(<object> value), n)
        return at + n
    if _ids is not None and _shared.kind != NULL and (
            PYRAY_KIND(value) == _shared.kind or PYRAY_KIND(value) == _numpy.ndarray):
        return _put_shared(value, at, end)
    return NULL


cdef Py_ssize_t compact_encode(object value, char* dst, Py_ssize_t cap) except -2:
    """Write a value in compact form; give its length, or -1 if it does not qualify or fit."""
    cdef char* end = _put(<PyObject*> value, dst, dst + cap, 0)
    return -1 if end == NULL else end - dst


cdef Py_ssize_t compact_encode_arguments(object value, char* dst, Py_ssize_t cap,
                                         list ids) except -2:
    global _ids
    cdef list outside = _ids    # a destructor may come to run in the middle, and submit a task
    _ids = ids
    cdef char* end = _put(<PyObject*> value, dst, dst + cap, 0)
    _ids = outside
    if end == NULL:
        if ids is not None:
            ids.clear()
        return -1
    return end - dst


cdef object _short():
    raise CorruptObjectError("the inline value is cut short")


cdef Py_ssize_t _length(Reader* r, bint wide, Py_ssize_t unit) except -1:
    """Read a length; each of the n elements needs at least `unit` more bytes."""
    cdef uint32_t n = 0
    if wide:
        if r.end - r.at < 4:
            _short()
        memcpy(&n, r.at, 4)
        r.at += 4
    else:
        if r.end - r.at < 1:
            _short()
        n = <uint8_t> r.at[0]
        r.at += 1
    if <uint64_t> n * <uint64_t> unit > <uint64_t> (r.end - r.at):
        _short()
    return n


cdef object _text(Reader* r, Py_ssize_t n):
    if n > r.end - r.at:
        _short()
    text = PyUnicode_DecodeUTF8(r.at, n, NULL)
    r.at += n
    return text


cdef object _list(Reader* r, Py_ssize_t n, int depth):
    cdef Py_ssize_t i
    if n > r.end - r.at:
        _short()
    made = PyList_New(n)
    for i in range(n):
        item = _get(r, depth)
        Py_INCREF(<PyObject*> item)
        PyList_SET_ITEM(<PyObject*> made, i, <PyObject*> item)
    return made


cdef object _tuple(Reader* r, Py_ssize_t n, int depth):
    cdef Py_ssize_t i
    if n > r.end - r.at:
        _short()
    made = PyTuple_New(n)
    for i in range(n):
        item = _get(r, depth)
        Py_INCREF(<PyObject*> item)
        PyTuple_SET_ITEM(<PyObject*> made, i, <PyObject*> item)
    return made


cdef object _dict(Reader* r, Py_ssize_t n, int depth):
    cdef Py_ssize_t _i
    cdef dict made = {}
    for _i in range(n):
        key = _get(r, depth)
        value = _get(r, depth)
        PyDict_SetItem(<PyObject*> made, <PyObject*> key, <PyObject*> value)
    return made


cdef object _view(Reader* r):
    cdef Py_ssize_t places[2 * MAX_VIEW_DIMS]
    cdef Py_ssize_t n
    cdef uint64_t handle
    cdef int64_t at
    cdef int ndim, element
    cdef bint in_order
    if r.end - r.at < 18:
        _short()
    ndim = <uint8_t> r.at[0]
    in_order = (ndim & IN_ORDER) != 0
    ndim &= ~IN_ORDER
    element = <uint8_t> r.at[1]
    memcpy(&handle, r.at + 2, 8)
    memcpy(&at, r.at + 10, 8)
    r.at += 18
    n = ndim if in_order else 2 * ndim
    if ndim > MAX_VIEW_DIMS or r.end - r.at < 8 * n:
        _short()
    memcpy(places, r.at, 8 * n)
    r.at += 8 * n
    return restore_view(handle, None, element_dtype(element & ~READ_ONLY), at, ndim, places,
                        NULL if in_order else places + ndim, not element & READ_ONLY, False)


cdef object _get(Reader* r, int depth):
    cdef int tag
    cdef int32_t half
    cdef int64_t number
    cdef double real
    cdef Py_ssize_t n
    if r.at >= r.end:
        _short()
    tag = <uint8_t> r.at[0]
    r.at += 1
    if tag >= C_SMALL:
        return PyLong_FromLongLong(tag & 0x7F)
    if C_STR_SHORT <= tag < C_TUPLE_SHORT:
        return _text(r, tag & 0x1F)
    if tag == C_NONE:
        return None
    if tag == C_TRUE:
        return True
    if tag == C_FALSE:
        return False
    if tag == C_INT8:
        if r.end - r.at < 1:
            _short()
        number = <int8_t> r.at[0]
        r.at += 1
        return PyLong_FromLongLong(number)
    if tag == C_INT32:
        if r.end - r.at < 4:
            _short()
        memcpy(&half, r.at, 4)
        r.at += 4
        return PyLong_FromLongLong(half)
    if tag == C_INT64:
        if r.end - r.at < 8:
            _short()
        memcpy(&number, r.at, 8)
        r.at += 8
        return PyLong_FromLongLong(number)
    if tag == C_FLOAT:
        if r.end - r.at < 8:
            _short()
        memcpy(&real, r.at, 8)
        r.at += 8
        return PyFloat_FromDouble(real)
    if C_STR <= tag < C_BYTES:
        return _text(r, _length(r, tag & 1, 1))
    if C_BYTES <= tag < C_LIST:
        n = _length(r, tag & 1, 1)
        data = PyBytes_FromStringAndSize(r.at, n)
        r.at += n
        return data
    if tag == C_SHARED:
        return _view(r)
    if depth >= MAX_DEPTH:
        raise CorruptObjectError("the inline value is nested too deeply")
    if C_TUPLE_SHORT <= tag < C_DICT_SHORT:
        return _tuple(r, tag & 0xF, depth + 1)
    if C_DICT_SHORT <= tag < C_DICT_SHORT + 16:
        return _dict(r, tag & 0xF, depth + 1)
    if C_LIST <= tag < C_TUPLE:
        return _list(r, _length(r, tag & 1, 1), depth + 1)
    if C_TUPLE <= tag < C_DICT:
        return _tuple(r, _length(r, tag & 1, 1), depth + 1)
    if C_DICT <= tag < C_DICT + 2:
        return _dict(r, _length(r, tag & 1, 2), depth + 1)
    raise CorruptObjectError(f"an inline value does not begin with {tag}")


cdef object compact_decode(const char* src, Py_ssize_t n):
    """Read a value in compact form, which takes up exactly n bytes."""
    cdef Reader r
    r.at = src
    r.end = src + n
    try:
        value = _get(&r, 0)
    except (UnicodeDecodeError, TypeError) as error:    # bad text, an unhashable key
        raise CorruptObjectError(f"not an inline value: {error}") from None
    if r.at != r.end:
        raise CorruptObjectError("bytes are left over after the inline value")
    return value
