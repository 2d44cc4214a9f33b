# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: define_macros=NPY_NO_DEPRECATED_API=NPY_1_7_API_VERSION
"""All that the serializer does with numpy's C interface.

Written against the C header alone: ``cimport numpy`` would import numpy together with this
module, and a program that uses no arrays must not pay for that.
"""

from libc.stdint cimport uintptr_t

from pyray._core.arrow_format cimport (
    EL_BOOL, EL_COUNT, EL_FLOAT16, EL_FLOAT32, EL_FLOAT64, EL_INT8, EL_INT16, EL_INT32,
    EL_INT64, EL_UINT8, EL_UINT16, EL_UINT32, EL_UINT64,
)

import sys

from pyray._core.serial_errors import CorruptObjectError

cdef extern from "Python.h":
    void Py_INCREF(PyObject*) noexcept

cdef extern from "numpy/arrayobject.h":
    ctypedef struct CType "PyTypeObject":
        pass
    ctypedef Py_ssize_t npy_intp
    ctypedef struct CDescr "PyArray_Descr":
        int type_num
    ctypedef struct CArray "PyArrayObject":
        pass
    int _import_array() except -1
    PyObject* c_array_type "((PyObject*)&PyArray_Type)"
    CType* c_array_class "(&PyArray_Type)"
    PyObject* c_generic_type "((PyObject*)&PyGenericArrType_Type)"
    CDescr* PyArray_DescrFromType(int)
    CDescr* PyArray_DESCR(CArray*) noexcept
    int PyArray_NDIM(CArray*) noexcept
    npy_intp* PyArray_DIMS(CArray*) noexcept
    npy_intp* PyArray_STRIDES(CArray*) noexcept
    void* PyArray_DATA(CArray*) noexcept
    npy_intp PyArray_NBYTES(CArray*) noexcept
    int PyArray_FLAGS(CArray*) noexcept
    npy_intp PyDataType_ELSIZE(CDescr*) noexcept
    npy_intp PyDataType_ALIGNMENT(CDescr*) noexcept
    bint PyDataType_REFCHK(CDescr*) noexcept
    bint PyArray_DescrCheck(PyObject*) noexcept
    object PyArray_NewFromDescr(CType* subtype, CDescr*, int nd, const npy_intp* dims,
                                const npy_intp* strides, void* data, int flags, PyObject* obj)
    int PyArray_SetBaseObject(CArray*, PyObject*) except -1
    int PyArray_CopyInto(CArray* dst, CArray* src) except -1
    object PyArray_Scalar(void*, CDescr*, PyObject* base)
    int NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_ALIGNED, NPY_ARRAY_CARRAY
    int NPY_ARRAY_WRITEABLE
    int NPY_BOOL, NPY_BYTE, NPY_UBYTE, NPY_SHORT, NPY_USHORT, NPY_INT, NPY_UINT
    int NPY_LONG, NPY_ULONG, NPY_HALF, NPY_FLOAT, NPY_DOUBLE, NPY_VOID

cdef enum:
    # numpy's own numbered dtypes; beyond are those of users and numpy's newer ones.
    LEGACY_TYPES = 24

cdef NumpyTypes _types
cdef CDescr* _descr[EL_COUNT]
cdef int _element[LEGACY_TYPES]
cdef object _dtype_class = None

_types.ndarray = NULL
_types.generic = NULL


cdef const NumpyTypes* numpy_types() noexcept:
    return &_types


cdef int _note(int element, int number) except -1:
    _descr[element] = PyArray_DescrFromType(number)
    _element[number] = element
    return 0


cdef int numpy_load() except -1:
    """Import numpy and its C interface."""
    global _dtype_class
    cdef int number
    if _types.ndarray != NULL:
        return 0
    _import_array()
    import numpy
    for number in range(LEGACY_TYPES):
        _element[number] = -1
    _note(EL_INT8, NPY_BYTE)
    _note(EL_INT16, NPY_SHORT)
    _note(EL_INT32, NPY_INT)
    _note(EL_INT64, NPY_LONG)
    _note(EL_UINT8, NPY_UBYTE)
    _note(EL_UINT16, NPY_USHORT)
    _note(EL_UINT32, NPY_UINT)
    _note(EL_UINT64, NPY_ULONG)
    _note(EL_FLOAT16, NPY_HALF)
    _note(EL_FLOAT32, NPY_FLOAT)
    _note(EL_FLOAT64, NPY_DOUBLE)
    _note(EL_BOOL, NPY_BOOL)
    _dtype_class = numpy.dtype
    _types.generic = c_generic_type
    _types.ndarray = c_array_type
    return 0


cdef bint numpy_look() except -1:
    if _types.ndarray != NULL:
        return True
    # Only a module that has been executed to its end is taken: its import may be under way.
    module = sys.modules.get("numpy")
    if module is None or not hasattr(module, "ndarray"):
        return False
    spec = getattr(module, "__spec__", None)
    if getattr(spec, "_initializing", False):
        return False
    numpy_load()
    return True


