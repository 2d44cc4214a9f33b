"""The serializer: numpy arrays, and the bytes themselves (Arrow's readers, the compact form)."""

import collections
import math
import subprocess
import sys

import numpy as np
import pytest

from pyray._core import serializer as s


def trip(value):
    return s.loads(s.dumps(value))


class Plain:
    def __init__(self, **fields):
        self.__dict__.update(fields)


class IntChild(int):
    pass


class DictChild(dict):
    pass


Point = collections.namedtuple("Point", "x y")

BUILTINS = [
    None, True, False, 0, 1, -1, 127, 128, -128, -129, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1,
    2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, -(2**64), 10**400, -(10**400),
    0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, 1 + 2j, complex(-0.0, math.inf),
    "", "a", "ä", "€" * 40, "😀", "nul\0", "\ud800", "x\udfff", "a" * 300, "a" * 100_000,
    "ß" * 100_000, "\ud800" * 50_000,
    b"", b"a", b"\0\xff" * 200, b"x" * 100_000, bytearray(), bytearray(b"abc"),
    [], [[]], [None], [1, 2.0, "3"], (), ((),), (1, (2, [3])), {}, {"a": {}}, {1: 2, "x": None},
    {(1, 2): [3], None: 4, 1.5: 5, b"k": 6, frozenset([1]): 7}, set(), {1, "a"}, frozenset(),
    frozenset([(1, 2)]), {frozenset([1]), frozenset()}, list(range(1000)),
    [{"k": i} for i in range(99)],
]  # fmt: skip


# -- arrays --------------------------------------------------------------------------------------

DTYPES = [
    "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", "F", "D", "G",
    ">i4", ">f8", ">D", "M8[ns]", "M8[D]", "m8[us]", ">M8[s]", "S3", "U3", ">U3", "V5", "q", "Q",
    [("a", "i4"), ("b", "f8", (2,))], [("x", ">u2"), ("y", "S2")], "O",
]  # fmt: skip


def layouts(base):
    yield base
    yield np.asfortranarray(base)
    yield base[::-1]
    yield base[:, ::2]
    yield base.transpose(2, 0, 1)
    yield base[0, 0, 0:1]
    yield base[1:1]
    yield base[0, 0, 0:1].reshape(())
    yield np.broadcast_to(base[0, 0, 0:1], (2, 3))
    yield base.reshape(-1)[1:]
    yield base.reshape((1,) * 29 + base.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arrays(dtype):
    raw = np.arange(2 * 4 * 6) % 100
    if dtype == "O":
        base = np.array([None, "a", [1], 2.5] * 12, dtype=object).reshape(2, 4, 6)
    elif np.dtype(dtype).kind == "V":
        size = np.dtype(dtype).itemsize
        base = np.arange(48 * size).astype("u1").view(dtype).reshape(2, 4, 6)
    else:
        base = raw.astype(dtype).reshape(2, 4, 6)
    for array in layouts(base):
        back = trip(array)
        assert type(back) is np.ndarray
        assert back.dtype == array.dtype and back.dtype.str == array.dtype.str
        assert back.shape == array.shape
        assert (
            back.tobytes() == array.tobytes() if dtype != "O" else back.tolist() == array.tolist()
        )
        if array.flags.c_contiguous or array.flags.f_contiguous:
            assert back.flags.c_contiguous == array.flags.c_contiguous
            assert back.flags.f_contiguous == array.flags.f_contiguous
        if dtype != "O":
            assert not back.flags.writeable and not back.flags.owndata
            assert back.flags.aligned


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a], lambda a: Plain(f={"k": a})])
def test_arrays_are_views(wrap):
    array = np.arange(1000.0)
    buffer = s.dumps(wrap(array))
    back = s.loads(buffer)
    while not isinstance(back, np.ndarray):
        back = back[0] if isinstance(back, list) else back.f["k"]
    assert np.shares_memory(back, np.frombuffer(buffer, "u1"))
    assert back.ctypes.data % 64 == 0
    with pytest.raises(ValueError):
        back[0] = 1
    with pytest.raises(ValueError):
        back.flags.writeable = True
    del buffer
    assert (back == array).all()


def test_unaligned_source():
    raw = bytearray(1) + bytes(s.dumps(np.arange(9.0)))
    back = s.loads(memoryview(raw)[1:])
    assert back.tolist() == list(range(9)) and not back.flags.writeable
    assert back.flags.aligned == (back.ctypes.data % 8 == 0)


@pytest.mark.parametrize("array", [np.ones(9), np.ones(9, complex), np.ones((9, 9))[:, 3]])
def test_array_met_twice_is_stored_once(array):
    one, two = np.tile(array, 1000), np.tile(array, 1000)
    assert s.encoded([one] * 50).nbytes < s.encoded([one, two]).nbytes
    back = trip([one, {"again": one}])
    assert np.shares_memory(back[0], back[1]["again"])


