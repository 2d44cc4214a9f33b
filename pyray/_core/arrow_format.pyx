# cython: language_level=3, boundscheck=False, wraparound=False
"""Arrow IPC messages as constant templates, written without libarrow.

Three kinds of message are ever written: the one schema, a record batch of that schema and
tensors.  Their flatbuffers have a constant size, so each is laid out once, by the small writer
below, and writing an object means copying a template and patching lengths and offsets into it.
Every field is written even where it holds flatbuffers' default, since an omitted one could not
be patched.
"""

from libc.stdlib cimport calloc

import struct

# Arrow's enumerations (format/Schema.fbs and format/Message.fbs).
cdef enum:
    METADATA_V5 = 4
    HEADER_SCHEMA = 1
    HEADER_RECORD_BATCH = 3
    HEADER_TENSOR = 4
    TYPE_NULL = 1
    TYPE_INT = 2
    TYPE_FLOAT = 3
    TYPE_BOOL = 6
    TYPE_UNION = 14
    TYPE_LARGE_BINARY = 19
    TYPE_LARGE_UTF8 = 20
    UNION_DENSE = 1

# "" is a field left out.
cdef dict _SIZES = {"": 0, "b": 1, "h": 2, "i": 4, "I": 4, "q": 8, "16s": 16}
cdef tuple _CHILDREN = (
    ("none", TYPE_NULL), ("bool", TYPE_BOOL), ("int", TYPE_INT), ("float", TYPE_FLOAT),
    ("str", TYPE_LARGE_UTF8), ("bytes", TYPE_LARGE_BINARY), ("list", TYPE_INT),
    ("tuple", TYPE_INT), ("dict", TYPE_INT), ("ndarray", TYPE_INT),
    ("object_id", TYPE_LARGE_BINARY), ("op", TYPE_INT),
)
# (Arrow type, bits or precision, signed) by element.
cdef tuple _ELEMENTS = (
    (TYPE_INT, 8, 1), (TYPE_INT, 16, 1), (TYPE_INT, 32, 1), (TYPE_INT, 64, 1),
    (TYPE_INT, 8, 0), (TYPE_INT, 16, 0), (TYPE_INT, 32, 0), (TYPE_INT, 64, 0),
    (TYPE_FLOAT, 0, 0), (TYPE_FLOAT, 1, 0), (TYPE_FLOAT, 2, 0), (TYPE_INT, 8, 0),
)
cdef tuple _ITEMSIZES = (1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 1)

cdef BatchTemplate _batch
cdef bytes _batch_bytes = None
cdef TensorTemplate* _tensors[EL_COUNT][MAX_DIMS + 1]
cdef list _tensor_bytes = []
cdef bytes _schema = None
cdef Py_ssize_t _tensor_body_length = -1


cdef class _Flat:
    """Writes a flatbuffer front to back: a table first, then what it refers to."""

    cdef bytearray out

    def __init__(self):
        self.out = bytearray(4)     # where the root table lies

    cdef pad(self, Py_ssize_t to, Py_ssize_t shift=0):
        while (len(self.out) + shift) % to:
            self.out.append(0)

    cdef list table(self, tuple formats, tuple values):
        """Write a table; give its position and those of its fields ("I" is a reference)."""
        cdef Py_ssize_t start, size, vtable, at = 4
        cdef list offsets = []
        for fmt in formats:
            if not fmt:
                offsets.append(0)
                continue
            # The 16-byte structs hold 8-byte members.
            size = min(<Py_ssize_t>_SIZES[fmt], 8)
            at = (at + size - 1) // size * size
            offsets.append(at)
            at += <Py_ssize_t>_SIZES[fmt]
        self.pad(8, 4 + 2 * len(offsets))
        vtable = len(self.out)
        self.out += struct.pack("<HH", 4 + 2 * len(offsets), at)
        for offset in offsets:
            self.out += struct.pack("<H", offset)
        start = len(self.out)
        self.out += struct.pack("<i", start - vtable)
        for fmt, value, offset in zip(formats, values, offsets):
            if not fmt:
                continue
            self.out += bytes(start + offset - len(self.out))
            self.out += struct.pack("<" + fmt, value)
        return [start] + [start + offset for offset in offsets]

    cdef point(self, Py_ssize_t field, Py_ssize_t target):
        struct.pack_into("<I", self.out, field, target - field)

    cdef Py_ssize_t vector(self, Py_ssize_t count, Py_ssize_t itemsize):
        """Write a vector of zeros; give its position (elements begin 4 bytes later)."""
        self.pad(8 if itemsize > 4 else 4, 4 if itemsize > 4 else 0)
        cdef Py_ssize_t start = len(self.out)
        self.out += struct.pack("<I", count) + bytes(count * itemsize)
        return start

    cdef Py_ssize_t string(self, bytes text):
        self.pad(4)
        cdef Py_ssize_t start = len(self.out)
        self.out += struct.pack("<I", len(text)) + text + b"\0"
        return start

    cdef list message(self, int header):
        """Write the root table; give the positions of its header and bodyLength fields."""
        where = self.table(("h", "b", "I", "q"), (METADATA_V5, header, 0, 0))
        self.point(0, where[0])
        return [where[3], where[4]]

    cdef Py_ssize_t arrow_type(self, int kind, int bits=64, int signed=1):
        if kind == TYPE_INT:
            return self.table(("i", "b"), (bits, signed))[0]
        if kind == TYPE_FLOAT:
            return self.table(("h",), (2 if bits == 64 else bits,))[0]
        return self.table((), ())[0]

    cdef list field(self, bytes name, int kind, Py_ssize_t children):
        """Write a Field; give the positions of the field, its type and child references."""
        where = self.table(("I", "b", "b", "I", "", "I"), (0, 1, kind, 0, 0, 0))
        self.point(where[1], self.string(name))
        vector = self.vector(children, 4)
        self.point(where[6], vector)
        return [where[0], where[4], vector + 4]

    cdef bytes finish(self):
        """Give the message's prefix and metadata, padded so that the body is aligned."""
        self.pad(ALIGN, PREFIX)
        return struct.pack("<II", 0xFFFFFFFF, len(self.out)) + bytes(self.out)


