# A growing block of C memory; the encoder's output before its size is known.

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int64_t
from libc.string cimport memcpy


cdef struct Vec:
    char* p
    size_t n        # bytes used
    size_t cap


cdef inline int vec_room(Vec* v, size_t extra) except -1:
    """Make room for more bytes."""
    cdef size_t cap
    cdef char* p
    if extra <= v.cap - v.n:
        return 0
    cap = v.cap * 2
    if cap < v.n + extra:
        cap = v.n + extra
    if cap < 64:
        cap = 64
    p = <char*> PyMem_RawRealloc(v.p, cap)
    if p == NULL:
        raise MemoryError
    v.p = p
    v.cap = cap
    return 0


cdef inline int vec_byte(Vec* v, int value) except -1:
    if v.n == v.cap:
        vec_room(v, 1)
    v.p[v.n] = <char> value
    v.n += 1
    return 0


cdef inline int vec_i64(Vec* v, int64_t value) except -1:
    if v.cap - v.n < 8:
        vec_room(v, 8)
    (<int64_t*> (v.p + v.n))[0] = value
    v.n += 8
    return 0


cdef inline int vec_bytes(Vec* v, const void* data, size_t n) except -1:
    if v.cap - v.n < n:
        vec_room(v, n)
    if n:
        memcpy(v.p + v.n, data, n)
    v.n += n
    return 0


cdef inline void vec_free(Vec* v) noexcept:
    PyMem_RawFree(v.p)
    v.p = NULL
    v.n = v.cap = 0
