# cython: language_level=3
"""What joins shared arrays to the serializer.

The module that knows them, `shared_arrays`, is loaded by whoever makes the first one, or is sent
one: a program that has none does not pay for it.
"""

from pyray._core.arena cimport arena

from pyray._core.serial_errors import CorruptObjectError

cdef Shared _shared
_shared.kind = NULL
_shared.regions = 0
_shared.find = NULL
_shared.restore = NULL
_shared.seal = NULL
_shared.finish = NULL
_shared.forget = NULL

cdef object _loader = None


def set_loader(loader):
    """Have `loader()` called once the class SharedArray is there, to add its methods."""
    global _loader
    _loader = loader


cdef int add_methods() except -1:
    if _loader is not None:
        _loader()
    return 0


cdef Shared* shared() noexcept:
    return &_shared


cdef object restore_view(uint64_t handle, object oid, object dtype, int64_t at, int ndim,
                         const Py_ssize_t* dims, const Py_ssize_t* strides, bint writable,
                         bint copy):
    if _shared.restore == NULL:
        __import__("pyray._core.shared_arrays")
    if arena().low == NULL:
        raise CorruptObjectError("a shared array, outside of any session")
    return _shared.restore(handle, oid, dtype, at, ndim, dims, strides, writable, copy)
