# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The inside of the fuzzer: mutates inputs, decodes them, and keeps those that reach something new.

Runs in a child of `run.py`, which looks at what is left in the shared memory when it dies.  What
may come out of a decoder is a value or a CorruptObjectError; anything else is a finding.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.unistd cimport alarm

from pyray._core.arena cimport arena
from pyray._core.arrow_block cimport Block, new_block
from pyray._core.arrow_decode cimport decode_store
from pyray._core.arrow_format cimport (
    BUF_COUNT, BUF_OP, BUF_TYPES, OP_PICKLE, TK_COUNT, BatchTemplate, batch_template,
)
from pyray._core.by_reference cimport shared
from pyray._core.compact cimport compact_decode
from pyray._core.private_copy cimport PrivateCopy, private_copy

from pyray._core.serial_errors import CorruptObjectError

import pickle
import sys
import types

import numpy

cdef extern void cover_start() nogil
cdef extern int cover_end(uint8_t *seen) nogil
cdef extern uint32_t cover_pairs(uint64_t **pairs) nogil

cdef enum:
    STORE = 0
    WRITABLE = 1
    COMPACT = 2
    PLANTED = 3
    MAP_SIZE = 1 << 16
    MAX_INPUT = 16384
    FOUND_BYTES = 8 << 20
    SECONDS = 20            # for 1,000 inputs
    NUMBERS = 24

TARGETS = ("store", "writable", "compact", "planted")

# What parent and child share: it outlives a child that crashes.
cdef struct State:
    uint64_t executed
    uint64_t decoded        # how many were whole values
    uint64_t pickles        # times that the unpickler was reached
    uint64_t current_size
    uint64_t found_size     # of new inputs: length in 8 bytes, and the bytes
    uint8_t current[MAX_INPUT]
    uint8_t seen[MAP_SIZE]
    uint8_t found[FOUND_BYTES]

STATE_BYTES = sizeof(State)

