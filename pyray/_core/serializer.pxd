# The serializer's C interface: what the runtime uses.
#
# Store form: an Arrow record batch and tensors (see arrow_format), for the object store.
# Compact form: a few bytes, for values that travel inside a task or result record.

from pyray._core.arrow_encode cimport Encoded

# Raises SerializationError, whose message starts with the path from `root` ("x").
cdef Encoded encode(object value, object root=*, bint by_reference=*)
# pin keeps the memory alive: arrays are read-only views whose base it is. A PrivateCopy of the same
# bytes as the pin: they are views of that, and may be written to.
cdef object decode(const char* src, size_t nbytes, object pin)

# The length written, or -1: does not fit, or needs the store form.
cdef Py_ssize_t encode_inline(object value, char* dst, Py_ssize_t cap) except -2
cdef object decode_inline(const char* src, Py_ssize_t n)
