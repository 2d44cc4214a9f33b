# The compact form: small values that travel inside a task or result record.

cdef Py_ssize_t compact_encode(object value, char* dst, Py_ssize_t cap) except -2
# The same for a call's arguments: arrays that are parts of shared ones go by reference, and `ids`
# gets their ObjectIDs, to be kept alive; without such a list they are refused.
cdef Py_ssize_t compact_encode_arguments(object value, char* dst, Py_ssize_t cap,
                                         list ids) except -2
cdef object compact_decode(const char* src, Py_ssize_t n)
