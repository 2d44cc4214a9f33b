# The payload arena as those see it who copy into it, or are given addresses in it.
#
# It stands below the store and the serializer, which both ask it; shm.pyx fills it in.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "arena.h" nogil:
    enum:
        PAGES_UNKNOWN
        PAGES_MAPPED
        PAGES_NEW
    ctypedef struct pyray_arena:
        char* low
        char* high
        char* end
        uint64_t at
        int fd
        uint64_t device
        uint64_t inode
        uint8_t* pages
        uint32_t* filler
        uint32_t self
        void* head
        const uint32_t* role

cdef pyray_arena* arena() noexcept nogil

# Whether an address lies in the payload, in memory or on disk, mapped writable: only shared arrays
# are looked at there.
cdef inline bint in_arena(const char* data) noexcept nogil:
    return arena().low <= data <= arena().end
