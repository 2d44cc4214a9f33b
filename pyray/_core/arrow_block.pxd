# Blocks of memory as Python objects.

cdef class Block:
    # Aligned memory of its own (`owned`), or a part of what `pin` keeps alive.
    cdef char* data
    cdef size_t nbytes
    cdef object pin
    cdef bint owned
    cdef bint writable          # by whoever asks for its buffer


cdef Block new_block(size_t nbytes)
