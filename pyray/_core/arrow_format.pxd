# The Arrow messages of the store form: constant templates, and where to patch them.


# Type ids of the dense union, which are also the order of its children.
cdef enum:
    TK_NONE
    TK_BOOL
    TK_INT
    TK_FLOAT
    TK_STR
    TK_BYTES
    TK_LIST
    TK_TUPLE
    TK_DICT
    TK_NDARRAY
    TK_OBJECT_ID
    TK_OP
    TK_COUNT

# Buffers of the record batch, in Arrow's order (validity bitmaps are always empty).
cdef enum:
    BUF_TYPES = 0
    BUF_OFFSETS = 1
    BUF_BOOL = 3
    BUF_INT = 5
    BUF_FLOAT = 7
    BUF_STR_OFFSETS = 9
    BUF_STR = 10
    BUF_BYTES_OFFSETS = 12
    BUF_BYTES = 13
    BUF_LIST = 15
    BUF_TUPLE = 17
    BUF_DICT = 19
    BUF_NDARRAY = 21
    BUF_OID_OFFSETS = 23
    BUF_OID = 24
    BUF_OP = 26
    BUF_COUNT = 27

# What a TK_OP token says: its low byte; the rest of the value is a count.
cdef enum:
    OP_SET = 1          # n elements
    OP_FROZENSET = 2    # n elements
    OP_COMPLEX = 3      # float, float
    OP_BIGINT = 4       # bytes: little-endian two's complement
    OP_BYTEARRAY = 5    # bytes
    OP_SURROGATES = 6   # bytes: UTF-8 with lone surrogates
    OP_ARRAY = 7        # dtype, Fortran order (bool), n dimensions (int), uint8 ndarray
    OP_SCALAR = 8       # dtype, bytes
    OP_PICKLE = 9       # check (int), pickle (bytes), n uint8 ndarrays
    OP_FIELDS = 10      # class, n pairs of name and value
    OP_CUSTOM = 11      # deserializer, payload
    OP_GLOBAL = 12      # module (str), qualified name (str)
    OP_DEFINITION = 13  # n is the number under which the definition was shipped
    OP_AGAIN = 14       # the n-th class or function of this object once more
    OP_BY_VALUE = 15    # a class or function itself: a pickle follows
    # Part of a shared array: ObjectID, place (int), writable (bool), dtype, n lengths, n strides.
    OP_SHARED = 16

# The element types of tensors, which are also dtype codes in ndarray tokens.
cdef enum:
    EL_INT8
    EL_INT16
    EL_INT32
    EL_INT64
    EL_UINT8
    EL_UINT16
    EL_UINT32
    EL_UINT64
    EL_FLOAT16
    EL_FLOAT32
    EL_FLOAT64
    EL_BOOL         # Arrow's tensors know no bool: travels as uint8
    EL_COUNT

cdef enum:
    MAX_DIMS = 64
    # Every message starts at a multiple of this, and so does its body.
    ALIGN = 64
    PREFIX = 8      # continuation marker and metadata length
    EOS_SIZE = 8

cdef struct BatchTemplate:
    const char* data        # prefix and metadata: the body follows at once
    Py_ssize_t size
    Py_ssize_t body_length  # positions of what is patched
    Py_ssize_t length
    Py_ssize_t nodes
    Py_ssize_t buffers

cdef struct TensorTemplate:
    const char* data
    Py_ssize_t size
    Py_ssize_t body_length
    Py_ssize_t data_length
    Py_ssize_t itemsize
    Py_ssize_t dims[MAX_DIMS]
    Py_ssize_t strides

cdef const BatchTemplate* batch_template() except NULL
cdef const TensorTemplate* tensor_template(int element, int ndim) except NULL
# The position of a tensor message's bodyLength, which is the same for all of them.
cdef Py_ssize_t tensor_body_length() except -1
cdef bytes schema_message()