@pytest.mark.parametrize(
    "scalar",
    [np.float64(0.1), np.float32(0.1), np.int8(-1), np.uint64(2**64 - 1), np.bool_(True),
     np.complex64(1j), np.longdouble(1) / 3, np.datetime64("2020-01-01", "ns"),
     np.timedelta64(3, "s"), np.str_("ä"), np.bytes_(b"x"), np.float16(0.5), np.longlong(3),
     np.zeros(1, [("a", "i4")])[0], np.str_(""), np.void(b"abc")],
    ids=repr,
)  # fmt: skip
def test_numpy_scalars(scalar):
    back = trip([scalar])[0]
    assert back == scalar and back.dtype == scalar.dtype
    assert type(back) is type(scalar) or np.dtype(type(scalar)) == np.dtype(type(back))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_array_subclasses():
    matrix = np.matrix([[1, 2], [3, 4]])
    back = trip(matrix)
    assert type(back) is np.matrix and (back == matrix).all()
    masked = np.ma.array([1, 2, 3], mask=[0, 1, 0])
    back = trip(masked)
    assert type(back) is type(masked) and back.tolist() == [1, None, 3]
    record = np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    back = trip(record)
    assert type(back) is np.recarray and back.a.tolist() == [1]
    dtype = np.dtype("f8", metadata={"k": 1})
    assert trip(np.zeros(3, dtype)).dtype.metadata == {"k": 1}
    assert trip(np.dtype("M8[s]")) == np.dtype("M8[s]")
    assert trip(np.array(["a", "bcd" * 30], dtype=np.dtypes.StringDType()))[1] == "bcd" * 30


def test_memmap(tmp_path):
    mapped = np.memmap(tmp_path / "m", "f8", "w+", shape=(10,))
    mapped[:] = range(10)
    assert trip(mapped).tolist() == list(range(10))


# -- the bytes are Arrow -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [*BUILTINS, [np.ones(3), {"a": 1.5}], Plain(a=1)], ids=lambda v: f"{v!r:.20}"
)
def test_pyarrow_reads_every_value(value):
    pa = pytest.importorskip("pyarrow")
    data = s.dumps(value)
    assert len(data) % 64 == 0
    table = pa.ipc.open_stream(s.to_arrow_stream(data)).read_all()
    table.validate(full=True)
    assert table.num_columns == 1 and table.num_rows >= 1
    assert len(table.column(0).to_pylist()) == table.num_rows


def test_pyarrow_reads_tokens_and_tensors():
    pa = pytest.importorskip("pyarrow")
    arrays = [np.arange(6.0).reshape(2, 3),
              np.asfortranarray(np.arange(6, dtype="i2").reshape(2, 3)),
              np.zeros((0, 4), "u4"), np.array(5, "f4"), np.arange(9, dtype="f2")]  # fmt: skip
    value = {"a": [1, 2.5, "ä", b"x", None, True], "t": tuple(arrays)}
    source = pa.BufferReader(s.to_arrow_stream(s.dumps(value)))
    tokens = pa.ipc.open_stream(source).read_all().column(0).to_pylist()
    assert tokens[:9] == [2, "a", 6, 1, 2.5, "ä", b"x", None, True]
    assert tokens[9:11] == ["t", 5]
    for index, array in enumerate(arrays):
        assert tokens[11 + index] & 0xFFFFFFFF == index
        read = pa.ipc.read_tensor(source).to_numpy()
        assert read.dtype == array.dtype and read.shape == array.shape
        assert (read == array).all() and read.strides == array.strides


def test_pyarrow_reads_inline_values():
    pa = pytest.importorskip("pyarrow")
    stream = s.to_arrow_stream(s.dumps_inline((7, "x")), inline=True)
    assert pa.ipc.open_stream(stream).read_all().column(0).to_pylist() == [2, 7, "x"]


def test_import_is_light():
    code = (
        "import sys, pyray; before = set(sys.modules);"
        "import pyray._core.serializer as s; s.loads(s.dumps([1, {2}, 2**70, 'a', 1j]));"
        "bad = {'numpy', 'pyarrow', 'cloudpickle'} & (set(sys.modules) - before);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the compact form ----------------------------------------------------------------------------

INLINE = [v for v in BUILTINS if s.dumps_inline(v, 4096) is not None]


def test_what_is_inline():
    assert len(INLINE) > 40
    for value in (2**63, 1j, {1}, bytearray(), "\ud800", IntChild(1), Point(1, 2), DictChild(),
                  Plain(), np.ones(1), np.float64(1), [np.ones(1)], lambda: 0, int):  # fmt: skip
        assert s.dumps_inline(value) is None


@pytest.mark.parametrize("value", INLINE, ids=lambda v: f"{v!r:.20}")
def test_inline_round_trip_at_every_size(value):
    data = s.dumps_inline(value, 4096)
    back = s.loads_inline(data)
    assert back == value and type(back) is type(value) and repr(back) == repr(value)
    assert s.dumps_inline(value, len(data)) == data
    for cap in range(len(data) if len(data) < 500 else 9):
        assert s.dumps_inline(value, cap) is None
        if cap:
            with pytest.raises(s.CorruptObjectError):
                s.loads_inline(data[:cap])
    with pytest.raises(s.CorruptObjectError):
        s.loads_inline(data + b"\x01")


def test_inline_depth():
    value = 1
    for _ in range(16):
        value = [value]
    assert s.loads_inline(s.dumps_inline(value)) == value
    assert s.dumps_inline([value]) is None
    cyclic = []
    cyclic.append(cyclic)
    assert s.dumps_inline(cyclic) is None
