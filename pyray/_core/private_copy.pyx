# cython: language_level=3
"""A process's own copy of a value's arrays, to be written to.

Of a large value the store's pages are mapped once more, privately: the kernel copies a page when it
is first written to, and what is never written costs no memory. A small one is copied at once.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, strerror
from posix.mman cimport MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

cdef extern from "<sys/mman.h>" nogil:
    int MAP_NORESERVE

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void**, size_t alignment, size_t size)

cdef enum:
    ALIGN = 64
    # From here on values are mapped. Measured: to map, touch a page and unmap takes 9 µs at any
    # size; to copy into memory that malloc has at hand 3 µs for 128 KiB and 7 µs for 256 KiB, but
    # into fresh memory, which is what malloc gives from here on, 80 µs and more. To write all of a
    # mapping takes as long as a fresh copy.
    MAP_MIN = 128 << 10


@cython.no_gc
@cython.final
cdef class PrivateCopy:
    """A process's own copy of a value's arrays; made when the first of them is met.

    Exports what it copied as a writable buffer, which is what numpy asks the owner of an array's
    memory for before it lets its WRITEABLE flag be set again.
    """

    def __dealloc__(self):
        # Before `pin` goes: without it the store's pages may become another object's.
        if self.mapped != NULL:
            munmap(self.mapped, self.mapped_bytes)
        elif self.data != NULL:
            free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.data == NULL:
            raise BufferError("nothing has been copied")
        PyBuffer_FillInfo(view, self, self.data, self.nbytes - self.first, 0, flags)

    cdef char* memory(self, size_t first, size_t at) except NULL:
        """Where the byte at `at` of the value lies in the copy, of which `first` is the first."""
        if self.data == NULL:
            self.first = first
            self.make()
        return self.data + (at - self.first)

    cdef int make(self) except -1:
        cdef size_t n = self.nbytes - self.first
        cdef uint64_t begin = self.offset + self.first
        cdef size_t lead = begin % <uint64_t> sysconf(_SC_PAGESIZE)
        cdef void* data = NULL
        cdef int error = 0
        if n >= MAP_MIN:
            data = mmap(NULL, n + lead, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                        self.fd, begin - lead)
            if data != MAP_FAILED:
                self.mapped = <char*> data
                self.mapped_bytes = n + lead
                self.data = self.mapped + lead
                return 0
            error = errno
            data = NULL
        # Where it failed because of the number of mappings (65,530), malloc's heap still grows.
        if posix_memalign(&data, ALIGN, n if n else ALIGN):
            raise MemoryError(
                f"no memory for a writable copy of {n} bytes"
                + (f": mapping them failed ({strerror(error).decode()}), and there is no room to "
                   "copy them either" if error else "")
                + "; drop writable arrays that are no longer needed, or get this one without "
                "writable=True, which takes no memory")
        memcpy(data, self.src + self.first, n)
        self.data = <char*> data
        self.pin = None
        return 0


cdef PrivateCopy private_copy(const char* src, size_t nbytes, int fd, uint64_t offset,
                              object pin):
    """Prepare for a copy of a value, which `pin` keeps in the store, at `offset` of the file."""
    cdef PrivateCopy made = PrivateCopy.__new__(PrivateCopy)
    made.src = src
    made.nbytes = nbytes
    made.fd = fd
    made.offset = offset
    made.pin = pin
    return made
