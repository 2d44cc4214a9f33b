"""Values going in and out of the store: written into records and sealed, copied, decoded."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from pyray._core.by_reference cimport is_shared, shared
from pyray._core.compact cimport compact_decode as decode_inline
from pyray._core.compact cimport compact_encode as encode_inline
from pyray._core.dispatch cimport about_to_search, wake_process
from pyray._core.heap cimport heap_free
from pyray._core.holds cimport Pin, contained_ids, drop_contained, pin
from pyray._core.layout cimport *
from pyray._core.objects cimport seal
from pyray._core.pins cimport note_block, place_of
from pyray._core.points cimport *
from pyray._core.private_copy cimport private_copy
from pyray._core.room cimport alloc, discard_record, new_record
from pyray._core.serializer cimport Encoded, decode, encode
from pyray._core.shm cimport Ctx, Mapping, get_ctx, object_at
from pyray._core.store cimport PACKED_BYTES, PUT_INDEX, ObjectID, adopt, name_record, new_id

from pyray._core.errors import ObjectStoreFullError, TaskCancelledError
from pyray._core.store import pack, unpack

cdef Ctx *C = get_ctx()

cdef enum:
    SCRATCH = 1024          # values whose compact form fits in here are stored in that form


cdef object as_result(object value, uint64_t since=0):
    """What a task returns or yields: a shared array that it has made is sealed."""
    if is_shared(value):
        return shared().finish(value, since)
    return value


cdef int store_value(uint64_t handle, object value, uint64_t flags, int whose,
                     object root, bint by_reference=False) except -1:
    """Write a value into a record and seal it.  On an error nothing is sealed and nothing lost."""
    cdef pr_object *o = object_at(C, handle)
    cdef char scratch[SCRATCH]
    cdef Py_ssize_t n
    cdef Encoded enc
    cdef uint64_t off, count, total
    cdef char *at
    n = encode_inline(value, scratch, SCRATCH)
    if 0 <= n <= PR_INLINE_OBJECT:
        o.size = n
        if n > PR_NAME_AT:
            move_name(o, handle)
            memcpy(o.data, scratch, PR_INLINE_OBJECT)
        else:
            memcpy(o.data, scratch, PR_NAME_AT)
        if whose == RESULT:
            about_to_search(C)
        seal(C, handle, flags | OBJ_INLINE)
        return 0
    if n >= 0:
        off = alloc(n)
        memcpy(C.payload + off, scratch, n)
        o.off = off
        o.size = n
        if whose == RESULT:
            about_to_search(C)
        if not seal(C, handle, flags | OBJ_COMPACT):
            heap_free(C, off, n)
        return 0
    if whose != OWN:
        value = as_result(value)
    enc = encode(value, root, by_reference)
    count = len(enc.contained)
    total = enc.nbytes
    if count:
        total += count * PACKED_BYTES + 8
    off = alloc(total)
    try:
        enc.write_to(C.payload + off)
        if count:
            at = C.payload + off + enc.nbytes
            for nested in enc.contained:
                packed = pack(<ObjectID>nested)
                memcpy(at, <const char *>packed, PACKED_BYTES)
                at += PACKED_BYTES
            memcpy(at, &count, 8)
    except BaseException:
        heap_free(C, off, total)
        raise
    o.off = off
    o.size = total
    note_block(handle, off, total)
    PR_POINT(C, POINT_PAYLOAD_WRITTEN)
    if count:
        flags |= OBJ_NESTED
        o.liable = <unsigned short>C.self
        if whose == OWN:
            flags |= OBJ_ACKED
        contained_ids()[handle] = enc.contained
    if whose == RESULT:
        about_to_search(C)
    if not seal(C, handle, flags):
        heap_free(C, off, total)        # an earlier attempt's result stands
    if count:
        drop_contained(handle)
    return 0


cdef void move_name(pr_object *o, uint64_t handle) noexcept nogil:
    """The value takes the name's room in the record."""
    cdef pr_name *name = <pr_name *>(o.data + PR_NAME_AT)
    if name.counter >> 48 == ((handle >> 32) & 0xFFFF):
        C.names[<uint32_t>handle] = name[0]
    # Readers look here first, and see this before any of the value.
    at_store64(&name.counter, 0)


cdef int copy_value(uint64_t to, ObjectID source, uint64_t flags) except -1:
    """Write another object's value into a record and seal it, without looking into the value."""
    cdef pr_object *o = object_at(C, to)
    cdef pr_object *old = object_at(C, source.handle)
    cdef uint64_t s = at_load64(&old.state)
    cdef uint64_t off, size = old.size
    cdef Pin from_
    flags |= s & (OBJ_INLINE | OBJ_COMPACT | OBJ_NESTED)
    if s & OBJ_INLINE:
        if size > PR_NAME_AT:
            move_name(o, to)
            memcpy(o.data, old.data, PR_INLINE_OBJECT)
        else:
            memcpy(o.data, old.data, PR_NAME_AT)
        o.size = size
        seal(C, to, flags)
        return 0
    nested = nested_ids(old) if s & OBJ_NESTED else None
    off = alloc(size)
    from_ = pin(None, old)
    memcpy(C.payload + off, C.readonly + from_.place, size)
    o.off = off
    o.size = size
    note_block(to, off, size)
    if nested is not None:
        o.liable = <unsigned short>C.self
        contained_ids()[to] = nested
    if not seal(C, to, flags):
        heap_free(C, off, size)
    if nested is not None:
        drop_contained(to)
    return 0


