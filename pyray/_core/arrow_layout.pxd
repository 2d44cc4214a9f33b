# What an encoder has gathered, and its layout in store form.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from pyray._core.arrow_format cimport BUF_COUNT
from pyray._core.arrow_vec cimport Vec


cdef struct Segment:
    size_t at           # how many of the blob's own bytes come first
    const char* data
    size_t n

# str, bytes or ObjectIDs: ends of the elements, their bytes, and large ones left in place.
cdef struct Blob:
    Vec ends
    Vec data
    Vec segments
    size_t size

# One tensor to be written; the encoder keeps alive what it points to.
cdef struct Job:
    PyObject* array     # borrowed; NULL: plain bytes
    char* data
    size_t nbytes
    size_t head         # size of the message before the body
    int element         # of the tensor (other dtypes: EL_UINT8)
    int ndim
    bint fortran
    bint scattered      # not contiguous: numpy has to copy it

cdef struct Draft:
    Vec types           # a byte for each token
    Vec bools           # a byte each
    Vec ints, floats, lists, tuples, dicts, arrays, ops     # 8 bytes each
    Blob strs, blobs, oids
    Vec tensors         # Jobs
    size_t body_size
    size_t nbytes
    int64_t spans[2 * BUF_COUNT]    # offset and length of the batch's buffers
    bint frame          # the one tensor's elements are there already, or not yet
    bint paged          # and begin with a page

cdef size_t draft_finish(Draft* draft) except 0
cdef int draft_write(Draft* draft, char* dst) except -1
cdef void draft_free(Draft* draft) noexcept
