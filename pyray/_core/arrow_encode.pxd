# The encoder of the store form.

from cpython.object cimport PyObject

from pyray._core.arrow_layout cimport Draft
from pyray._core.arrow_numpy cimport ArrayInfo
from pyray._core.arrow_pickle cimport PickleState
from pyray._core.arrow_vec cimport Vec
from pyray._core.by_reference cimport View
from libc.stdint cimport int64_t


cdef struct Frame:
    PyObject* obj       # owned: the list, tuple or dict being walked
    PyObject* key       # owned: the latest key
    PyObject* item      # owned: the latest element
    Py_ssize_t i
    Py_ssize_t n
    int kind
    bint in_value       # of a dict's pair the key has been written


cdef class Encoded:
    cdef readonly size_t nbytes         # bytes in store form
    cdef readonly list contained        # ObjectIDs found anywhere in the value

    cdef Draft draft
    cdef Vec stack
    cdef list keep      # whatever the draft points into
    cdef dict seen, classes
    cdef PickleState pickler
    cdef bint by_reference  # shared arrays that are still written to are not copied

    # Write all nbytes; dst should be aligned to 64.  Large copies run without the GIL.
    cdef int write_to(self, char* dst) except -1

    cdef int walk(self, PyObject* root) except -1
    cdef int push(self, Frame* frame) except -1
    cdef int step(self, Frame* top, PyObject** value) except -1
    cdef void clear_stack(self) noexcept
    cdef int emit(self, PyObject* value, Frame* frame) except -1
    cdef int emit_other(self, PyObject* value, Frame* frame) except -1
    cdef int emit_str(self, PyObject* value) except -1
    cdef int emit_bytes(self, const char* data, size_t n, object owner) except -1
    cdef int emit_ref(self, object ref) except -1
    cdef int emit_op(self, int op, int64_t count) except -1
    cdef int emit_array(self, PyObject* array) except -1
    cdef int refuse_view(self, PyObject* array) except -1
    cdef int emit_shared(self, PyObject* array, ArrayInfo* info, View* view) except -1
    cdef int emit_raw(self, char* data, size_t n, object owner) except -1
    cdef int emit_pickle(self, object value) except -1
    cdef int emit_definition(self, object obj) except -1
    cdef int emit_scalar(self, PyObject* value) except -1
    cdef object path(self, object root)


# `by_reference`: arrays that are parts of shared ones travel as such, for a call's arguments.
cdef Encoded encode_store(object value, object root, bint by_reference)
# All but the elements of an array, which are to be written in place: those are the last thing in
# the store form, rounded up to 64 bytes.  `paged`: they begin with a page.
cdef Encoded encode_frame(object array, bint paged)
