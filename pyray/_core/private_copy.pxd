# A process's own copy of a value's arrays, to be written to.

from libc.stdint cimport uint64_t

cdef class PrivateCopy:
    cdef const char* src        # the value's bytes in the store
    cdef size_t nbytes
    cdef int fd                 # the store's file, open as long as `pin` lives
    cdef uint64_t offset        # of `src` in it
    cdef object pin             # keeps the value in the store; None once nothing shows it any more
    cdef size_t first           # what is copied begins here
    cdef char* data             # and its copy here; NULL until it is needed
    cdef char* mapped           # a private mapping of the store's pages, of so many bytes
    cdef size_t mapped_bytes

    cdef char* memory(self, size_t first, size_t at) except NULL
    cdef int make(self) except -1

cdef PrivateCopy private_copy(const char* src, size_t nbytes, int fd, uint64_t offset,
                              object pin)
