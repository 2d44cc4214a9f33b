#!python
# cython: embedsignature=True, binding=True
"""The kernel matrix again, its heavy part done by BLAS: one dsyrk gives all scalar products."""

import numpy as np

cimport cython
from libc.math cimport exp
from scipy.linalg.cython_blas cimport ddot, dgemm, dsyrk


def dot(const double[::1] a, const double[::1] b):
    """Return the scalar product of two vectors, as BLAS level 1 computes it."""
    cdef int n = <int> a.shape[0], one = 1
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"vectors of {a.shape[0]} and {b.shape[0]} numbers have no scalar product")
    if n == 0:
        return 0.0
    return ddot(&n, <double *> &a[0], &one, <double *> &b[0], &one)


@cython.boundscheck(False)
@cython.wraparound(False)
def kernel_matrix_blas(const double[:, ::1] points, double gamma):
    """Return exp(-gamma |p - q|²) for every pair of points."""
    cdef int n = <int> points.shape[0], dimensions = <int> points.shape[1]
    cdef double one = 1.0, zero = 0.0, distance
    cdef Py_ssize_t i, j
    result = np.zeros((n, n))
    if n == 0 or dimensions == 0:
        result[:] = 1.0
        return result
    cdef double[:, ::1] out = result
    cdef double[::1] norms = np.empty(n)
    with nogil:
        # BLAS counts columns first: to it our row-major points are their own transpose, and the
        # upper triangle that it fills is the lower one to us.
        dsyrk("U", "T", &n, &dimensions, &one, <double *> &points[0, 0], &dimensions,
              &zero, &out[0, 0], &n)
        for i in range(n):
            norms[i] = out[i, i]
        for i in range(n):
            for j in range(i):
                distance = norms[i] + norms[j] - 2.0 * out[i, j]
                # Rounding may leave a hair below zero between points that coincide.
                out[i, j] = out[j, i] = exp(-gamma * max(distance, 0.0))
            out[i, i] = 1.0
    return result


@cython.boundscheck(False)
@cython.wraparound(False)
def fill_kernel_rows_blas(double[:, ::1] out, const double[:, ::1] points, double gamma,
                          Py_ssize_t first=0):
    """Fill ``out`` with rows of that matrix, from row ``first`` on: as many as ``out`` has.

    ``out`` may be a part of a larger matrix. Several processes that have it in shared memory can
    fill it side by side, since each writes to rows of its own.
    """
    cdef int n = <int> points.shape[0], dimensions = <int> points.shape[1]
    cdef int rows = <int> out.shape[0]
    cdef double one = 1.0, zero = 0.0, distance
    cdef Py_ssize_t i, j, k
    if out.shape[1] != n or first < 0 or first + rows > n:
        raise ValueError(f"rows {first} to {first + rows} of {out.shape[1]} columns are no part of "
                         f"the {n} × {n} matrix of {n} points")
    if rows == 0 or dimensions == 0:
        out[:, :] = 1.0
        return
    cdef double[::1] norms = np.zeros(n)
    with nogil:
        # To BLAS, which counts columns first, `out` is n by rows, and the points are transposed.
        dgemm("T", "N", &n, &rows, &dimensions, &one, <double *> &points[0, 0], &dimensions,
              <double *> &points[first, 0], &dimensions, &zero, &out[0, 0], &n)
        for i in range(n):
            for k in range(dimensions):
                norms[i] += points[i, k] * points[i, k]
        for i in range(rows):
            for j in range(n):
                distance = norms[first + i] + norms[j] - 2.0 * out[i, j]
                out[i, j] = exp(-gamma * max(distance, 0.0))
            out[i, first + i] = 1.0
