cdef void set_task_thread(bint on)
