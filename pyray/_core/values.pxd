from libc.stdint cimport uint32_t, uint64_t
from pyray._core.store cimport ObjectID

# Whose value store_value writes: an object of this process's own, a task's last result (it looks
# for work next), or one that is followed by more.
cdef enum:
    OWN = 1
    RESULT = 2
    RESULT_MORE = 3

cdef int store_value(uint64_t handle, object value, uint64_t flags, int whose,
                     object root, bint by_reference=*) except -1
cdef object as_result(object value, uint64_t since=*)
cdef int copy_value(uint64_t to, ObjectID source, uint64_t flags) except -1
cdef object load_value(ObjectID oid, bint writable=*)
cdef object load_raw(uint64_t handle, object holder, bint writable=*)
cdef ObjectID new_object(object value, uint64_t flags, object root, bytes parent, uint64_t counter,
                         uint32_t index, bint by_reference=*)
cdef ObjectID put_value(object value, bytes parent, uint64_t counter, object root)
cdef ObjectID put_arguments(object payload, bytes parent, uint64_t counter, object root)
