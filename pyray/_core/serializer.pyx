# cython: language_level=3, boundscheck=False, wraparound=False
"""The serializer's public face: two forms, and the hooks that join it to the runtime."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer,
)

from pyray._core.arrow_block cimport Block, new_block
from pyray._core.arrow_decode cimport decode_store
from pyray._core.arrow_encode cimport encode_store
from pyray._core.arrow_format cimport schema_message
from pyray._core.arrow_pickle cimport BY_CUSTOM, BY_FIELDS, BY_PICKLE, install_hooks, set_manner
from pyray._core.compact cimport compact_decode, compact_encode

from pyray._core.arrow_encode import Encoded
from pyray._core.arrow_pickle import Pickled
from pyray._core.serial_errors import (
    CorruptObjectError,
    DefinitionNotFoundError,
    RecursionDepthError,
    SerializationError,
)

__all__ = [
    "CorruptObjectError",
    "DefinitionNotFoundError",
    "Encoded",
    "Pickled",
    "RecursionDepthError",
    "SerializationError",
    "dumps",
    "dumps_inline",
    "encoded",
    "loads",
    "loads_inline",
    "set_custom",
    "set_hooks",
    "to_arrow_stream",
]

cdef enum:
    INLINE_ROOM = 256


cdef Encoded encode(object value, object root="x", bint by_reference=False):
    return encode_store(value, root, by_reference)


cdef object decode(const char* src, size_t nbytes, object pin):
    return decode_store(src, nbytes, pin)


cdef Py_ssize_t encode_inline(object value, char* dst, Py_ssize_t cap) except -2:
    return compact_encode(value, dst, cap)


cdef object decode_inline(const char* src, Py_ssize_t n):
    return compact_decode(src, n)


def set_hooks(ref_type=None, pack=None, unpack=None, export_definition=None,
              import_definition=None):
    """Join the serializer to the runtime; without arguments, part them again.

    Parameters
    ----------
    ref_type : type, optional
        The class of ObjectIDs; only its exact instances are taken for them.
    pack, unpack : callable, optional
        An ObjectID to bytes and back.
    export_definition : callable, optional
        Ships a class or function that cannot be imported elsewhere; gives its number, which is
        at least 0, or None if it cannot.
    import_definition : callable, optional
        The class or function of a number.
    """
    install_hooks(ref_type, pack, unpack, export_definition, import_definition)


def set_custom(cls, manner=None, serializer=None, deserializer=None):
    """Set how the instances of exactly this class travel.

    Parameters
    ----------
    cls : type
        The class.
    manner : {None, "custom", "pickle", "dict"}
        None forgets what was set.
    serializer, deserializer : callable, optional
        For "custom": an instance to a value that can be serialized, and back.
    """
    if manner is None:
        set_manner(cls, None)
    else:
        code = {"custom": BY_CUSTOM, "pickle": BY_PICKLE, "dict": BY_FIELDS}[manner]
        set_manner(cls, (code, serializer, deserializer))


def encoded(value, root="x"):
    """Encode a value without writing it: for its size, and for the ObjectIDs that it contains.

    Parameters
    ----------
    value : object
        Anything.
    root : str
        What errors call the value itself.

    Returns
    -------
    Encoded
        The value, ready to be written.
    """
    return encode_store(value, root, False)


def dumps(value, root="x"):
    """Serialize a value in store form.

    Parameters
    ----------
    value : object
        Anything.
    root : str
        What errors call the value itself.

    Returns
    -------
    memoryview
        Read-only bytes, aligned to 64.
    """
    cdef Encoded made = encode_store(value, root, False)
    cdef Block block = new_block(made.nbytes)
    made.write_to(block.data)
    return memoryview(block)


def loads(data):
    """Read what dumps wrote; arrays are read-only views of `data`.

    Parameters
    ----------
    data : buffer
        The bytes.

    Returns
    -------
    object
        The value.
    """
    cdef Py_buffer view
    pin = memoryview(data)
    PyObject_GetBuffer(pin, &view, PyBUF_SIMPLE)
    try:
        # `pin` holds the buffer on: whoever keeps `pin` may use the memory.
        return decode_store(<const char*> view.buf, view.len, pin)
    finally:
        PyBuffer_Release(&view)


def dumps_inline(value, Py_ssize_t cap=INLINE_ROOM):
    """Serialize a small value in compact form.

    Parameters
    ----------
    value : object
        None, bool, int, float, str, bytes, or a list, tuple or dict of such.
    cap : int
        How many bytes it may take.

    Returns
    -------
    bytes or None
        None if it does not qualify or fit.
    """
    cdef Block block = new_block(cap)
    cdef Py_ssize_t n = compact_encode(value, block.data, cap)
    return None if n < 0 else PyBytes_FromStringAndSize(block.data, n)


def loads_inline(data):
    """Read what dumps_inline wrote.

    Parameters
    ----------
    data : bytes
        The bytes.

    Returns
    -------
    object
        The value.
    """
    cdef const unsigned char[::1] view = data
    if not view.shape[0]:
        raise CorruptObjectError("an inline value of no bytes")
    return compact_decode(<const char*> &view[0], view.shape[0])


def to_arrow_stream(data, bint inline=False):
    """Make a complete Arrow IPC stream of a serialized value.

    Parameters
    ----------
    data : buffer
        A value in store form, or in compact form.
    inline : bool
        Whether it is in compact form.

    Returns
    -------
    bytes
        A schema, one record batch and the end-of-stream mark, as ``pyarrow.ipc.open_stream``
        reads them; then the tensors, one after the other, for ``pyarrow.ipc.read_tensor``.
    """
    if inline:
        data = dumps(loads_inline(data))
    return b"".join((schema_message(), data))
