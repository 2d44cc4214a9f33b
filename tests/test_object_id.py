"""ObjectIDs: 20 bytes that stand for an object; and objects as Arrow streams."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

import pyray
from pyray import exceptions


def test_an_id_is_twenty_bytes(ray):
    ref = ray.put(1)
    assert isinstance(ref, ray.ObjectID)
    assert len(ref.binary()) == 20
    assert ref.hex() == ref.binary().hex()
    assert repr(ref) == str(ref) == f"ObjectID({ref.hex()})"
    assert re.fullmatch(r"ObjectID\([0-9a-f]{40}\)", repr(ref))


def test_ids_are_distinct_and_spread(ray):
    f = ray.remote(num_returns=3)(lambda: (1, 2, 3))
    refs = [ray.put(0) for _ in range(1000)] + [r for _ in range(300) for r in f.remote()]
    assert len({r.binary() for r in refs}) == len(set(refs)) == 1900
    assert len({r.binary()[0] for r in refs}) > 200

    @ray.remote
    def make():
        return [ray.put(0) for _ in range(100)]

    inner = [r for box in ray.get([make.remote() for _ in range(5)]) for r in box]
    assert len({r.hex() for r in inner + refs}) == 2400


def test_hash_equality_and_order(ray):
    a, b = ray.put(1), ray.put(1)
    assert a != b
    assert a == a
    assert a != a.binary()
    assert a != 1
    (again,) = ray.get(ray.put([a]))
    assert again == a
    assert hash(again) == hash(a)
    assert {a: "x"}[again] == "x"
    assert len({a, b, again}) == 2
    low, high = sorted([a, b])
    assert low.binary() < high.binary()
    assert low < high
    assert low <= high
    assert high > low
    assert high >= low
    with pytest.raises(TypeError):
        a < 1  # noqa: B015


def test_ids_differ_between_sessions():
    seen = set()
    for _ in range(3):
        pyray.init(num_cpus=1)
        seen.add(pyray.put(1).hex())
        pyray.shutdown()
    assert len(seen) == 3


def test_copies_are_the_id_itself(ray):
    ref = ray.put(1)
    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref


def test_ids_pickle_within_the_session(ray):
    ref = ray.put("value")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps({"r": ref}, protocol))["r"]
        assert again == ref
        assert ray.get(again) == "value"


def test_a_pickle_whose_object_is_gone(ray):
    blob = pickle.dumps(ray.put("value"))
    with pytest.raises(exceptions.ObjectLostError, match="gone"):
        pickle.loads(blob)


def test_ids_of_another_session_are_recognised(ray):
    blob = pickle.dumps(ray.put("value"))
    ray.shutdown()
    with pytest.raises(exceptions.SessionError):
        pickle.loads(blob)
    ray.init(num_cpus=1)
    with pytest.raises(exceptions.ForeignObjectError, match="another session"):
        pickle.loads(blob)

    @ray.remote
    def load(data):
        return pickle.loads(data)

    with pytest.raises(exceptions.ForeignObjectError):
        ray.get(load.remote(blob))


def test_garbage_is_no_id(ray):
    load, (packed,) = ray.put(1).__reduce__()
    for bad in (b"", packed[:-1], packed + b"x"):
        with pytest.raises(ValueError, match="48"):
            load(bad)
    for i in range(8, 16):
        bad = bytearray(packed)
        bad[i] ^= 0xFF
        with pytest.raises(exceptions.ObjectLostError):
            load(bytes(bad))


def test_ids_cannot_be_made_or_changed(ray):
    ref = ray.put(1)
    with pytest.raises(TypeError, match="put"):
        ray.ObjectID(b"x" * 20)
    with pytest.raises(AttributeError):
        ref.extra = 1
    with pytest.raises(TypeError):
        type("Sub", (ray.ObjectID,), {})
    with pytest.raises(TypeError, match="ObjectID already"):
        ray.put(ref)


# ---- Arrow -------------------------------------------------------------------------------------


def _read(stream):
    """What pyarrow finds in a stream: the batch, and the tensors after it."""
    pa = pytest.importorskip("pyarrow")
    reader = pa.ipc.open_stream(stream)
    batch = reader.read_next_batch()
    batch.validate(full=True)
    return batch


VALUES = [
    None,
    True,
    7,
    1.5,
    "short",
    b"bytes",
    "x" * 300,
    [1, 2.5, "three", None],
    {"a": (1, [2]), "b": "x" * 2000},
    list(range(5000)),
    np.arange(10),
    {"m": np.ones((50, 60)), "n": [np.zeros(3, "f4")]},
    2**100,
    {1, 2},
]


def test_any_object_is_an_arrow_stream(ray):
    task = ray.remote(lambda x: x)
    for value in VALUES:
        for ref in (ray.put(value), task.remote(value)):
            stream = ray.arrow_stream(ref)
            assert isinstance(stream, bytes)
            batch = _read(stream)
            assert batch.num_rows >= 1, value
            assert "union" in str(batch.schema), value


def test_the_values_can_be_read_by_pyarrow(ray):
    """The scalars of an object stand in its batch, in order."""
    found = str(_read(ray.arrow_stream(ray.put([41, 42.5, "forty-three"]))).to_pydict())
    at = [found.index(text) for text in ("41", "42.5", "forty-three")]
    assert at == sorted(at)


def test_arrays_follow_as_tensors(ray):
    pa = pytest.importorskip("pyarrow")
    a = np.arange(12.0).reshape(3, 4)
    b = np.arange(5, dtype="i4")
    source = pa.BufferReader(ray.arrow_stream(ray.put([a, {"b": b}])))
    kinds = [pa.ipc.read_message(source).type for _ in range(2)]
    assert kinds == ["schema", "record batch"]
    with pytest.raises(EOFError):
        pa.ipc.read_message(source)
    tensors = [pa.ipc.read_tensor(source).to_numpy() for _ in range(2)]
    assert source.tell() == source.size()
    assert np.array_equal(tensors[0], a)
    assert np.array_equal(tensors[1], b)


def test_arrow_stream_waits_for_the_object(ray, gate):
    @ray.remote
    def f():
        gate.wait()
        return "later"

    ref = f.remote()
    gate.open()
    assert "later" in str(_read(ray.arrow_stream(ref)).to_pydict())
    with pytest.raises(TypeError):
        ray.arrow_stream("x")