cdef list nested_ids(pr_object *o):
    cdef uint64_t count
    cdef const char *end
    cdef pr_cell *cell
    cdef bytes parent
    if at_load64(&o.state) & OBJ_CELL:
        cell = <pr_cell *>o.data
        parent = (<const char *>cell.parent)[:20]
        return [adopt(cell.value, parent, cell.counter, cell.index + 1),
                adopt(cell.next, parent, cell.counter | PR_CELLS, cell.index + 1)]
    cdef Pin held = pin(None, o)
    end = C.readonly + held.place + o.size
    memcpy(&count, end - 8, 8)
    cdef const char *at = end - 8 - count * PACKED_BYTES
    return [unpack(at[i * PACKED_BYTES:(i + 1) * PACKED_BYTES]) for i in range(count)]


cdef object load_raw(uint64_t handle, object holder, bint writable=False):
    """Decode a sealed object's value; `holder` is what views of it are to hold.

    With `writable` arrays are views of a private copy instead, which holds it where it has to.
    """
    cdef pr_object *o = object_at(C, handle)
    cdef uint64_t s = at_load64(&o.state)
    cdef uint64_t size = o.size
    cdef uint64_t count
    if s & OBJ_CELL:
        return None     # it has no value: streams.pyx reads it
    if s & OBJ_INLINE:
        return decode_inline(<const char *>o.data, size)
    if s & OBJ_COMPACT:
        return decode_inline(C.readonly + place_of(o), size)
    cdef Pin held = pin(holder, o)
    cdef const char *payload = C.readonly + held.place
    if s & OBJ_NESTED:
        memcpy(&count, payload + size - 8, 8)
        size -= count * PACKED_BYTES + 8
    if not writable:
        return decode(payload, size, held)
    cdef Mapping mapping = held.mapping
    return decode(payload, size, private_copy(
        payload, size, mapping.file_of(held.place), mapping.place_in_file(held.place), held))


cdef object load_value(ObjectID oid, bint writable=False):
    """The value of a sealed object; raises it if it is an error."""
    cdef pr_object *o = object_at(C, oid.handle)
    cdef uint64_t s = at_load64(&o.state)
    if s & OBJ_INLINE and not s & (OBJ_ERROR | OBJ_CELL):
        return decode_inline(<const char *>o.data, o.size)
    if s & OBJ_ERROR:
        oid.asked = True
    C.inflight += 1         # unpickling runs code of the user's
    try:
        return load_stored(oid, o, s, writable)
    finally:
        C.inflight -= 1


cdef object load_stored(ObjectID oid, pr_object *o, uint64_t s, bint writable):
    value = load_raw(oid.handle, oid, writable and not s & OBJ_ERROR)
    if s & OBJ_NESTED and not s & OBJ_ACKED and o.owner == C.self:
        # First look of the owner: take over the ids inside, so that the writer may let go.
        contained_ids()[oid.handle] = nested_ids(o)
        PR_POINT(C, POINT_NESTED_TAKEN)
        at_or64(&o.state, OBJ_ACKED)
        wake_process(C, o.liable)
    if s & OBJ_ERROR:
        if type(value) is str:
            raise ObjectStoreFullError(f"a task failed, and its error could not be stored: {value}")
        if type(value) is tuple:
            raise TaskCancelledError(*value)
        raise value
    return value


def peek(uint64_t handle):
    """The value of an error that `unseen` was told of."""
    return load_raw(handle, None)


cdef ObjectID new_object(object value, uint64_t flags, object root, bytes parent, uint64_t counter,
                         uint32_t index, bint by_reference=False):
    """A sealed object of this process's own, under the id that hashes from the last three."""
    cdef uint64_t handle = new_record(C)
    name_record(object_at(C, handle), handle, parent, counter, index)
    try:
        store_value(handle, value, flags, OWN, root, by_reference)
    except BaseException:
        discard_record(handle)
        raise
    return new_id(handle, parent, counter, index)


cdef ObjectID put_value(object value, bytes parent, uint64_t counter, object root):
    return new_object(value, 0, root, parent, counter, PUT_INDEX)


cdef ObjectID put_arguments(object payload, bytes parent, uint64_t counter, object root):
    """A call's arguments, where they do not fit in its record."""
    return new_object(payload, 0, root, parent, counter, PUT_INDEX, True)
