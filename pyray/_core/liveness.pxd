cdef int check_session() except -1
