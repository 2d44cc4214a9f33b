# numpy as the serializer sees it: loaded only once a value needs it.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t


cdef struct NumpyTypes:
    PyObject* ndarray       # NULL until numpy is loaded
    PyObject* generic       # the base class of numpy's scalars

cdef struct ArrayInfo:
    int element             # an Element, or -1: another dtype
    int ndim
    bint fortran
    bint scattered          # not contiguous: has to be copied element by element
    char* data
    size_t nbytes
    const Py_ssize_t* dims
    const Py_ssize_t* strides

cdef const NumpyTypes* numpy_types() noexcept
# Note whether the program has loaded numpy by now; never imports it.
cdef bint numpy_look() except -1
cdef int numpy_load() except -1
cdef void array_info(PyObject* array, ArrayInfo* info) noexcept
cdef int array_copy_to(PyObject* array, char* dst) except -1
# What tells a dtype: its string, the dtype itself (to be pickled), or None (pickle the array).
cdef object dtype_description(PyObject* array_or_scalar)
cdef object element_dtype(int element)
cdef object element_array(int element, int ndim, const Py_ssize_t* dims, bint fortran,
                          char* data, object pin, bint writable)
# A dtype from its description; CorruptObjectError if it has no elements of plain bytes.
cdef object raw_dtype(object dtype)
cdef object raw_array(object dtype, int ndim, const Py_ssize_t* dims, bint fortran,
                      char* data, size_t nbytes, object pin, bint writable)
cdef object raw_scalar(object dtype, char* data, size_t nbytes)