cdef bytes _make_schema():
    cdef _Flat flat = _Flat()
    header, _body = flat.message(HEADER_SCHEMA)
    where = flat.table(("h", "I"), (0, 0))
    flat.point(header, where[0])
    fields = flat.vector(1, 4)
    flat.point(where[2], fields)
    field, kind, children = flat.field(b"tokens", TYPE_UNION, len(_CHILDREN))
    flat.point(fields + 4, field)
    union = flat.table(("h", "I"), (UNION_DENSE, 0))
    flat.point(kind, union[0])
    ids = flat.vector(len(_CHILDREN), 4)
    flat.point(union[2], ids)
    for index, (name, child_kind) in enumerate(_CHILDREN):
        struct.pack_into("<i", flat.out, ids + 4 + 4 * index, index)
        child, type_at, _none = flat.field(name.encode(), child_kind, 0)
        flat.point(children + 4 * index, child)
        flat.point(type_at, flat.arrow_type(child_kind))
    return flat.finish()


cdef const BatchTemplate* batch_template() except NULL:
    """Give the record batch's template: lengths and buffers all zero."""
    global _batch_bytes
    cdef _Flat flat
    if _batch_bytes is None:
        flat = _Flat()
        header, body = flat.message(HEADER_RECORD_BATCH)
        where = flat.table(("q", "I", "I"), (0, 0, 0))
        flat.point(header, where[0])
        nodes = flat.vector(TK_COUNT + 1, 16)
        flat.point(where[2], nodes)
        buffers = flat.vector(BUF_COUNT, 16)
        flat.point(where[3], buffers)
        data = flat.finish()
        _batch.data = data
        _batch.size = len(data)
        _batch.body_length = body + PREFIX
        _batch.length = where[1] + PREFIX
        _batch.nodes = nodes + 4 + PREFIX
        _batch.buffers = buffers + 4 + PREFIX
        _batch_bytes = data
    return &_batch


cdef const TensorTemplate* _make_tensor(int element, int ndim) except NULL:
    global _tensor_body_length
    cdef _Flat flat = _Flat()
    cdef TensorTemplate* made
    cdef int axis
    cdef bytes data
    kind, bits, signed = _ELEMENTS[element]
    header, body = flat.message(HEADER_TENSOR)
    where = flat.table(("b", "I", "I", "I", "16s"), (kind, 0, 0, 0, b""))
    flat.point(header, where[0])
    flat.point(where[2], flat.arrow_type(kind, bits, signed))
    shape = flat.vector(ndim, 4)
    flat.point(where[3], shape)
    strides = flat.vector(ndim, 8)
    flat.point(where[4], strides)
    made = <TensorTemplate*> calloc(1, sizeof(TensorTemplate))
    if made == NULL:
        raise MemoryError
    for axis in range(ndim):
        dim = flat.table(("q",), (0,))
        flat.point(shape + 4 + 4 * axis, dim[0])
        made.dims[axis] = dim[1] + PREFIX
    data = flat.finish()
    _tensor_bytes.append(data)
    made.data = data
    made.size = len(data)
    made.body_length = body + PREFIX
    made.data_length = where[5] + 8 + PREFIX
    made.itemsize = _ITEMSIZES[element]
    made.strides = strides + 4 + PREFIX
    _tensor_body_length = made.body_length
    _tensors[element][ndim] = made
    return made


cdef const TensorTemplate* tensor_template(int element, int ndim) except NULL:
    """Give the template for tensors of an element type and a number of dimensions."""
    if not 0 <= element < EL_COUNT or not 0 <= ndim <= MAX_DIMS:
        raise ValueError("no such tensor")
    if _tensors[element][ndim] != NULL:
        return _tensors[element][ndim]
    return _make_tensor(element, ndim)


cdef Py_ssize_t tensor_body_length() except -1:
    """Give the position of bodyLength in a tensor message."""
    if _tensor_body_length < 0:
        tensor_template(EL_UINT8, 1)
    return _tensor_body_length


cdef bytes schema_message():
    """Give the schema message, which precedes the batch in an exported stream."""
    global _schema
    if _schema is None:
        _schema = _make_schema()
    return _schema
