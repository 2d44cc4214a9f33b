from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from pyray._core.layout cimport PR_NAME_AT, pr_name, pr_object

cdef enum:
    PACKED_BYTES = 48           # nonce, handle, parent id, counter, index

cdef class ObjectID:
    cdef uint64_t handle
    cdef uint64_t counter       # with parent and index: what the 20 bytes are computed from
    cdef uint32_t epoch
    cdef uint32_t index
    cdef uint32_t mark          # scratch of wait(): finds duplicates without hashing
    cdef bint asked             # somebody has asked for the value, which is an error
    cdef bint weak              # it keeps nothing alive
    cdef bint escaped           # this process has its bit in the record, and the id is interned
    cdef bytes parent
    cdef bytes digest           # the 20 bytes, once somebody asked
    cdef bytes _binary(self)

cdef ObjectID new_id(uint64_t handle, bytes parent, uint64_t counter, uint32_t index)
cdef ObjectID adopt(uint64_t handle, bytes parent, uint64_t counter, uint32_t index)

cdef enum:
    PUT_INDEX = 0x80000000      # index of what is put, where those of returns are 0, 1, …

cdef inline void name_record(pr_object *o, uint64_t handle, bytes parent, uint64_t counter,
                             uint32_t index) noexcept:
    """Leave in a new record what its id hashes from, for whoever lists objects."""
    cdef pr_name *name = <pr_name *>(o.data + PR_NAME_AT)
    name.index = index
    memcpy(name.parent_id, <const char *>parent, 20)
    name.counter = (counter & <uint64_t>0xFFFFFFFFFFFF) | (handle >> 32) << 48

cdef int check_session() except -1
cdef int check_id(ObjectID oid) except -1
cdef uint64_t new_record() except 0
cdef void discard_record(uint64_t handle) noexcept nogil
# `zero`: filled with zeros.
cdef uint64_t alloc(uint64_t size, bint zero=*) except? 0xFFFFFFFFFFFFFFFF
# Whose value store_value writes: an object of this process's own, a task's last result (it looks
# for work next), or one that is followed by more.
cdef enum:
    OWN = 1
    RESULT = 2
    RESULT_MORE = 3

cdef int store_value(uint64_t handle, object value, uint64_t flags, int whose,
                     object root, bint by_reference=*) except -1
cdef object as_result(object value, uint64_t since=*)
cdef object load_value(ObjectID oid, bint writable=*)
cdef object load_raw(uint64_t handle, object pin, bint writable=*)
cdef object borrow_for_view(uint64_t handle)
cdef ObjectID new_object(object value, uint64_t flags, object root, bytes parent, uint64_t counter,
                         uint32_t index, bint by_reference=*)
cdef ObjectID put_arguments(object payload, bytes parent, uint64_t counter, object root)
cdef ObjectID id_in_record(uint64_t handle)
cdef dict contained_ids()
cdef ObjectID put_value(object value, bytes parent, uint64_t counter, object root)
cdef int escape(ObjectID oid) except -1
cdef int sweep_store()
cdef bint is_known(uint64_t handle)
cdef uint32_t private_ids()
cdef list known_handles()
cdef int store_reset() except -1
cdef int copy_value(uint64_t to, ObjectID source, uint64_t flags) except -1
cdef int take_over_ids(uint64_t handle, list inside, uint32_t p) except -1
cdef void set_sweep(object sweep)
cdef void say_unseen(object error)
cdef int sweep_now() except -1
cdef bint has_duties()

cdef Pin pin(object oid, pr_object *o)

cdef class ViewHold:
    cdef uint64_t handle
    cdef uint32_t epoch
    cdef bint resting           # holds nothing for now
    cdef void rest(self)
    cdef bint wake(self)

cdef class Pin:
    cdef object mapping
    cdef object oid
    cdef uint64_t place         # of the payload; it stays as long as this lives
    cdef uint64_t unit          # for unpin
    cdef uint32_t epoch
    cdef uint32_t pins
