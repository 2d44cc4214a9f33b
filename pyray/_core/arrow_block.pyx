# cython: language_level=3
"""Memory that exports itself as a buffer."""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void**, size_t alignment, size_t size)

cdef enum:
    ALIGN = 64


cdef class Block:
    """Memory that exports itself as a buffer, read-only unless it is `writable`."""

    def __dealloc__(self):
        if self.owned:
            free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.nbytes, not self.writable, flags)

    def __len__(self):
        return self.nbytes


cdef Block new_block(size_t nbytes):
    """Get memory aligned for any tensor."""
    cdef Block made = Block.__new__(Block)
    cdef void* data = NULL
    if posix_memalign(&data, ALIGN, nbytes if nbytes else ALIGN):
        raise MemoryError
    made.data = <char*> data
    made.nbytes = nbytes
    made.owned = True
    return made
