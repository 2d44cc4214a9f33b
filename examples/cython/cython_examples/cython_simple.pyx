#!python
# cython: embedsignature=True, binding=True
"""Functions of each kind that Cython knows; all but ``cdef`` ones can become remote functions."""


def label(name, *, width=12, mark="."):
    """An ordinary Python function that happens to be compiled."""
    return f"{name} ".ljust(width, mark)


def fib(n):
    """A Fibonacci number by plain recursion: compiled, yet every value is a Python object."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def collatz_steps(unsigned long long n):
    """Count the steps that the 3n+1 rule takes from ``n`` to 1.

    The argument has a C type: what doesn't convert to it is refused by Cython with a TypeError
    or an OverflowError, before the first line runs.
    """
    cdef int steps = 0
    if n == 0:
        raise ValueError("the rule starts from 1 or more")
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


cpdef long long common_divisor(long long a, long long b):
    """The greatest common divisor: a C function for Cython callers, a Python one for others."""
    while b:
        a, b = b, a % b
    return a if a >= 0 else -a


cdef double horner(const double[::1] coefficients, double x) noexcept nogil:
    # A C function: invisible from Python, so it can't be a remote function by itself.
    cdef double value = 0.0
    cdef Py_ssize_t i
    for i in range(coefficients.shape[0]):
        value = value * x + coefficients[i]
    return value


def polynomial(const double[::1] coefficients, double x):
    """The value at ``x`` of the polynomial with these coefficients, highest power first.

    A thin ``def`` wrapper: this is how a ``cdef`` function gets to be a task.
    """
    return horner(coefficients, x)
