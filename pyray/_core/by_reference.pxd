# Shared arrays as the serializer sees them. It stands below the store: the runtime joins in here.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t


# Where an array lies that is part of a shared one.
cdef struct View:
    PyObject* oid           # owned
    uint64_t handle
    int64_t at              # its first element, in bytes from the payload's first
    bint writable

cdef struct Shared:
    PyObject* kind          # the class SharedArray; NULL until this process has met one
    Py_ssize_t regions      # shared arrays that this process has views of
    # Say where an array lies; 0 if it is to be copied.  By reference goes any part of an array that
    # is still written to; into objects, only the whole of a sealed one.
    int (*find)(PyObject* array, bint by_reference, View* found) except -1
    object (*restore)(uint64_t handle, object oid, object dtype, int64_t at, int ndim,
                      const Py_ssize_t* dims, const Py_ssize_t* strides, bint writable, bint copy)
    # put() of a SharedArray: its ObjectID, or what is to be stored as it is.
    object (*seal)(object array)
    # The same array, sealed if the running task has made it, after the first `since` of what it
    # submitted and put: before it is a result.
    object (*finish)(object array, uint64_t since)
    # The session ends: what is kept for the next view is let go of.
    void (*forget)() noexcept

cdef extern from "Python.h":
    PyObject* PYRAY_CLASS "(PyObject *)Py_TYPE"(object) noexcept

cdef Shared* shared() noexcept
# The class is there: add what is written in Python.
cdef int add_methods() except -1

cdef inline bint is_shared(object value) noexcept:
    return PYRAY_CLASS(value) == shared().kind

# The view that such a place stands for; `oid` may be None.  `writable`: as long as the array is
# open; `copy`: once it is sealed, it is to be this process's own, and writable.
cdef object restore_view(uint64_t handle, object oid, object dtype, int64_t at, int ndim,
                         const Py_ssize_t* dims, const Py_ssize_t* strides, bint writable,
                         bint copy)
