from libc.stdint cimport uint32_t, uint64_t
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

cdef int check_id(ObjectID oid) except -1
cdef int escape(ObjectID oid) except -1
cdef ObjectID id_in_record(uint64_t handle)
cdef uint32_t private_ids()
cdef void say_unseen(object error)
cdef int ids_reset() except -1
