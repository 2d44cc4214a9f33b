"""What others read of the records of the whole session as census.pyx does."""

from libc.stdint cimport uint32_t, uint64_t

cdef list ids_inside(uint64_t slot, uint32_t *liable)
