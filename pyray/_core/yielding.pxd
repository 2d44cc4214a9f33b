from libc.stdint cimport uint64_t

cdef int write_all(uint64_t task, str name, object values, bint alone) except -1
cdef int check_iterator(str name, object values, str how) except -1
cdef int store_items(uint64_t task, object values, list refs, bint alone) except -1
cdef int store_each(uint64_t task, str name, object values, bint alone) except -1
cdef int store_return(uint64_t handle, object value, int whose) except -1