cdef void array_info(PyObject* array, ArrayInfo* info) noexcept:
    """Say what an ndarray looks like, or an instance of a subclass."""
    cdef CArray* a = <CArray*> array
    cdef CDescr* descr = PyArray_DESCR(a)
    cdef int flags = PyArray_FLAGS(a)
    cdef int element = -1
    if 0 <= descr.type_num < LEGACY_TYPES:
        element = _element[descr.type_num]
        # Another byte order or metadata: a descriptor of its own.
        if element >= 0 and _descr[element] != descr:
            element = -1
    info.element = element
    info.ndim = PyArray_NDIM(a)
    info.dims = PyArray_DIMS(a)
    info.strides = PyArray_STRIDES(a)
    info.data = <char*> PyArray_DATA(a)
    info.nbytes = <size_t> PyArray_NBYTES(a)
    info.fortran = False
    info.scattered = False
    if not flags & NPY_ARRAY_C_CONTIGUOUS:
        if flags & NPY_ARRAY_F_CONTIGUOUS:
            info.fortran = True
        else:
            info.scattered = True


cdef int array_copy_to(PyObject* array, char* dst) except -1:
    """Copy an array's elements in C order."""
    cdef CArray* a = <CArray*> array
    cdef CDescr* descr = PyArray_DESCR(a)
    Py_INCREF(<PyObject*> descr)        # NewFromDescr takes it over
    target = PyArray_NewFromDescr(
        c_array_class, descr, PyArray_NDIM(a), PyArray_DIMS(a), NULL, dst, NPY_ARRAY_CARRAY, NULL
    )
    PyArray_CopyInto(<CArray*> <PyObject*> target, a)
    return 0


cdef object dtype_description(PyObject* array_or_scalar):
    dtype = (<object> array_or_scalar).dtype
    cdef CDescr* descr = <CDescr*> <PyObject*> dtype
    if PyDataType_ELSIZE(descr) == 0 or PyDataType_REFCHK(descr):
        return None
    if not 0 <= descr.type_num < LEGACY_TYPES:
        return None
    if descr.type_num == NPY_VOID or dtype.metadata is not None:
        return dtype
    text = dtype.str
    return text if _dtype_class(text) == dtype else dtype


cdef object _view(CDescr* descr, int ndim, const Py_ssize_t* dims, bint fortran, char* data,
                  object pin, bint writable):
    cdef int flags = NPY_ARRAY_F_CONTIGUOUS if fortran else NPY_ARRAY_C_CONTIGUOUS
    if writable:
        flags |= NPY_ARRAY_WRITEABLE
    cdef npy_intp alignment = PyDataType_ALIGNMENT(descr)
    if alignment <= 1 or (<uintptr_t> data) % <uintptr_t> alignment == 0:
        flags |= NPY_ARRAY_ALIGNED
    Py_INCREF(<PyObject*> descr)
    array = PyArray_NewFromDescr(c_array_class, descr, ndim, dims, NULL, data, flags, NULL)
    Py_INCREF(<PyObject*> pin)          # SetBaseObject takes it over
    PyArray_SetBaseObject(<CArray*> <PyObject*> array, <PyObject*> pin)
    return array


cdef object element_dtype(int element):
    """Give the dtype of the tensors' element type."""
    numpy_load()
    if not 0 <= element < EL_COUNT:
        raise CorruptObjectError("no such element type")
    return <object> <PyObject*> _descr[element]


cdef object element_array(int element, int ndim, const Py_ssize_t* dims, bint fortran,
                          char* data, object pin, bint writable):
    """Make a view; the caller has checked that its bytes are there."""
    if _types.ndarray == NULL:
        numpy_load()
    return _view(_descr[element], ndim, dims, fortran, data, pin, writable)


cdef object raw_dtype(object dtype):
    cdef CDescr* descr
    numpy_load()
    if isinstance(dtype, str):
        try:
            dtype = _dtype_class(dtype)
        except Exception:
            raise CorruptObjectError(f"unknown dtype {dtype!r}") from None
    if not PyArray_DescrCheck(<PyObject*> dtype):
        raise CorruptObjectError("not a dtype")
    descr = <CDescr*> <PyObject*> dtype
    if (PyDataType_ELSIZE(descr) == 0 or PyDataType_REFCHK(descr)
            or not 0 <= descr.type_num < LEGACY_TYPES):
        raise CorruptObjectError(f"dtype {dtype} cannot be a view")
    return dtype


cdef object raw_array(object dtype, int ndim, const Py_ssize_t* dims, bint fortran,
                      char* data, size_t nbytes, object pin, bint writable):
    """Make a view of any dtype without references over at most nbytes."""
    cdef CDescr* descr
    cdef size_t need
    cdef size_t limit = <size_t> 1 << 62
    cdef int axis
    cdef bint empty = False
    dtype = raw_dtype(dtype)
    descr = <CDescr*> <PyObject*> dtype
    need = <size_t> PyDataType_ELSIZE(descr)
    for axis in range(ndim):
        if dims[axis] < 0:
            raise CorruptObjectError("negative array dimension")
        if dims[axis] == 0:
            empty = True
        elif <size_t> dims[axis] > limit // need:
            raise CorruptObjectError("array dimensions are too large")
        else:
            need *= <size_t> dims[axis]
    if not empty and need > nbytes:
        raise CorruptObjectError("the array's elements are cut short")
    return _view(descr, ndim, dims, fortran, data, pin, writable)


cdef object raw_scalar(object dtype, char* data, size_t nbytes):
    """Make a numpy scalar from its bytes."""
    cdef object array = raw_array(dtype, 0, NULL, False, data, nbytes, b"", False)
    return PyArray_Scalar(data, PyArray_DESCR(<CArray*> <PyObject*> array), NULL)
