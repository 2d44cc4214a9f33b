#!python
# cython: embedsignature=True, binding=True
"""An extension type whose instances travel between processes."""

from libc.math cimport sqrt


cdef class Moments:
    """Count, mean and spread of a stream of numbers, which can be merged with others.

    The state lives in C fields that pickle can't see, so ``__reduce__`` hands it out: that is
    all it takes for an instance to be an argument or the result of a task.
    """

    cdef readonly long long count
    cdef readonly double mean
    cdef double squares  # the sum of squared distances from the mean

    def __init__(self, long long count=0, double mean=0.0, double squares=0.0):
        self.count = count
        self.mean = mean
        self.squares = squares

    cpdef feed(self, const double[::1] values):
        """Take in every number of an array."""
        cdef Py_ssize_t i
        cdef double step
        with nogil:
            for i in range(values.shape[0]):
                self.count += 1
                step = values[i] - self.mean
                self.mean += step / self.count
                self.squares += step * (values[i] - self.mean)

    def merged(self, Moments other not None):
        """Return the moments of both streams together; neither operand changes."""
        cdef long long count = self.count + other.count
        cdef double gap = other.mean - self.mean
        if count == 0:
            return Moments()
        return Moments(
            count,
            self.mean + gap * other.count / count,
            self.squares + other.squares + gap * gap * self.count * other.count / count,
        )

    @property
    def deviation(self):
        """The standard deviation."""
        return sqrt(self.squares / self.count) if self.count else 0.0

    def __reduce__(self):
        return Moments, (self.count, self.mean, self.squares)

    def __eq__(self, other):
        if not isinstance(other, Moments):
            return NotImplemented
        return self.__reduce__() == other.__reduce__()

    def __hash__(self):
        return hash(self.__reduce__()[1])

    def __repr__(self):
        return f"Moments(count={self.count}, mean={self.mean:.4f}, deviation={self.deviation:.4f})"


def moments_of(const double[::1] values):
    """Return the moments of an array."""
    moments = Moments()
    moments.feed(values)
    return moments
