# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""From gathered tokens to Arrow messages.

Everything is written once, straight into the destination: templates are copied and patched, large
blocks go through pyray_bulk_copy with the GIL released.
"""

from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy, memset

from pyray._core.arrow_format cimport *
from pyray._core.arrow_numpy cimport ArrayInfo, array_copy_to, array_info
from pyray._core.arrow_vec cimport vec_free
from pyray._core.arena cimport arena, pyray_arena

cdef extern from "bulkcopy.h" nogil:
    void pyray_bulk_copy(const pyray_arena* arena, void* dst, const void* src, size_t n)

cdef enum:
    # Below this, letting others have the GIL costs more than the copying.
    NOGIL_MIN = 65536
    PAGE = 4096

cdef const BatchTemplate* _batch = batch_template()
cdef const pyray_arena* _arena = arena()


cdef inline size_t _pad(size_t n, size_t to) noexcept nogil:
    return (n + to - 1) & ~(to - 1)


cdef void _free_blob(Blob* blob) noexcept:
    vec_free(&blob.ends)
    vec_free(&blob.data)
    vec_free(&blob.segments)


cdef void draft_free(Draft* d) noexcept:
    vec_free(&d.types)
    vec_free(&d.bools)
    vec_free(&d.ints)
    vec_free(&d.floats)
    vec_free(&d.lists)
    vec_free(&d.tuples)
    vec_free(&d.dicts)
    vec_free(&d.arrays)
    vec_free(&d.ops)
    vec_free(&d.tensors)
    _free_blob(&d.strs)
    _free_blob(&d.blobs)
    _free_blob(&d.oids)


cdef inline void _patch(char* at, int64_t value) noexcept nogil:
    (<int64_t*> at)[0] = value


cdef inline void _span(int64_t* spans, int which, size_t n, size_t* at) noexcept nogil:
    spans[2 * which] = at[0]
    spans[2 * which + 1] = n
    at[0] += _pad(n, 8)


cdef inline void _span_blob(int64_t* spans, int which, Blob* blob, size_t* at) noexcept nogil:
    # One offset more than elements; the data is the next buffer.
    _span(spans, which, blob.ends.n + 8 if blob.ends.n else 0, at)
    _span(spans, which + 1, blob.size, at)


cdef inline void _zero_tail(char* body, int64_t* spans, int which) noexcept nogil:
    cdef size_t n = spans[2 * which + 1]
    memset(body + spans[2 * which] + n, 0, _pad(n, 8) - n)


cdef inline void _fill(char* body, int64_t* spans, int which, Vec* source) noexcept nogil:
    if source.n:
        memcpy(body + spans[2 * which], source.p, source.n)


cdef void _fill_blob(char* body, int64_t* spans, int which, Blob* blob) noexcept nogil:
    cdef char* dst = body + spans[2 * which]
    cdef Segment* segment
    cdef size_t i
    cdef size_t done = 0
    if not blob.ends.n:
        return
    memset(dst, 0, 8)
    memcpy(dst + 8, blob.ends.p, blob.ends.n)
    dst = body + spans[2 * which + 2]
    for i in range(blob.segments.n // sizeof(Segment)):
        segment = <Segment*> blob.segments.p + i
        if segment.at > done:
            memcpy(dst, blob.data.p + done, segment.at - done)
            dst += segment.at - done
            done = segment.at
        pyray_bulk_copy(_arena, dst, segment.data, segment.n)
        dst += segment.n
    if blob.data.n > done:
        memcpy(dst, blob.data.p + done, blob.data.n - done)
    _zero_tail(body, spans, which + 1)

cdef size_t draft_finish(Draft* d) except 0:
    """Settle where everything goes."""
    cdef size_t at = 0
    cdef size_t total
    cdef size_t n = d.types.n
    cdef const TensorTemplate* template
    cdef Job* job
    cdef size_t i
    if d.types.n > 0x7FFFFFFF:
        raise OverflowError("more than 2,147,483,647 elements in one object")
    _span(d.spans, BUF_TYPES, n, &at)
    _span(d.spans, BUF_OFFSETS, 4 * n, &at)
    _span(d.spans, BUF_BOOL, (d.bools.n + 7) // 8, &at)
    _span(d.spans, BUF_INT, d.ints.n, &at)
    _span(d.spans, BUF_FLOAT, d.floats.n, &at)
    _span_blob(d.spans, BUF_STR_OFFSETS, &d.strs, &at)
    _span_blob(d.spans, BUF_BYTES_OFFSETS, &d.blobs, &at)
    _span(d.spans, BUF_LIST, d.lists.n, &at)
    _span(d.spans, BUF_TUPLE, d.tuples.n, &at)
    _span(d.spans, BUF_DICT, d.dicts.n, &at)
    _span(d.spans, BUF_NDARRAY, d.arrays.n, &at)
    _span_blob(d.spans, BUF_OID_OFFSETS, &d.oids, &at)
    _span(d.spans, BUF_OP, d.ops.n, &at)
    # The end-of-stream marker fills the last 8 bytes before the first tensor.
    d.body_size = _pad(at + EOS_SIZE, ALIGN) - EOS_SIZE
    if d.paged:
        job = <Job*> d.tensors.p
        at = <size_t> (_batch.size + tensor_template(job.element, job.ndim).size) + EOS_SIZE
        d.body_size = _pad(at + d.body_size, PAGE) - at
    total = <size_t> _batch.size + d.body_size + EOS_SIZE
    for i in range(d.tensors.n // sizeof(Job)):
        job = <Job*> d.tensors.p + i
        template = tensor_template(job.element, job.ndim)
        job.head = template.size
        total += job.head + _pad(job.nbytes, ALIGN)
    d.nbytes = total
    return total


cdef void _fill_batch(Draft* d, char* dst) noexcept nogil:
    """Write the record batch and the end-of-stream marker."""
    cdef char* body = dst + _batch.size
    cdef int64_t* node
    cdef int64_t counts[TK_COUNT]
    cdef int32_t* offsets
    cdef uint32_t eos = 0xFFFFFFFF
    cdef size_t n = d.types.n
    cdef size_t i
    cdef int kind
    memcpy(dst, _batch.data, _batch.size)
    _patch(dst + _batch.body_length, d.body_size)
    _patch(dst + _batch.length, n)
    memcpy(dst + _batch.buffers, d.spans, sizeof(d.spans))
    memset(counts, 0, sizeof(counts))
    memcpy(body, d.types.p, n)
    _zero_tail(body, d.spans, BUF_TYPES)
    offsets = <int32_t*> (body + d.spans[2 * BUF_OFFSETS])
    for i in range(n):
        kind = d.types.p[i]
        offsets[i] = <int32_t> counts[kind]
        counts[kind] += 1
    _zero_tail(body, d.spans, BUF_OFFSETS)
    memset(body + d.spans[2 * BUF_BOOL], 0, _pad(d.spans[2 * BUF_BOOL + 1], 8))
    for i in range(d.bools.n):
        if d.bools.p[i]:
            body[d.spans[2 * BUF_BOOL] + i // 8] |= <char> (1 << (i % 8))
    _fill(body, d.spans, BUF_INT, &d.ints)
    _fill(body, d.spans, BUF_FLOAT, &d.floats)
    _fill_blob(body, d.spans, BUF_STR_OFFSETS, &d.strs)
    _fill_blob(body, d.spans, BUF_BYTES_OFFSETS, &d.blobs)
    _fill(body, d.spans, BUF_LIST, &d.lists)
    _fill(body, d.spans, BUF_TUPLE, &d.tuples)
    _fill(body, d.spans, BUF_DICT, &d.dicts)
    _fill(body, d.spans, BUF_NDARRAY, &d.arrays)
    _fill_blob(body, d.spans, BUF_OID_OFFSETS, &d.oids)
    _fill(body, d.spans, BUF_OP, &d.ops)
    i = <size_t> (d.spans[2 * BUF_OP] + d.spans[2 * BUF_OP + 1])
    memset(body + i, 0, d.body_size - i)
    memcpy(body + d.body_size, &eos, 4)
    memset(body + d.body_size + 4, 0, 4)
    node = <int64_t*> (dst + _batch.nodes)
    node[0] = n
    node[1] = 0
    for kind in range(TK_COUNT):
        node[2 + 2 * kind] = counts[kind]
        node[3 + 2 * kind] = counts[kind] if kind == TK_NONE else 0


cdef int _fill_tensors(Draft* d, char* dst) except -1:
    """Write the tensors' messages and what cannot be copied in one piece."""
    cdef size_t i, step
    cdef Job* job
    cdef const TensorTemplate* template
    cdef ArrayInfo info
    cdef int64_t stride
    cdef int axis, place
    for i in range(d.tensors.n // sizeof(Job)):
        job = <Job*> d.tensors.p + i
        template = tensor_template(job.element, job.ndim)
        step = _pad(job.nbytes, ALIGN)
        memcpy(dst, template.data, template.size)
        _patch(dst + template.body_length, step)
        _patch(dst + template.data_length, job.nbytes)
        if job.array == NULL or job.ndim == 1:
            _patch(dst + template.dims[0], job.nbytes // <size_t> template.itemsize)
            _patch(dst + template.strides, template.itemsize)
        else:
            array_info(job.array, &info)
            stride = template.itemsize
            for axis in range(job.ndim):
                place = axis if job.fortran else job.ndim - 1 - axis
                _patch(dst + template.dims[place], info.dims[place])
                _patch(dst + template.strides + 8 * place, stride)
                if info.dims[place]:
                    stride *= info.dims[place]
        dst += template.size
        memset(dst + job.nbytes, 0, step - job.nbytes)
        if d.frame:
            return 0
        if job.scattered:
            array_copy_to(job.array, dst)
        dst += step
    return 0


cdef void _fill_bodies(Draft* d, char* dst) noexcept nogil:
    """Copy what lies in one piece."""
    cdef size_t i
    cdef Job* job
    for i in range(d.tensors.n // sizeof(Job)):
        job = <Job*> d.tensors.p + i
        dst += <size_t> job.head
        if not job.scattered and job.nbytes:
            pyray_bulk_copy(_arena, dst, job.data, job.nbytes)
        dst += _pad(job.nbytes, ALIGN)


cdef int draft_write(Draft* d, char* dst) except -1:
    cdef char* tensors = dst + _batch.size + d.body_size + EOS_SIZE
    if d.tensors.n:
        _fill_tensors(d, tensors)
    if d.frame:
        _fill_batch(d, dst)
    elif d.nbytes < NOGIL_MIN:
        _fill_batch(d, dst)
        _fill_bodies(d, tensors)
    else:
        with nogil:
            _fill_batch(d, dst)
            _fill_bodies(d, tensors)
    return 0
