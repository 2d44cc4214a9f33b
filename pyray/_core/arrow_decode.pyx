# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Python objects from the store form.

Any bytes may come in: every length is checked against the bytes present before memory is asked
for, and what the containers still owe never exceeds the tokens left.  The reader goes by the
positions of its own templates and never follows an offset found in a flatbuffer, other than the
record batch's buffers, which are checked once.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from pyray._core.arrow_block cimport Block
from pyray._core.arrow_format cimport *
from pyray._core.arrow_numpy cimport element_array, raw_array, raw_dtype, raw_scalar
from pyray._core.arrow_pickle cimport (
    checksum, find_global, import_definition, pickle_loads, unpack_ref,
)
from pyray._core.arrow_python cimport *
from pyray._core.arrow_vec cimport Vec, vec_bytes, vec_free
from pyray._core.by_reference cimport restore_view
from pyray._core.private_copy cimport PrivateCopy

from pyray._core.serial_errors import CorruptObjectError, DefinitionNotFoundError

cdef enum:
    MAX_LEVELS = 1000

    G_LIST = 0
    G_TUPLE = 1
    G_DICT = 2
    G_SET = 3
    G_FROZENSET = 4
    G_FIELDS = 5
    G_CUSTOM = 6

cdef struct Tensor:
    size_t head         # where the message starts
    size_t head_size
    size_t body
    size_t body_size

cdef struct Frame:
    PyObject* obj       # owned: the container; of fields the __dict__; of custom the function
    PyObject* whole     # owned: the instance whose fields these are
    PyObject* key       # owned: a key that waits for its value
    Py_ssize_t i
    Py_ssize_t left     # elements still to come (keys and values counted apart)
    int kind

cdef const BatchTemplate* _batch = batch_template()
cdef Py_ssize_t _tensor_body = tensor_body_length()


cdef object _corrupt(str what):
    raise CorruptObjectError(f"not a serialized object: {what}")


cdef str _decode_text(const char* data, Py_ssize_t n):
    try:
        return PyUnicode_DecodeUTF8(data, n, NULL)
    except UnicodeDecodeError:
        _corrupt("a str is not UTF-8")


cdef object _ref(const char* data, Py_ssize_t n):
    try:
        return unpack_ref(PyBytes_FromStringAndSize(data, n))
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptObjectError(f"not an ObjectID: {error}") from error


