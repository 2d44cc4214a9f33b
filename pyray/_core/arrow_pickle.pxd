# Pickling inside the serializer, the hooks that join it to the runtime, and what is known of
# classes.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t


cdef enum:
    BY_PICKLE = 0
    BY_FIELDS = 1
    BY_CUSTOM = 2

cdef struct Hooks:
    PyObject* ref_type      # NULL until set_hooks

cdef const Hooks* hooks() noexcept
cdef int install_hooks(object ref_type, object pack, object unpack, object export_definition,
                       object import_definition) except -1
cdef object pack_ref(object ref)
cdef object unpack_ref(object data)
cdef object export_definition(object obj)
cdef object import_definition(object ident)

cdef int manner_of(object value) except -1
cdef tuple custom_pair(object cls)
cdef int set_manner(object cls, object manner) except -1
cdef bint is_importable(object obj) except -1
cdef bint is_definition(object obj) noexcept
cdef object find_global(str module, str qualname)
# `before` is what came before, or 0; the sizes of a pickle's buffers are chained on.
cdef int64_t checksum(const char* data, size_t n, int64_t before) noexcept nogil


cdef class PickleState:
    cdef list contained     # ObjectIDs met are added here
    cdef bint by_reference  # see Encoded
    cdef list buffers       # memoryviews of the buffers of the latest pickle
    cdef object _file
    cdef object _pickler

    cdef int close(self) except -1
    cdef bytes dumps(self, object value)
    cdef bytes dump_once(self, object value)

cdef object pickle_loads(const char* data, size_t n, object buffers, bint copy)


cdef class Pickled:
    cdef readonly object value