cdef State *S = NULL
cdef uint64_t _random = 1
cdef const BatchTemplate *_batch = batch_template()
cdef int64_t[NUMBERS] _numbers = [
    0, 1, -1, 2, 3, 7, 8, 16, 63, 64, 65, 127, 128, 255, 256, 1000, 65535, 1 << 31,
    (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 62, 0x7FFFFFFFFFFFFFFF, -0x7FFFFFFFFFFFFFFF - 1,
]


# ---- what decoding may call --------------------------------------------------------------------

class Plain:
    """A class whose fields may be filled in, or that is called as a deserializer."""

    def __init__(self, value=None):
        pass


def rebuild(value):
    """The only function that inputs can name."""
    return value


class Finding(Exception):
    """Something that a decoder must not do."""


cdef bint names_pickle():
    """Whether the current input, in store form, has a token that a pickle follows."""
    cdef int64_t start, size, word, at
    cdef int64_t body = _batch.size
    memcpy(&start, S.current + _batch.buffers + 16 * BUF_OP, 8)
    memcpy(&size, S.current + _batch.buffers + 16 * BUF_OP + 8, 8)
    for at in range(0, size - 7, 8):
        memcpy(&word, S.current + body + start + at, 8)
        if word & 0xFF == OP_PICKLE:
            return True
    return False


def unpickle(data, *, buffers=()):
    """In the place of pickle.loads: looks at the bytes, and runs nothing."""
    S.pickles += 1
    if not names_pickle():
        raise Finding("the unpickler was reached without a token for it")
    sum(data.tobytes())
    for buffer in buffers:
        sum(memoryview(buffer).tobytes()[:64])
    return numpy.dtype([("a", "i4"), ("b", "f8")])


def reference(data):
    if len(data) != 36:
        raise ValueError("so many bytes are no ObjectID")
    return "id"


def definition(number):
    if number < 0 or number > 3:
        raise CorruptObjectError("no such definition")
    return (Plain, rebuild, 7, "x")[number]


cdef object restore(uint64_t handle, object oid, object dtype, int64_t at, int ndim,
                    const Py_ssize_t *dims, const Py_ssize_t *strides, bint writable, bint copy):
    cdef Py_ssize_t sum = 0
    cdef int i
    for i in range(ndim):
        sum ^= dims[i]
        if strides != NULL:
            sum ^= strides[i]
    return sum


cdef object _keep = None


def prepare(state):
    """Take the shared memory; from now on this process can neither unpickle nor import."""
    global S, _keep
    cdef uint8_t[::1] view = state
    S = <State *>&view[0]
    _keep = view
    from pyray._core import arrow_pickle, serializer
    pickle.loads = unpickle
    here = types.ModuleType("fuzzed")
    here.Plain = Plain
    here.rebuild = rebuild
    here.inner = types.SimpleNamespace(Plain=Plain, seven=7)
    # The module looks names up in what it calls sys: it finds this one's only.
    arrow_pickle.sys = types.SimpleNamespace(
        modules={"fuzzed": here, "collections": here, "numpy": numpy_core()})
    serializer.set_hooks(None, None, reference, None, definition)
    serializer.loads(serializer.dumps(numpy.zeros(3)))      # whatever is loaded late
    shared().restore = restore
    arena().low = <char *>S
    # In vain: nothing that is not there yet can be imported.
    sys.meta_path[:] = [Refuse()]


def numpy_core():
    """What a class and a function of C look like."""
    return types.SimpleNamespace(dtype=rebuild, ndarray=Plain)


class Refuse:
    def find_spec(self, name, path=None, target=None):
        raise ImportError("the fuzzer imports nothing")


# ---- one input ---------------------------------------------------------------------------------

cdef int look(object value, Py_ssize_t n, bint writable) except -1:
    """Read every byte that a value says is there."""
    cdef list stack = [value]
    cdef Py_ssize_t steps = 0
    while stack:
        steps += 1
        if steps > 200000:
            raise Finding("a value of more elements than there are bytes")
        item = stack.pop()
        kind = type(item)
        if kind is list or kind is tuple or kind is set or kind is frozenset:
            stack.extend(item)
        elif kind is dict:
            stack.extend(item)
            stack.extend((<dict>item).values())
        elif kind is Plain:
            stack.extend(item.__dict__.values())
        elif kind is numpy.ndarray:
            if item.nbytes > n:
                raise Finding(f"an array of {item.nbytes} bytes from {n}")
            if item.size and item.flags.writeable != writable:
                raise Finding("an array that is writable, or is not")
            item.tobytes()
        elif kind is str or kind is bytes or kind is bytearray:
            if len(item) > n:
                raise Finding(f"a string of {len(item)} from {n} bytes")
    return 0


cdef object planted(const uint8_t *data, size_t n):
    """A decoder with a mistake, to see that the fuzzer finds such."""
    cdef uint64_t word = 0
    if n >= 12 and data[0] == 0x41:
        if data[1] == 0x42:
            if data[2] == 0x43:
                memcpy(&word, data + 4, 8)
                if word == <uint64_t>0x1122334455667788:
                    return data[n]
    raise CorruptObjectError("nothing")


cdef int decode(const uint8_t *data, Py_ssize_t n, int target) except -1:
    cdef Block block = new_block(n)
    cdef PrivateCopy copy
    memcpy(block.data, data, n)
    if target == STORE:
        value = decode_store(block.data, n, block)
    elif target == WRITABLE:
        copy = private_copy(block.data, n, -1, 0, block)
        value = decode_store(block.data, n, copy)
    elif target == COMPACT:
        value = compact_decode(block.data, n)
    else:
        value = planted(<const uint8_t *>block.data, n)
    look(value, n, target == WRITABLE)
    return 0


cdef int attempt(const uint8_t *data, Py_ssize_t n, int target) except -1:
    """Whether this input went somewhere new (2: to code that none had reached)."""
    if data != S.current:
        memcpy(S.current, data, n)
    S.current_size = n
    cover_start()
    try:
        decode(data, n, target)
        S.decoded += 1
    except CorruptObjectError:
        pass
    S.executed += 1
    return cover_end(S.seen)


def once(bytes data, str target):
    """Decode one input; raises what is a finding."""
    return attempt(<const uint8_t *>PyBytes_AS_STRING(data), len(data), TARGETS.index(target))


# ---- mutation ----------------------------------------------------------------------------------

cdef inline uint64_t rnd() noexcept nogil:
    global _random
    _random ^= _random << 13
    _random ^= _random >> 7
    _random ^= _random << 17
    return _random


cdef inline uint32_t below(uint64_t n) noexcept nogil:
    return <uint32_t>((rnd() >> 16) % n) if n else 0


cdef uint32_t place(uint8_t *buf, uint32_t n, uint32_t low) noexcept nogil:
    """Somewhere in the input; mostly where something stands."""
    cdef uint32_t at = low + below(n - low)
    cdef int _
    if rnd() & 3:
        for _ in range(16):
            if buf[at]:
                break
            at = low + below(n - low)
    return at


cdef void put_word(uint8_t *buf, uint32_t n, uint32_t at) noexcept nogil:
    """A number at the ends of its range, or near the one that stands there."""
    cdef int width = 1 << below(4)
    cdef int64_t word = 0
    if rnd() & 1:
        width = 8
        at -= at % 8
    if at + width > n:
        return
    memcpy(&word, buf + at, width)
    if rnd() & 1:
        word += <int64_t>below(33) - 16
    else:
        word = _numbers[below(NUMBERS)]
    memcpy(buf + at, &word, width)


cdef void recount(uint8_t *buf, uint32_t n) noexcept nogil:
    """Make the numbers of elements those of the tokens that stand there."""
    cdef int64_t start, size, count
    cdef int64_t counts[256]
    cdef int64_t i
    if n < <uint32_t>_batch.size:
        return
    memcpy(&start, buf + _batch.buffers + 16 * BUF_TYPES, 8)
    memcpy(&size, buf + _batch.buffers + 16 * BUF_TYPES + 8, 8)
    memcpy(&count, buf + _batch.length, 8)
    if start < 0 or size < 0 or start > n - _batch.size or size > n - _batch.size - start:
        return
    if not 0 <= count <= size:
        return
    for i in range(256):
        counts[i] = 0
    for i in range(count):
        counts[buf[_batch.size + start + i]] += 1
    for i in range(TK_COUNT):
        memcpy(buf + _batch.nodes + 16 * (i + 1), &counts[i], 8)


cdef void mutate_tokens(uint8_t *buf, uint32_t n) noexcept nogil:
    """Change tokens, where the buffers lie, or what an op says; and keep the rest in step."""
    cdef int64_t start, size, word
    cdef uint32_t at
    cdef int a, b, _, what = below(4)
    if n < <uint32_t>_batch.size + 64:
        return
    if what == 0:
        memcpy(&start, buf + _batch.buffers + 16 * BUF_TYPES, 8)
        memcpy(&size, buf + _batch.buffers + 16 * BUF_TYPES + 8, 8)
        if size <= 0 or start < 0 or start > n - _batch.size or size > n - _batch.size - start:
            return
        for _ in range(1 + below(3)):
            buf[_batch.size + start + below(min(size, 64))] = <uint8_t>below(TK_COUNT)
        if rnd() & 1:
            memcpy(&word, buf + _batch.length, 8)
            word += <int64_t>below(5) - 2
            memcpy(buf + _batch.length, &word, 8)
    elif what == 1:
        # One buffer where another lies, or over all the rest of the body.
        a = below(BUF_COUNT)
        b = below(BUF_COUNT)
        memmove(buf + _batch.buffers + 16 * a, buf + _batch.buffers + 16 * b, 16)
        if rnd() & 1:
            memcpy(&start, buf + _batch.buffers + 16 * a, 8)
            memcpy(&size, buf + _batch.body_length, 8)
            size -= start
            memcpy(buf + _batch.buffers + 16 * a + 8, &size, 8)
    elif what == 2:
        memcpy(&start, buf + _batch.buffers + 16 * BUF_OP, 8)
        memcpy(&size, buf + _batch.buffers + 16 * BUF_OP + 8, 8)
        if size < 8 or start < 0 or start > n - _batch.size or size > n - _batch.size - start:
            return
        at = <uint32_t>(_batch.size + start + 8 * below(size // 8))
        word = (<int64_t>below(6) << 8) | (1 + below(16))
        memcpy(buf + at, &word, 8)
        return
    if rnd() & 7:
        recount(buf, n)


cdef uint32_t mutate(uint8_t *buf, uint32_t n, const uint8_t *other, uint32_t m,
                     int target) noexcept nogil:
    """Change the input; its new length."""
    cdef uint32_t low = 0, at, to, size, _
    cdef int what
    if target == STORE or target == WRITABLE:
        # Before that everything must be as it was written.
        low = <uint32_t>_batch.body_length
    for _ in range(1 + below(1 << below(4))):
        if n <= low + 1:
            break
        what = below(16)
        at = place(buf, n, low)
        if what == 0:
            buf[at] ^= <uint8_t>(1 << below(8))
        elif what == 1:
            buf[at] = <uint8_t>rnd()
        elif what == 2:
            buf[at] = <uint8_t>_numbers[below(NUMBERS)]
        elif what <= 5:
            put_word(buf, n, at)
        elif what == 6:
            size = 1 + below(min(n - at, 64))
            to = low + below(n - low)
            memmove(buf + to, buf + at, min(size, n - to))
        elif what == 7:
            size = 1 + below(min(n - at, 64))
            if low:
                size = (size + 63) // 64 * 64
            if at + size < n:
                memmove(buf + at, buf + at + size, n - at - size)
                n -= size
        elif what == 8:
            size = 1 + below(min(n - at, 64))
            if low:
                size = (size + 63) // 64 * 64
                at -= at % 64
            if n + size <= MAX_INPUT and at + size <= n:
                memmove(buf + at + size, buf + at, n - at)
                n += size
        elif what == 9 and m > low + 1:
            to = low + below(m - low)
            size = 1 + below(min(m - to, 256))
            memcpy(buf + at, other + to, min(size, n - at))
        elif what == 10 and m > low + 1:
            # The one up to here, the other from here on.
            if m > at and m <= MAX_INPUT:
                memcpy(buf + at, other + at, m - at)
                n = m
        elif what == 11:
            n = at + 1
        elif low:
            mutate_tokens(buf, n)
        else:
            # A tag, and a length that fits.
            buf[at] = <uint8_t>(1 + below(18)) if rnd() & 1 else <uint8_t>(32 * (1 + below(7)))
            if at + 1 < n and rnd() & 1:
                buf[at + 1] = <uint8_t>below(n - at)
    return n


cdef bint mirror(uint8_t *buf, uint32_t n) noexcept nogil:
    """Put in the place of something that was compared what it was compared to."""
    cdef uint64_t *pairs
    cdef uint32_t count = cover_pairs(&pairs)
    cdef uint32_t i, at, _
    cdef uint64_t word
    if n < 8:
        return False
    for _ in range(4):
        if count == 0:
            return False
        i = below(count)
        for at in range(n - 7):
            memcpy(&word, buf + at, 8)
            if word == pairs[2 * i] and word:
                memcpy(buf + at, &pairs[2 * i + 1], 8)
                return True
            if word == pairs[2 * i + 1] and word:
                memcpy(buf + at, &pairs[2 * i], 8)
                return True
    return False


cdef void keep(uint8_t *buf, uint64_t n) noexcept nogil:
    if S.found_size + n + 8 <= FOUND_BYTES:
        memcpy(S.found + S.found_size, &n, 8)
        memcpy(S.found + S.found_size + 8, buf, n)
        S.found_size += n + 8


def batch(list corpus, str name, uint64_t seed, uint64_t count):
    """Run so many inputs made from a corpus; what is new is in the shared memory afterwards."""
    global _random
    cdef int target = TARGETS.index(name), news
    cdef bytes one, two
    cdef uint32_t n, m
    cdef uint64_t i = 0
    cdef uint8_t *buf = S.current
    _random = seed * <uint64_t>0x9E3779B97F4A7C15 + 1
    while i < count:
        if i % 1000 < 2:
            alarm(SECONDS)
        # Half of the time one that is new.
        n = <uint32_t>len(corpus)
        m = below(n)
        if rnd() & 1 and n > 64:
            m = n - 1 - below(64)
        one = corpus[m]
        two = corpus[below(n)]
        n = <uint32_t>PyBytes_GET_SIZE(one)
        memcpy(buf, PyBytes_AS_STRING(one), n)
        n = mutate(buf, n, <const uint8_t *>PyBytes_AS_STRING(two),
                   <uint32_t>PyBytes_GET_SIZE(two), target)
        if n == 0:
            continue
        while True:
            news = attempt(buf, n, target)
            i += 1
            if news:
                keep(buf, n)
                if len(corpus) < 20000:
                    corpus.append(PyBytes_FromStringAndSize(<char *>buf, n))
            # What fails at a comparison may pass it now, and fail at the next.
            if rnd() & 7 or not mirror(buf, n):
                break
    alarm(0)


def found():
    """The new inputs, and forget them."""
    cdef uint64_t at = 0, n
    cdef list made = []
    while at < S.found_size:
        memcpy(&n, S.found + at, 8)
        made.append(PyBytes_FromStringAndSize(<char *>S.found + at + 8, n))
        at += n + 8
    S.found_size = 0
    return made


def figures():
    """(inputs run, of which whole values, times at the unpickler, edges reached)."""
    cdef uint32_t i, edges = 0
    for i in range(MAP_SIZE):
        edges += S.seen[i] != 0
    return S.executed, S.decoded, S.pickles, edges


def current():
    return PyBytes_FromStringAndSize(<char *>S.current, S.current_size)
