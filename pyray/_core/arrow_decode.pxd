# The decoder of the store form.

cdef object decode_store(const char* src, size_t nbytes, object pin)
