# The decoder of the store form.

# pin keeps the bytes alive. Arrays are read-only views of them; with a PrivateCopy of the same
# bytes as the pin, writable views of that.
cdef object decode_store(const char* src, size_t nbytes, object pin)
