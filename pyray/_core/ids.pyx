"""Hashing of ids.

task ID = SHA-1(parent task ID, counter), object ID = SHA-1(task ID, return index), from a random
root per session.  Inside the runtime, tasks and objects go by a slot and a generation; the 20 bytes
are computed when somebody asks for them.  SHA-1 as a name, not as a protection: it spreads well and
has the right length.  Source: FIPS 180-4, section 6.1.  Our own, because a call into a library's
digest object costs eight times what the compression of one block does.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset


cdef inline uint32_t rotate(uint32_t x, int n) noexcept nogil:
    return (x << n) | (x >> (32 - n))


cdef void sha1_block(const uint8_t *message, size_t length, uint8_t *out) noexcept nogil:
    """SHA-1 of at most 55 bytes: a single block."""
    cdef uint8_t block[64]
    cdef uint32_t w[80]
    cdef uint32_t h[5]
    cdef uint32_t a, b, c, d, e, f, k, t
    cdef int i
    memset(block, 0, 64)
    memcpy(block, message, length)
    block[length] = 0x80
    block[62] = <uint8_t>((length * 8) >> 8)
    block[63] = <uint8_t>(length * 8)
    for i in range(16):
        w[i] = ((<uint32_t>block[4 * i] << 24) | (<uint32_t>block[4 * i + 1] << 16)
                | (<uint32_t>block[4 * i + 2] << 8) | block[4 * i + 3])
    for i in range(16, 80):
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1)
    h[0] = 0x67452301
    h[1] = 0xEFCDAB89
    h[2] = 0x98BADCFE
    h[3] = 0x10325476
    h[4] = 0xC3D2E1F0
    a, b, c, d, e = h[0], h[1], h[2], h[3], h[4]
    for i in range(80):
        if i < 20:
            f = (b & c) | (~b & d)
            k = 0x5A827999
        elif i < 40:
            f = b ^ c ^ d
            k = 0x6ED9EBA1
        elif i < 60:
            f = (b & c) | (b & d) | (c & d)
            k = 0x8F1BBCDC
        else:
            f = b ^ c ^ d
            k = 0xCA62C1D6
        t = rotate(a, 5) + f + e + k + w[i]
        e = d
        d = c
        c = rotate(b, 30)
        b = a
        a = t
    h[0] += a
    h[1] += b
    h[2] += c
    h[3] += d
    h[4] += e
    for i in range(5):
        out[4 * i] = <uint8_t>(h[i] >> 24)
        out[4 * i + 1] = <uint8_t>(h[i] >> 16)
        out[4 * i + 2] = <uint8_t>(h[i] >> 8)
        out[4 * i + 3] = <uint8_t>h[i]


cdef void task_digest(const uint8_t *parent, uint64_t counter, uint8_t *out) noexcept nogil:
    cdef uint8_t message[28]
    memcpy(message, parent, 20)
    memcpy(message + 20, &counter, 8)
    sha1_block(message, 28, out)


cdef void object_digest(const uint8_t *parent, uint64_t counter, uint32_t index,
                        uint8_t *out) noexcept nogil:
    cdef uint8_t message[24]
    task_digest(parent, counter, message)
    memcpy(message + 20, &index, 4)
    sha1_block(message, 24, out)


def task_id(bytes parent, uint64_t counter):
    """The 20 bytes of the task that was the `counter`-th of `parent` (20 bytes)."""
    cdef uint8_t out[20]
    if len(parent) != 20:
        raise ValueError(f"a task id has 20 bytes, not {len(parent)}")
    task_digest(parent, counter, out)
    return out[:20]


def object_id(bytes parent, uint64_t counter, uint32_t index):
    """The 20 bytes of return `index` of that task."""
    cdef uint8_t out[20]
    if len(parent) != 20:
        raise ValueError(f"a task id has 20 bytes, not {len(parent)}")
    object_digest(parent, counter, index, out)
    return out[:20]