cdef class _Reader:
    cdef const char* src
    cdef const char* body
    cdef size_t nbytes, body_size
    cdef object pin
    cdef object source              # a PrivateCopy's pin, which it lets go of once it has copied
    cdef bint writable              # arrays lie in `pin` itself, which is a PrivateCopy
    cdef dict arrays                # by tensor; writable ones only
    cdef list classes
    cdef Vec tensors, stack
    cdef int64_t spans[2 * BUF_COUNT]
    cdef int64_t counts[TK_COUNT]   # elements of each child
    cdef int64_t used[TK_COUNT]     # of which have been read
    cdef int64_t n, at, owed

    def __dealloc__(self):
        cdef Frame* frame
        while self.stack.n:
            self.stack.n -= sizeof(Frame)
            frame = <Frame*> (self.stack.p + self.stack.n)
            Py_XDECREF(frame.obj)
            Py_XDECREF(frame.whole)
            Py_XDECREF(frame.key)
        vec_free(&self.stack)
        vec_free(&self.tensors)

    # -- opening ---------------------------------------------------------------------------------

    cdef int open(self) except -1:
        """Check the record batch's frame and find the tensors."""
        cdef int64_t body, n
        cdef int i
        if self.nbytes < <size_t> _batch.size + EOS_SIZE:
            _corrupt("too short")
        # Whatever is not patched must be as it was written.
        if memcmp(self.src, _batch.data, _batch.body_length) != 0:
            _corrupt("no record batch")
        memcpy(&body, self.src + _batch.body_length, 8)
        if body < 0 or <uint64_t> body > self.nbytes - _batch.size - EOS_SIZE:
            _corrupt("its end is missing")
        if (body + EOS_SIZE) % ALIGN:
            _corrupt("odd length")
        self.body = self.src + _batch.size
        self.body_size = body
        memcpy(&self.n, self.src + _batch.length, 8)
        memcpy(self.spans, self.src + _batch.buffers, sizeof(self.spans))
        for i in range(BUF_COUNT):
            if (self.spans[2 * i] < 0 or self.spans[2 * i + 1] < 0 or self.spans[2 * i] > body
                    or self.spans[2 * i] % 8 or self.spans[2 * i + 1] > body - self.spans[2 * i]):
                _corrupt("a buffer lies outside")
        if self.n < 1 or self.n > self.spans[2 * BUF_TYPES + 1]:
            _corrupt("no tokens")
        for i in range(TK_COUNT):
            memcpy(&n, self.src + _batch.nodes + 16 * (i + 1), 8)
            if n < 0 or n > self.n:
                _corrupt("wrong lengths")
            self.counts[i] = n
        if (self.counts[TK_BOOL] + 7) // 8 > self.spans[2 * BUF_BOOL + 1]:
            _corrupt("bools are missing")
        self.check(TK_INT, BUF_INT, 0)
        self.check(TK_FLOAT, BUF_FLOAT, 0)
        self.check(TK_STR, BUF_STR_OFFSETS, 1)
        self.check(TK_BYTES, BUF_BYTES_OFFSETS, 1)
        self.check(TK_LIST, BUF_LIST, 0)
        self.check(TK_TUPLE, BUF_TUPLE, 0)
        self.check(TK_DICT, BUF_DICT, 0)
        self.check(TK_NDARRAY, BUF_NDARRAY, 0)
        self.check(TK_OBJECT_ID, BUF_OID_OFFSETS, 1)
        self.check(TK_OP, BUF_OP, 0)
        self.owed = 1
        if self.counts[TK_NDARRAY]:
            self.find_tensors(_batch.size + self.body_size + EOS_SIZE)
        return 0

    cdef int check(self, int token, int which, int64_t more) except -1:
        if self.counts[token] and self.counts[token] + more > self.spans[2 * which + 1] // 8:
            _corrupt("elements are missing")
        return 0

    cdef int find_tensors(self, size_t at) except -1:
        cdef Tensor tensor
        cdef uint32_t mark, head
        cdef int64_t body
        while self.nbytes - at >= <size_t> _tensor_body + 8:
            memcpy(&mark, self.src + at, 4)
            memcpy(&head, self.src + at + 4, 4)
            if mark != 0xFFFFFFFF or head == 0:
                break
            tensor.head = at
            tensor.head_size = <size_t> head + PREFIX
            if tensor.head_size > self.nbytes - at or tensor.head_size % ALIGN:
                _corrupt("a tensor is cut short")
            memcpy(&body, self.src + at + _tensor_body, 8)
            at += tensor.head_size
            if body < 0 or <uint64_t> body > self.nbytes - at or body % ALIGN:
                _corrupt("a tensor is cut short")
            tensor.body = at
            tensor.body_size = body
            at += tensor.body_size
            vec_bytes(&self.tensors, &tensor, sizeof(Tensor))
        return 0

    # -- tokens ----------------------------------------------------------------------------------

    cdef int next_token(self) except -1:
        cdef int token
        if self.at >= self.n:
            _corrupt("tokens are missing")
        token = self.body[self.spans[2 * BUF_TYPES] + self.at]
        self.at += 1
        if not 0 <= token < TK_COUNT:
            _corrupt("unknown token")
        if self.used[token] >= self.counts[token]:
            _corrupt("elements are missing")
        self.used[token] += 1
        return token

    cdef inline int64_t number(self, int token, int which) noexcept nogil:
        """Give the 8-byte element that belongs to the token just read."""
        cdef int64_t value      # the bytes may come from anywhere, so they may be unaligned
        memcpy(&value, self.body + self.spans[2 * which] + 8 * (self.used[token] - 1), 8)
        return value

    cdef int text(self, int token, int which, const char** data, Py_ssize_t* n) except -1:
        """Find the str's, bytes' or ObjectID's contents that belong to the token just read."""
        cdef int64_t start = self.number(token, which)
        cdef int64_t end
        memcpy(&end, self.body + self.spans[2 * which] + 8 * self.used[token], 8)
        if start < 0 or end < start or end > self.spans[2 * which + 3]:
            _corrupt("a string lies outside")
        data[0] = self.body + self.spans[2 * which + 2] + start
        n[0] = end - start
        return 0

    cdef int expect(self, int token) except -1:
        if self.next_token() != token:
            _corrupt("another token was due")
        return 0

    cdef str read_str(self):
        cdef const char* data
        cdef Py_ssize_t n
        self.expect(TK_STR)
        self.text(TK_STR, BUF_STR_OFFSETS, &data, &n)
        return _decode_text(data, n)

    cdef int read_bytes(self, const char** data, Py_ssize_t* n) except -1:
        self.expect(TK_BYTES)
        return self.text(TK_BYTES, BUF_BYTES_OFFSETS, data, n)

    cdef object open_array(self, bint raw, object dtype, int ndim, Py_ssize_t* dims,
                           bint fortran):
        """Make the array that the ndarray token just read stands for, as `raw` if so told."""
        cdef int64_t token = self.number(TK_NDARRAY, BUF_NDARRAY)
        cdef size_t index = token & 0xFFFFFFFF
        cdef int own_ndim = token >> 32 & 0xFF
        cdef int element = token >> 40 & 0xFF
        cdef Tensor* tensor
        cdef const TensorTemplate* template
        cdef Py_ssize_t own_dims[MAX_DIMS]
        cdef int64_t size
        cdef uint64_t need
        cdef bint empty = False
        cdef int axis
        cdef char* data
        if (index >= self.tensors.n // sizeof(Tensor) or own_ndim > MAX_DIMS
                or element >= EL_COUNT or token >> 49):
            _corrupt("no such tensor")
        tensor = <Tensor*> self.tensors.p + index
        template = tensor_template(element, own_ndim)
        if tensor.head_size != <size_t> template.size:
            _corrupt("a tensor of another shape")
        need = template.itemsize
        for axis in range(own_ndim):
            memcpy(&size, self.src + tensor.head + template.dims[axis], 8)
            own_dims[axis] = size
            if size < 0:
                _corrupt("negative array dimension")
            if size == 0:
                empty = True
            elif <uint64_t> size > (<uint64_t> 1 << 62) // need:
                _corrupt("array dimensions are too large")
            else:
                need *= size
        if not empty and need > tensor.body_size:
            _corrupt("an array's elements are cut short")
        if raw and (element != EL_UINT8 or own_ndim != 1):
            _corrupt("another tensor was due")
        if self.writable:
            if dtype is not None or not raw:
                # What is met twice is one array, as it was when it was stored: whoever writes to
                # one of the two sees it in the other, down to its shape.
                if self.arrays is None:
                    self.arrays = {}
                elif index in self.arrays:
                    return self.arrays[index]
            data = (<PrivateCopy> self.pin).memory((<Tensor*> self.tensors.p).body, tensor.body)
        else:
            data = <char*> self.src + tensor.body
        if not raw:
            made = element_array(element, own_ndim, own_dims, token >> 48 & 1, data, self.pin,
                                 self.writable)
        elif dtype is None:
            return self.part(data, own_dims[0])
        else:
            made = raw_array(dtype, ndim, dims, fortran, data, own_dims[0], self.pin,
                             self.writable)
        if self.writable:
            self.arrays[index] = made
        return made

    cdef Block part(self, char* data, size_t nbytes):
        """Export some of the bytes as a buffer of their own."""
        cdef Block made = Block.__new__(Block)
        made.data = data
        made.nbytes = nbytes
        made.pin = self.pin
        made.writable = self.writable
        return made

    cdef object read_pickle(self, int64_t count):
        cdef const char* data
        cdef Py_ssize_t n
        cdef int64_t _i, check, sum, size
        cdef list buffers = []
        cdef Block block
        self.expect(TK_INT)
        check = self.number(TK_INT, BUF_INT)
        self.read_bytes(&data, &n)
        sum = checksum(data, n, 0)
        for _i in range(count):
            self.expect(TK_NDARRAY)
            block = self.open_array(True, None, 0, NULL, False)
            size = block.nbytes
            sum = checksum(<char*> &size, 8, sum)
            buffers.append(block)
        if sum != check:
            _corrupt("a pickle is damaged")
        return pickle_loads(data, n, buffers, self.writable)

    cdef object read_definition(self):
        cdef int64_t op
        self.expect(TK_OP)
        op = self.number(TK_OP, BUF_OP)
        return self.definition(op)

    cdef object definition(self, int64_t op):
        """Read a class or function whose op has been read."""
        if self.classes is None:
            self.classes = []
        if op & 0xFF == OP_AGAIN:
            if not 0 <= op >> 8 < len(self.classes):
                _corrupt("an unknown class")
            return self.classes[op >> 8]
        if op & 0xFF == OP_GLOBAL:
            module = self.read_str()
            name = self.read_str()
            try:
                made = find_global(module, name)
            except Exception as error:
                raise DefinitionNotFoundError(
                    f"cannot import {module}.{name}, which this object needs: {error}"
                ) from error
        elif op & 0xFF == OP_DEFINITION:
            made = import_definition(op >> 8)
        elif op & 0xFF == OP_BY_VALUE:
            self.expect(TK_OP)
            op = self.number(TK_OP, BUF_OP)
            if op & 0xFF != OP_PICKLE:
                _corrupt("a definition was due")
            made = self.read_pickle(op >> 8)
        else:
            _corrupt("a definition was due")
        self.classes.append(made)
        return made

    cdef object read_dtype(self):
        cdef int token = self.next_token()
        cdef int64_t op
        if token == TK_STR:
            self.at -= 1
            self.used[TK_STR] -= 1
            return self.read_str()
        if token != TK_OP:
            _corrupt("a dtype was due")
        op = self.number(TK_OP, BUF_OP)
        if op & 0xFF != OP_PICKLE:
            _corrupt("a dtype was due")
        return self.read_pickle(op >> 8)

    cdef object read_shared(self, int64_t ndim):
        """Read a part of a shared array."""
        cdef Py_ssize_t places[2 * MAX_DIMS]
        cdef const char* data
        cdef Py_ssize_t n
        cdef int64_t at, i
        cdef bint writable
        self.expect(TK_OBJECT_ID)
        self.text(TK_OBJECT_ID, BUF_OID_OFFSETS, &data, &n)
        oid = _ref(data, n)
        self.expect(TK_INT)
        at = self.number(TK_INT, BUF_INT)
        self.expect(TK_BOOL)
        writable = self.boolean()
        dtype = raw_dtype(self.read_dtype())
        if not 0 <= ndim <= MAX_DIMS:
            _corrupt("too many dimensions")
        for i in range(2 * ndim):
            self.expect(TK_INT)
            places[i] = self.number(TK_INT, BUF_INT)
        return restore_view(0, oid, dtype, at, ndim, places, places + ndim, writable,
                            self.writable)

    cdef object read_array(self, int64_t ndim):
        """Read an array of a dtype that Arrow's tensors do not know."""
        cdef Py_ssize_t dims[MAX_DIMS]
        cdef int64_t i
        cdef bint fortran
        dtype = self.read_dtype()
        self.expect(TK_BOOL)
        fortran = self.boolean()
        if not 0 <= ndim <= MAX_DIMS:
            _corrupt("too many dimensions")
        for i in range(ndim):
            self.expect(TK_INT)
            dims[i] = self.number(TK_INT, BUF_INT)
        self.expect(TK_NDARRAY)
        return self.open_array(True, dtype, ndim, dims, fortran)

    cdef inline bint boolean(self) noexcept nogil:
        cdef int64_t i = self.used[TK_BOOL] - 1
        return self.body[self.spans[2 * BUF_BOOL] + i // 8] >> (i % 8) & 1

    cdef object leaf(self, int64_t op):
        """Read what an op token begins, unless it is a container."""
        cdef const char* data
        cdef Py_ssize_t n
        cdef double parts[2]
        cdef int code = op & 0xFF
        op >>= 8
        if code == OP_PICKLE:
            return self.read_pickle(op)
        if code == OP_ARRAY:
            return self.read_array(op)
        if code == OP_SCALAR:
            dtype = self.read_str()
            self.read_bytes(&data, &n)
            return raw_scalar(dtype, <char*> data, n)
        if code == OP_COMPLEX:
            for n in range(2):
                self.expect(TK_FLOAT)
                op = self.number(TK_FLOAT, BUF_FLOAT)
                memcpy(&parts[n], &op, 8)
            return complex(parts[0], parts[1])
        if code == OP_BIGINT:
            self.read_bytes(&data, &n)
            return int.from_bytes(data[:n], "little", signed=True)
        if code == OP_BYTEARRAY:
            self.read_bytes(&data, &n)
            return bytearray(data[:n])
        if code == OP_SURROGATES:
            self.read_bytes(&data, &n)
            try:
                return data[:n].decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                _corrupt("a str is not UTF-8")
        if code == OP_SHARED:
            return self.read_shared(op)
        return self.definition(op << 8 | code)

    # -- containers ------------------------------------------------------------------------------

    cdef int owe(self, int64_t count, int64_t each) except -1:
        """Note that a container awaits elements; there must be tokens for them all."""
        if count < 0 or count > self.n or self.owed + count * each > self.n - self.at:
            _corrupt("a container is longer than its elements")
        self.owed += count * each
        return 0

    cdef PyObject* start(self, Frame* frame) except? NULL:
        """Read a token; give its value, or NULL if it opens a container (then in `frame`)."""
        cdef int token = self.next_token()
        cdef const char* data
        cdef Py_ssize_t n
        cdef int64_t number
        cdef double real
        self.owed -= 1
        frame.whole = frame.key = NULL
        frame.i = 0
        if token == TK_FLOAT:
            number = self.number(TK_FLOAT, BUF_FLOAT)
            memcpy(&real, &number, 8)
            return PyFloat_FromDouble(real)
        if token == TK_INT:
            return PyLong_FromLongLong(self.number(TK_INT, BUF_INT))
        if token == TK_NONE:
            Py_INCREF(Py_None)
            return Py_None
        if token == TK_LIST:
            number = self.number(TK_LIST, BUF_LIST)
            self.owe(number, 1)
            frame.kind = G_LIST
            frame.left = number
            frame.obj = PyList_New(number)
            return NULL
        if token == TK_TUPLE:
            number = self.number(TK_TUPLE, BUF_TUPLE)
            self.owe(number, 1)
            frame.kind = G_TUPLE
            frame.left = number
            frame.obj = PyTuple_New(number)
            return NULL
        if token == TK_DICT:
            number = self.number(TK_DICT, BUF_DICT)
            self.owe(number, 2)
            frame.kind = G_DICT
            frame.left = 2 * number
            frame.obj = PyDict_New()
            return NULL
        if token == TK_STR:
            self.text(TK_STR, BUF_STR_OFFSETS, &data, &n)
            made = _decode_text(data, n)
        elif token == TK_BYTES:
            self.text(TK_BYTES, BUF_BYTES_OFFSETS, &data, &n)
            made = PyBytes_FromStringAndSize(data, n)
        elif token == TK_NDARRAY:
            made = self.open_array(False, None, 0, NULL, False)
        elif token == TK_BOOL:
            made = self.boolean()
        elif token == TK_OBJECT_ID:
            self.text(TK_OBJECT_ID, BUF_OID_OFFSETS, &data, &n)
            made = _ref(data, n)
        else:
            number = self.number(TK_OP, BUF_OP)
            if self.start_op(number, frame):
                return NULL
            made = self.leaf(number)
        Py_INCREF(<PyObject*> made)
        return <PyObject*> made

    cdef bint start_op(self, int64_t op, Frame* frame) except -1:
        """Open the container that an op token begins, if it does."""
        cdef int code = op & 0xFF
        op >>= 8
        if code == OP_SET or code == OP_FROZENSET:
            self.owe(op, 1)
            frame.left = op
            frame.kind = G_SET if code == OP_SET else G_FROZENSET
            frame.obj = PySet_New(NULL) if code == OP_SET else PyFrozenSet_New(NULL)
            return True
        if code == OP_FIELDS:
            cls = self.read_definition()
            if not isinstance(cls, type):
                _corrupt("fields of no class")
            try:
                made = object.__new__(cls)
                fields = made.__dict__
            except (TypeError, AttributeError):
                fields = None
            if type(fields) is not dict:
                _corrupt("fields of a class that has none")
            self.owe(op, 2)
            frame.left = 2 * op
            frame.kind = G_FIELDS
            frame.obj = <PyObject*> fields
            frame.whole = <PyObject*> made
            Py_INCREF(frame.obj)
            Py_INCREF(frame.whole)
            return True
        if code == OP_CUSTOM:
            function = self.read_definition()
            if not callable(function):
                _corrupt("a deserializer cannot be called")
            self.owe(1, 1)
            frame.left = 1
            frame.kind = G_CUSTOM
            frame.obj = <PyObject*> function
            Py_INCREF(frame.obj)
            return True
        return False

    cdef PyObject* close(self, Frame* frame) except NULL:
        """Finish a container; its frame is over, and gives its value away."""
        cdef PyObject* value = frame.obj
        cdef object made
        frame.obj = NULL
        if frame.kind == G_FIELDS:
            Py_DECREF(value)
            value = frame.whole
            frame.whole = NULL
        elif frame.kind == G_CUSTOM:
            try:
                made = (<object> value)(<object> frame.key)
            finally:
                Py_DECREF(value)
                Py_XDECREF(frame.key)
                frame.key = NULL
            value = <PyObject*> made
            Py_INCREF(value)
        return value

    cdef int attach(self, Frame* top, PyObject* value) except -1:
        """Give a container its next element, which it takes over."""
        cdef PyObject* key
        if top.kind == G_LIST:
            PyList_SET_ITEM(top.obj, top.i, value)
        elif top.kind == G_TUPLE:
            PyTuple_SET_ITEM(top.obj, top.i, value)
        elif top.kind == G_SET or top.kind == G_FROZENSET:
            try:
                PySet_Add(top.obj, value)
            except TypeError as error:
                raise CorruptObjectError(f"an element has no hash: {error}") from error
            finally:
                Py_DECREF(value)
        elif top.kind == G_CUSTOM or top.key == NULL:
            if top.kind == G_FIELDS:
                if not PyUnicode_CheckExact(value):
                    Py_DECREF(value)
                    _corrupt("a field without a name")
                PyUnicode_InternInPlace(&value)     # attributes are looked up faster
            top.key = value
        else:
            key = top.key
            top.key = NULL
            try:
                PyDict_SetItem(top.obj, key, value)
            except TypeError as error:
                raise CorruptObjectError(f"a key has no hash: {error}") from error
            finally:
                Py_DECREF(key)
                Py_DECREF(value)
        top.i += 1
        top.left -= 1
        return 0

    cdef object read(self):
        cdef Frame frame
        cdef Frame* top
        cdef PyObject* value
        while True:
            frame.obj = NULL
            value = self.start(&frame)
            if value == NULL:
                vec_bytes(&self.stack, &frame, sizeof(Frame))
                if self.stack.n > MAX_LEVELS * sizeof(Frame):
                    _corrupt("nested too deeply")
                if frame.left:
                    continue
            while True:
                # A value is complete, or else the container on top.
                if value != NULL:
                    if not self.stack.n:
                        made = <object> value
                        Py_DECREF(value)
                        if self.at != self.n:
                            _corrupt("tokens are left over")
                        return made
                    top = <Frame*> (self.stack.p + self.stack.n - sizeof(Frame))
                    self.attach(top, value)
                    if top.left:
                        break
                self.stack.n -= sizeof(Frame)
                frame = (<Frame*> (self.stack.p + self.stack.n))[0]
                value = self.close(&frame)


cdef object decode_store(const char* src, size_t nbytes, object pin):
    """Read an object; CorruptObjectError says that the bytes are none."""
    cdef _Reader reader = _Reader.__new__(_Reader)
    reader.src = src
    reader.nbytes = nbytes
    reader.pin = pin
    if type(pin) is PrivateCopy:
        reader.writable = True
        reader.source = (<PrivateCopy> pin).pin
    reader.open()
    return reader.read()
