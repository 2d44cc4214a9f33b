#!python
# cython: embedsignature=True, binding=True
"""A numpy function: arrays in, a new array out."""

import numpy as np

from libc.math cimport log


def masked_log(const double[:, :] values, double fill=0.0):
    """Return the logarithm where ``values`` is positive, and ``fill`` everywhere else.

    ``const`` matters: an array that came from the object store is read-only, and a memoryview
    that isn't declared const refuses it.
    """
    cdef Py_ssize_t rows = values.shape[0], columns = values.shape[1], i, j
    result = np.empty((rows, columns))
    cdef double[:, ::1] out = result
    with nogil:
        for i in range(rows):
            for j in range(columns):
                out[i, j] = log(values[i, j]) if values[i, j] > 0 else fill
    return result
