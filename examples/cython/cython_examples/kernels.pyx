#!python
# cython: embedsignature=True, binding=True
"""Loops that need no Python object while they run, and hence no GIL."""

import numpy as np

cimport cython
from libc.math cimport exp, sin


@cython.boundscheck(False)
@cython.wraparound(False)
def fill_kernel_matrix(double[:, ::1] out, const double[:, ::1] points, double gamma):
    """Write exp(-gamma |p - q|²) for every pair of points into ``out``, which must be writable.

    This works on an array of one's own, but not on what a task was given of an ordinary one: that
    is a read-only view of shared memory, and what it wrote into a copy nobody would ever see.
    """
    cdef Py_ssize_t n = points.shape[0], dimensions = points.shape[1], i, j, k
    cdef double distance, gap
    if out.shape[0] != n or out.shape[1] != n:
        raise ValueError(f"{n} points need a {n} × {n} matrix, not {out.shape[0]} × {out.shape[1]}")
    with nogil:
        for i in range(n):
            for j in range(i + 1):
                distance = 0.0
                for k in range(dimensions):
                    gap = points[i, k] - points[j, k]
                    distance = distance + gap * gap
                out[i, j] = out[j, i] = exp(-gamma * distance)


def kernel_matrix(const double[:, ::1] points, double gamma):
    """Return the kernel matrix of the points: allocate it, fill it in place, hand it back."""
    result = np.empty((points.shape[0], points.shape[0]))
    fill_kernel_matrix(result, points, gamma)
    return result


@cython.boundscheck(False)
@cython.wraparound(False)
def ripple_sum(const double[::1] values, Py_ssize_t start=0, Py_ssize_t stop=-1):
    """Return the sum of exp(-x²) sin(8x) over ``values[start:stop]`` (to the end if stop is -1)."""
    cdef double total = 0.0
    cdef Py_ssize_t i
    if stop == -1:
        stop = values.shape[0]
    if not 0 <= start <= stop <= values.shape[0]:
        raise IndexError(f"[{start}:{stop}] is not within an array of {values.shape[0]}")
    with nogil:
        for i in range(start, stop):
            total += exp(-values[i] * values[i]) * sin(8.0 * values[i])
    return total
