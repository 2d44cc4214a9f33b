from pyray._core.store cimport ObjectID

cdef object new_generator(ObjectID cell, ObjectID end)
