"""What this process knows of the payload arena of its session: see arena.h."""

from libc.string cimport memset

cdef pyray_arena _arena
memset(&_arena, 0, sizeof(_arena))


cdef pyray_arena* arena() noexcept nogil:
    return &_arena
