"""Arrays born in the store: made, passed as what they are, written to in place, sealed."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fault_helpers import used
from helpers import Gate, wait_until

DTYPES = ["f8", "i4", "?", "f2", "c16", "M8[s]", "U4", "S3", ">f8", "V5", "i4,f8"]
SHAPES: list[Any] = [(), 0, 5, (0, 3), (2, 0), (1, 1, 1), (2,) * 12, [4, 5]]


# ---- making them ---------------------------------------------------------------------------------


def test_every_dtype_order_and_shape(ray: Any) -> None:
    @ray.remote
    def look(view: Any) -> Any:
        view[1, 1] = view[0, 2]
        return view.dtype, view.shape, view.strides, view.flags.writeable

    for dtype in DTYPES:
        for order in "CF":
            like = np.zeros((3, 4), dtype, order)
            array = ray.shared.zeros((3, 4), dtype, order)
            assert type(array) is ray.shared.SharedArray
            assert (array.dtype, array.strides) == (like.dtype, like.strides)
            value = np.frombuffer(b"\1\0\0\0" * like.itemsize, like.dtype)[0]
            array[0, 2] = value
            like[0, 2] = like[1, 1] = value
            assert ray.get(look.remote(array)) == (like.dtype, (3, 4), like.strides, True)
            sealed = ray.get(array.seal())
            assert (sealed.dtype, sealed.strides) == (like.dtype, like.strides)
            assert sealed.tobytes() == like.tobytes()
    for shape in SHAPES:
        array = ray.shared.full(shape, 2.5)
        assert array.tolist() == np.full(shape, 2.5).tolist()
        assert ray.get(array.seal()).tolist() == np.full(shape, 2.5).tolist()


def test_small_ones_are_aligned_to_64_bytes_and_large_ones_to_pages(ray: Any) -> None:
    small = [ray.shared.empty(n, "u1") for n in (1, 63, 5000, 65535)]
    large = [ray.shared.empty(n, "u1") for n in (65536, 65537, 10_000_000)]
    assert not any(a.ctypes.data % 64 for a in small)
    assert not any(a.ctypes.data % 4096 for a in large)


def test_zeros_are_zero_where_other_objects_have_been(ray: Any) -> None:
    for n in (100, 3_000, 100_000, 3_000_000) * 3:
        dirty = ray.shared.full(n, 255, "u1")
        del dirty
        assert not ray.shared.zeros(n, "u1").any()


def test_zeros_take_no_memory_until_they_are_written(ray: Any) -> None:
    def shared_pages() -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("RssShmem:")[2].split()[0])

    before = shared_pages()
    array = ray.shared.zeros(50_000_000, "u1")
    array[:1000] = 1
    assert shared_pages() - before < 1000


def test_like_another_array(ray: Any) -> None:
    plain = np.ones((3, 4), "f4", order="F")
    like = ray.shared.empty_like(plain)
    assert (like.dtype, like.shape, like.flags.f_contiguous) == (plain.dtype, (3, 4), True)
    assert ray.shared.empty_like(plain[::2]).flags.c_contiguous
    assert ray.shared.empty_like([1, 2]).dtype == int
    assert ray.shared.empty_like(plain, dtype="i2", order="C", shape=5).shape == (5,)
    assert ray.shared.full(2, 1 + 2j).dtype == complex


REFUSED: list[tuple[Any, type, str]] = [
    (lambda s: s.empty(3, dtype=object), TypeError, "references to objects"),
    (lambda s: s.empty(3, dtype=[("a", object)]), TypeError, "references to objects"),
    (lambda s: s.empty(3, dtype="U"), TypeError, "no size"),
    (lambda s: s.empty(-1), ValueError, "0 or more, not -1"),
    (lambda s: s.empty((2, -3)), ValueError, "0 or more, not -3"),
    (lambda s: s.empty("abc"), TypeError, "whole number"),
    (lambda s: s.empty(2.5), TypeError, "whole number"),
    (lambda s: s.empty((1,) * 65), ValueError, "at most 64"),
    (lambda s: s.empty(1 << 60), ValueError, "makes 9223372036854775808 bytes"),
    (lambda s: s.empty(3, order="X"), ValueError, "order is"),
    (lambda s: s.empty(3, dtype="nonsense"), TypeError, "nonsense"),
    (lambda s: s.empty(1 << 40, dtype="u1"), MemoryError, "an object of 10995116"),
    (lambda s: s.empty(3).resize(5), ValueError, "resize"),
]


def test_what_cannot_be_made(ray: Any) -> None:
    before = used()
    for make, error, words in REFUSED:
        with pytest.raises(error, match=words):
            make(ray.shared)
    assert used() <= before + 65536


def test_the_first_one_begins_a_session() -> None:
    import pyray as ray

    assert not ray.is_initialized()
    assert ray.shared.zeros(2).tolist() == [0, 0]
    assert ray.is_initialized()


# ---- as an ndarray -------------------------------------------------------------------------------


def test_views_are_shared_and_results_are_plain(ray: Any) -> None:
    a = ray.shared.zeros((4, 6))
    kind = ray.shared.SharedArray
    views = [a[1:3], a.T, a[::2, ::-1], a.reshape(-1), a.view("i8"), a[None], a.real, a.ravel()]
    for view in views:
        assert type(view) is kind
        assert np.shares_memory(view, a)
    for made in (
        a + 1, -a, a.copy(), a.astype("f4"), a[[0, 1]], a[a > 3], np.sort(a), np.zeros_like(a),
        a @ a.T, np.concatenate([a, a]), a.sum(axis=0), np.where(a > 0, a, 1), copy.deepcopy(a),
        copy.copy(a), a.imag.copy(), a.flatten(), np.array(a), np.linalg.norm(a, axis=1),
    ):  # fmt: skip
        assert type(made) is np.ndarray
        assert made.flags.writeable
        assert not np.shares_memory(made, a)
    assert type(a.sum()) is np.float64
    assert np.add(a, 1, out=a) is a
    a += 1
    assert type(a) is kind
    assert (a == 2).all()


def test_a_subclass_is_refused(ray: Any) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Mine", (ray.shared.SharedArray,), {})


def test_views_go_and_the_memory_with_the_last(ray: Any) -> None:
    before = used()
    a = ray.shared.zeros(1_000_000)
    part = a[10:20]
    plain = np.asarray(part)
    inner = memoryview(plain)
    del a, part, plain
    gc.collect()
    assert used() - before >= 8_000_000
    assert inner[0] == 0.0
    del inner
    assert used() - before < 1_000_000


# ---- passing them --------------------------------------------------------------------------------


def fill(view: Any, value: Any) -> tuple[str, int]:
    assert view.flags.writeable
    view[...] = value
    return type(view).__name__, view.ndim


VIEWS = {
    "whole": lambda a: a,
    "rows": lambda a: a[1:3],
    "row": lambda a: a[2],
    "column": lambda a: a[:, 1],
    "strided": lambda a: a[::2, 1::2],
    "backwards": lambda a: a[::-1, ::-1],
    "transposed": lambda a: a.T,
    "element": lambda a: a[1:2, 2:3],
    "more dimensions": lambda a: a[None, :, None, 2:4],
    "none": lambda a: a[2:2],
    "plain": lambda a: np.asarray(a)[1:, 2:],
    "plain of a view": lambda a: a[1:].view(np.ndarray)[:, 0],
    "other dtype": lambda a: a.view("i8")[0],
    "read through as_strided": lambda a: np.lib.stride_tricks.as_strided(a, (2, 2), (48, 8)),
}


def test_a_task_writes_where_its_view_looks(ray: Any) -> None:
    write = ray.remote(fill)
    for name, view in VIEWS.items():
        a = ray.shared.zeros((4, 6))
        expected = np.zeros((4, 6))
        view(expected)[...] = 7
        assert ray.get(write.remote(view(a), 7)) == ("SharedArray", view(a).ndim), name
        assert a.tolist() == expected.tolist(), name


class Holder:
    def __init__(self, view: Any) -> None:
        self.view = view


def test_views_anywhere_in_the_arguments(ray: Any) -> None:
    @ray.remote
    def write(first: Any, nested: Any, *rest: Any, named: Any) -> None:
        first[...] = 1
        nested["list"][0][1][...] = 2
        nested["object"].view[...] = 3
        nested["plain"][...] = 4
        for view in rest:
            view[...] = 5
        named[...] = 6

    a = ray.shared.zeros((20, 3))
    nested = {"list": [(None, a[1])], "object": Holder(a[2]), "plain": np.asarray(a[3])}
    ray.get(write.remote(a[0], nested, *a[4:19], named=a[19]))
    assert a[:, 0].tolist() == [1, 2, 3, 4, *[5] * 15, 6]


def test_many_arrays_and_ids_in_one_call(ray: Any) -> None:
    @ray.remote
    def write(*given: Any) -> int:
        for i, one in enumerate(given):
            if isinstance(one, np.ndarray):
                one[...] = i
        return sum(one for one in given if isinstance(one, int))

    arrays = [ray.shared.zeros(3) for _ in range(6)]
    ids = [ray.put(i) for i in range(6)]
    mixed = [x for pair in zip(arrays, ids, strict=True) for x in pair]
    assert ray.get(write.remote(*mixed)) == 15
    assert [a[0] for a in arrays] == [0, 2, 4, 6, 8, 10]
    assert ray.get(write.remote(arrays[0], ids[3], arrays[5])) == 3
    assert (arrays[5][0], arrays[0][0]) == (2, 0)


def test_in_a_task_it_is_the_same_class(ray: Any) -> None:
    @ray.remote
    def look(view: Any) -> Any:
        with pytest.raises(TypeError, match="as an argument"):
            pickle.dumps(view)
        with pytest.raises(ray.exceptions.SharedArrayInUseError, match=r"pid \d+"):
            view.seal()
        return type(view.sum()), type(view + 1), view.sealed

    assert ray.get(look.remote(ray.shared.zeros(4))) == (np.float64, np.ndarray, False)


def test_a_read_only_view_arrives_read_only(ray: Any) -> None:
    a = ray.shared.zeros((4, 4))
    windows = np.lib.stride_tricks.sliding_window_view(a, (2, 2))
    view = a[1]
    view.flags.writeable = False

    @ray.remote
    def writeable(*views: Any, pad: str = "") -> list[bool]:
        return [v.flags.writeable for v in views]

    assert ray.get(writeable.remote(view)) == [False]
    assert ray.get(writeable.remote(view, windows, a, pad="x" * 100)) == [False, False, True]


def test_nested_tasks_pass_it_on(ray: Any) -> None:
    leaf = ray.remote(fill)

    @ray.remote
    def parent(view: Any) -> None:
        ray.get([leaf.remote(view[i], i) for i in range(len(view))])
        ray.get(leaf.remote({"no": 0} and view[0], 10))

    a = ray.shared.zeros((5, 3))
    ray.get(parent.remote(a))
    assert a[:, 1].tolist() == [10, 1, 2, 3, 4]


def test_an_actor_keeps_it(ray: Any) -> None:
    @ray.remote
    class Writer:
        def __init__(self, view: Any) -> None:
            self.view = view

        def write(self, value: float, other: Any = None) -> None:
            self.view[...] = value
            if other is not None:
                other[...] = value

        def drop(self) -> None:
            self.view = None

    a = ray.shared.zeros((4, 2))
    writer = Writer.remote(a[1:3])
    ray.get(writer.write.remote(5, a[0]))
    assert a[:, 0].tolist() == [5, 5, 5, 0]
    with pytest.raises(ray.exceptions.SharedArrayInUseError, match="an actor in pid"):
        a.seal()
    ray.get(writer.drop.remote())
    assert ray.get(a.seal())[0, 0] == 5


def test_it_outlives_its_maker_where_a_task_has_it(ray: Any, gate: Gate) -> None:
    @ray.remote
    def late(view: Any, gate: Gate) -> float:
        gate.wait()
        view += 1
        return float(view.sum())

    a = ray.shared.zeros(100_000)
    ref = late.remote(a[:10], gate)
    before = used()
    del a
    gc.collect()
    assert used() >= before
    gate.open()
    assert ray.get(ref) == 10
    wait_until(lambda: used() < before, what="the array's end")


def test_a_thousand_views_are_not_copied(ray: Any) -> None:
    @ray.remote
    def mark(view: Any, i: int) -> None:
        view[0] = i

    a = ray.shared.zeros((1000, 100_000), "u1")
    a[:] = 0
    before = used()
    refs = [mark.remote(a[i], i % 251) for i in range(1000)]
    assert used() - before < 1_000_000
    ray.get(refs)
    assert a[:, 0].tolist() == [i % 251 for i in range(1000)]


def test_what_a_worker_has_looked_into_it_does_not_keep(ray1: Any) -> None:
    """It remembers the arrays that it had last, and no more than that: others come to lie there."""

    @ray1.remote
    def double(view: Any) -> int:
        view *= 2
        again = np.lib.stride_tricks.as_strided(view, view.shape, view.strides)
        assert np.shares_memory(view, again)
        return os.getpid()

    @ray1.remote
    def total(array: Any) -> float:
        return float(array.sum())

    before = used()
    for step in range(1, 6):
        arrays = [ray1.shared.full(100_000, i * step, "f8") for i in range(6)]
        assert len({*ray1.get([double.remote(a[i:]) for a in arrays for i in range(2)])}) == 1
        refs = [a.seal(timeout=0) for a in arrays[::2]]
        assert [a[0] for a in arrays] == [2 * i * step for i in range(6)]
        # Sealed, they come as plain read-only arrays, to a worker that has had them open.
        assert ray1.get([total.remote(ref) for ref in refs]) == [
            (4 * 100_000 - 2) * i * step for i in (0, 2, 4)
        ]
        del arrays, refs
        wait_until(lambda: used() - before < 100_000, 10, "the arrays' memory to come back")


def test_from_many_threads(ray: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    write = ray.remote(fill)
    a = ray.shared.zeros((8, 50))
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda i: ray.get([write.remote(a[i, j : j + 1], i) for j in range(50)]), range(8)
            )
        )
    assert a.tolist() == [[i] * 50 for i in range(8)]
    a.seal()


# ---- sealing -------------------------------------------------------------------------------------


def test_sealing_makes_an_object_of_it(ray: Any) -> None:
    a = ray.shared.zeros((300, 400))
    views = [a[1], a.T, a[::2]]
    a[0, 0] = 3
    address = a.ctypes.data
    ref = a.seal()
    assert a.sealed
    assert ray.put(a) == ref == a.seal()
    for view in (a, *views, a[2:]):
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    value = ray.get(ref)
    assert type(value) is np.ndarray
    assert value[0, 0] == 3
    assert not value.flags.writeable
    assert a.ctypes.data == address
    reader = pa.ipc.open_stream(ray.arrow_stream(ref))
    assert reader.read_next_batch().num_rows > 0
    a_stream = ray.arrow_stream(ref)
    assert len(a_stream) > a.nbytes
    del a, views, view, value
    assert ray.get(ref)[0, 0] == 3


def test_sealing_copies_nothing(ray: Any) -> None:
    a = ray.shared.full(10_000_000, 1, "u1")
    before = used()
    ref = ray.put(a)
    assert used() == before
    value = ray.get(ref)
    assert used() == before
    assert value.sum() == 10_000_000


EXPORTS: list[Any] = [
    memoryview,
    np.asarray,
    np.frombuffer,
    lambda a: a[2:].view(np.ndarray),
    lambda a: memoryview(a[1:]),
    lambda a: memoryview(np.asarray(a)),
    np.from_dlpack,
    lambda a: a.view(np.recarray),
    lambda a: np.lib.stride_tricks.as_strided(a, (2,), (8,)),
]


def test_no_sealing_while_something_else_could_write(ray: Any) -> None:
    for i, export in enumerate(EXPORTS):
        a = ray.shared.zeros(8)
        other = export(a)
        with pytest.raises(BufferError, match="drop or copy them first"):
            a.seal()
        with pytest.raises(BufferError):
            ray.put(a)
        other[0] = 4
        assert a.max() == 4, i
        del other
        assert ray.get(a.seal()).max() == 4


def test_rows_of_a_structured_array_are_seen(ray: Any) -> None:
    a = ray.shared.zeros(3, "i4,f8")
    for row in (a[1], next(iter(a)), a[-1:][0]):
        with pytest.raises(BufferError, match="drop or copy"):
            a.seal()
        row["f0"] += 5
        del row
    assert a["f0"].tolist() == [5, 5, 5]
    assert ray.get(a.seal())["f0"].tolist() == [5, 5, 5]


def test_a_view_in_a_cycle_is_found(ray: Any) -> None:
    @ray.remote
    def tangle(view: Any) -> None:
        loop = [view]
        loop.append(loop)

    a = ray.shared.zeros(3)
    tangled = [a[1:]]
    tangled.append(tangled)
    plain = [np.asarray(a)]
    plain.append(plain)
    del tangled, plain
    ray.get([tangle.remote(a[i:]) for i in range(3)])
    gc.collect()
    a.seal(timeout=20)


def test_only_the_whole_can_be_sealed(ray: Any) -> None:
    a = ray.shared.zeros((4, 4))
    for part in (a[1:], a.T[:, :3], a.reshape(-1), a.view("i8")):
        with pytest.raises(ValueError, match="whole"):
            part.seal()
    assert not a.sealed
    a[:].seal()
    assert a.sealed


def test_no_sealing_while_a_task_has_it(ray: Any, gate: Gate) -> None:
    @ray.remote
    def slow(view: Any, gate: Gate, pad: str = "") -> int:
        gate.wait()
        view[0] = 1
        return os.getpid()

    a = ray.shared.zeros(4)
    refs = [slow.remote(a[1:], gate), slow.remote(a[2:], gate, pad="x" * 100)]
    refs += [slow.remote(a, gate) for _ in range(5)]
    error = ray.exceptions.SharedArrayInUseError
    with pytest.raises(error, match=r"slow.* pid \d+.*more tasks.*seal\(timeout="):
        a.seal()
    with pytest.raises(error, match=r"after 0\.2 s"):
        a.seal(timeout=0.2)
    assert a.flags.writeable
    gate.open()
    ref = a.seal(timeout=None)
    assert ray.get(ref).tolist() == [1, 1, 1, 0]
    ray.get(refs)


def test_sealing_right_after_get(ray: Any) -> None:
    write = ray.remote(fill)
    for i in range(200):
        a = ray.shared.zeros((2, 3))
        ray.get([write.remote(a[0], i), write.remote([a[1]][0], i)])
        assert ray.get(ray.put(a)).sum() == 6 * i


def test_sealing_does_not_wait_for_what_a_process_does_next(ray: Any, gate: Gate) -> None:
    write = ray.remote(fill)

    @ray.remote
    class Busy:
        def spread(self, view: Any) -> None:
            ray.get([write.remote(view[i], i) for i in range(len(view))])

        def think(self, gate: Gate) -> None:
            gate.wait()

    busy = Busy.remote()
    a = ray.shared.zeros((3, 2))
    ray.get(busy.spread.remote(a))
    thinking = busy.think.remote(gate)
    assert ray.get(a.seal()).sum() == 6
    gate.open()
    ray.get(thinking)


def test_sealing_in_a_task_waits_without_its_cpu(ray1: Any) -> None:
    """The tasks that it waits for need the only CPU."""
    ray = ray1
    write = ray.remote(fill)

    @ray.remote
    def parent() -> Any:
        a = ray.shared.zeros((3, 2))
        refs = [write.remote(a[i], i) for i in range(3)]
        ref = a.seal(timeout=20)
        return ray.get(ref).sum(), len(refs)

    assert ray.get(parent.remote()) == (6, 3)


def test_a_bad_timeout(ray: Any) -> None:
    assert ray.shared.zeros(1).seal(timeout=float("inf"))
    for timeout in (-1, "1", True, float("nan")):
        with pytest.raises((TypeError, ValueError), match="timeout is a number"):
            ray.shared.zeros(1).seal(timeout=timeout)


def test_a_sealed_array_is_passed_on_read_only(ray: Any) -> None:
    @ray.remote
    def look(view: Any, id_: Any) -> Any:
        return view.flags.writeable, type(view), view.tolist(), id_.tolist()

    a = ray.shared.full((3, 2), 5)
    ref = a.seal()
    assert ray.get(look.remote(a[1:], ref)) == (False, np.ndarray, [[5, 5]] * 2, [[5, 5]] * 3)


def test_a_writable_alias_of_a_sealed_array_is_refused(ray: Any) -> None:
    a = ray.shared.zeros(4)
    # Made of the bare address: nothing can see it at the seal.
    alias = np.frombuffer((ctypes.c_char * 32).from_address(a.ctypes.data), float)
    a.seal()
    with pytest.raises(ray.exceptions.SerializationError, match="overlaps a shared array"):
        ray.remote(fill).remote(alias, 1)
    with pytest.raises(ray.exceptions.SerializationError, match="overlaps a shared array"):
        ray.remote(fill).remote([alias], "x" * 100)


# ---- as values -----------------------------------------------------------------------------------


def test_a_task_returns_what_it_has_made_without_a_copy(ray: Any) -> None:
    @ray.remote
    def make(n: int) -> Any:
        out = ray.shared.empty(n)
        np.multiply(np.arange(n), 2, out=out)
        return out

    @ray.remote
    def total(value: Any) -> float:
        return float(value.sum())

    before = used()
    ref = make.remote(1_000_000)
    value = ray.get(ref)
    assert 8_000_000 <= used() - before < 9_000_000
    assert type(value) is np.ndarray
    assert not value.flags.writeable
    assert value[-1] == 1_999_998
    assert ray.get(total.remote(ref)) == value.sum()
    assert len(ray.arrow_stream(ref)) > 8_000_000
    del ref, value
    wait_until(lambda: used() - before < 1_000_000, what="the array's end")


def test_several_returns_generators_and_actors(ray: Any) -> None:
    @ray.remote(num_returns=2)
    def two() -> Any:
        return ray.shared.full(3, 1), ray.shared.full(3, 2)

    @ray.remote
    def many() -> Any:
        for i in range(3):
            yield ray.shared.full(2, i)

    @ray.remote(num_returns="dynamic")
    def dynamic() -> Any:
        yield ray.shared.full(2, 7)

    @ray.remote
    class Maker:
        def __init__(self) -> None:
            self.kept = ray.shared.zeros(2)

        def fresh(self) -> Any:
            return ray.shared.full(2, 4)

        def state(self, value: float) -> Any:
            self.kept += value
            return self.kept

    assert [a.tolist() for a in ray.get(two.remote())] == [[1] * 3, [2] * 3]
    assert [ray.get(ref).tolist() for ref in many.remote()] == [[0, 0], [1, 1], [2, 2]]
    assert [ray.get(r).tolist() for r in ray.get(dynamic.remote())] == [[7, 7]]
    maker = Maker.remote()
    assert ray.get(maker.fresh.remote()).tolist() == [4, 4]
    # What an earlier call made is the actor's state: copied, and still to be written to.
    first, second = ray.get([maker.state.remote(1), maker.state.remote(2)])
    assert (first.tolist(), second.tolist()) == ([1, 1], [3, 3])


def test_a_result_that_others_still_write_to_is_an_error(ray: Any, gate: Gate) -> None:
    @ray.remote
    def late(view: Any, gate: Gate) -> None:
        gate.wait()

    @ray.remote(max_retries=0)
    def hasty(gate: Gate) -> Any:
        out = ray.shared.zeros(3)
        late.remote(out, gate)
        return out

    with pytest.raises(ray.exceptions.SharedArrayInUseError, match="late"):
        ray.get(hasty.remote(gate))
    gate.open()


def test_an_argument_that_is_returned_is_copied(ray: Any) -> None:
    @ray.remote
    def back(view: Any) -> Any:
        view[0] = 1
        return view

    a = ray.shared.zeros(3)
    value = ray.get(back.remote(a))
    a[0] = 9
    assert value.tolist() == [1, 0, 0]


def test_objects_hold_copies_of_what_is_open_and_refer_to_what_is_sealed(ray: Any) -> None:
    a = ray.shared.zeros(100_000)
    ref = ray.put({"whole": a, "part": a[1:3], "object": Holder(a[:2]), "plain": np.asarray(a[:3])})
    a[:] = 1
    value = ray.get(ref)
    assert not value["whole"].any()
    assert not value["part"].any()
    assert not value["object"].view.any()
    assert type(value["object"].view) is np.ndarray
    a.seal()
    before = used()
    refs = [ray.put([a]), ray.put({"in": Holder(a)})]
    assert used() - before < 100_000
    assert ray.get(refs[0])[0].all()
    assert ray.get(refs[1])["in"].view.all()
    del a
    gc.collect()
    assert ray.get(refs[0])[0].all()
    part = ray.get(ray.put(ray.get(refs[0])[0][5:8]))
    assert part.tolist() == [1, 1, 1]


def test_copy_on_write_of_what_was_shared(ray: Any) -> None:
    @ray.remote
    def make() -> Any:
        return ray.shared.full(100_000, 1)

    @ray.remote(writable=True)
    def write(view: Any, pad: str = "") -> float:
        view[0] = 7
        return float(view.sum())

    a = ray.shared.full(100_000, 1)
    small = ray.shared.full(10, 1)
    assert ray.get(write.remote(a[1:])) == 100_005  # open: in place
    assert a[1] == 7
    a[1] = 1
    refs = [a.seal(), ray.put([a]), make.remote(), ray.put({"in": Holder(a)}), small.seal()]
    for ref in refs[:3]:
        value = ray.get(ref, writable=True)
        value = value[0] if isinstance(value, list) else value
        value[5] = 3
        assert value.sum() == 100_002
    held = ray.get(refs[3], writable=True)["in"].view
    held[0] = 2
    assert held.sum() == 100_001
    assert ray.get(write.remote(refs[2])) == 100_006
    assert ray.get(write.remote(a[1:], pad="x" * 100)) == 100_005
    assert ray.get(write.remote(a[1:])) == 100_005
    assert ray.get(write.remote(small)) == 16
    assert a.sum() == ray.get(refs[0]).sum() == ray.get(refs[2]).sum() == 100_000
    assert small.sum() == 10


# ---- where it may not go -------------------------------------------------------------------------


def test_pickle_refuses_an_open_one(ray: Any) -> None:
    a = ray.shared.zeros(3)
    for protocol in range(6):
        with pytest.raises(TypeError, match="as an argument"):
            pickle.dumps(a, protocol)
    a.seal()
    again = pickle.loads(pickle.dumps(a))
    assert type(again) is np.ndarray
    assert again.tolist() == [0, 0, 0]


def test_a_process_outside_of_the_session_is_refused(ray: Any) -> None:
    import multiprocessing

    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, pytest.raises(TypeError, match="as an argument"):
        ours.send(ray.shared.zeros(3))


def test_a_closure_cannot_capture_an_open_one(ray: Any) -> None:
    a = ray.shared.zeros(3)

    @ray.remote
    def captures() -> None:
        a[0] = 1

    with pytest.raises(ray.exceptions.SerializationError, match="as an argument"):
        captures.remote()


def test_after_the_session(ray: Any) -> None:
    a = ray.shared.full((2, 3), 4)
    sealed = ray.shared.full(3, 5)
    sealed.seal()
    row = a[1]
    ray.shutdown()
    with pytest.raises(ray.exceptions.SessionError, match="has been shut down"):
        a.seal()
    row += 1
    assert a.tolist() == [[4] * 3, [5] * 3]
    assert sealed.tolist() == [5, 5, 5]
    ray.init(num_cpus=1)
    with pytest.raises(ray.exceptions.SerializationError, match="has been shut down"):
        ray.remote(fill).remote(a, 1)
    with pytest.raises(ray.exceptions.SessionError, match="has been shut down"):
        a.seal()
    assert ray.get(ray.put(a)).tolist() == a.tolist()
    assert ray.get(ray.put([row]))[0].tolist() == [5, 5, 5]


def test_handles_that_later_sessions_use_again(ray: Any) -> None:
    old = [ray.shared.full(10, 1) for _ in range(300)]
    ray.shutdown()
    ray.init(num_cpus=1)
    refs = []
    for i in range(300):
        a = ray.shared.full(10, i)
        a.seal()
        refs.append(ray.put([a]))
    del a
    values = [ray.get(ref)[0] for ref in refs]
    del refs
    gc.collect()
    new = [ray.shared.full(10, -1) for _ in range(300)]
    assert all((value == i).all() for i, value in enumerate(values))
    ray.get([ray.remote(fill).remote(a, 2) for a in new])
    assert all((a == 2).all() for a in new)
    assert all((a == 1).all() for a in old)


def test_in_local_mode() -> None:
    import pyray as ray

    ray.init(local_mode=True)

    @ray.remote
    def add(view: Any) -> Any:
        view += 1
        return view

    mine = ray.shared.zeros(3)
    copied = ray.get(add.remote(mine))
    ray.get(add.options(writable=True).remote(mine))
    assert (mine.tolist(), copied.tolist(), mine.sealed) == ([2] * 3, [1] * 3, False)
    a = ray.shared.zeros((2, 2))
    ray.get(ray.remote(fill).remote(a[1], 3))
    assert a.tolist() == [[0, 0], [3, 3]]

    @ray.remote
    def make() -> Any:
        out = ray.shared.zeros(2)
        out[0] = 1
        return out

    value = ray.get(make.remote())
    assert (type(value), value.tolist(), value.flags.writeable) == (np.ndarray, [1, 0], False)
    assert ray.get(a.seal()).tolist() == [[0, 0], [3, 3]]


def test_a_forked_child_has_the_pages_as_they_were(ray: Any) -> None:
    """It holds nothing: what it writes must not get into what lies there later."""
    a = ray.shared.full(1_000_000, 4)
    begun, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            right = a[5] == 4
            os.write(begun[1], b"x")
            os.read(go[0], 1)
            a[:] = 8
            try:
                a.seal()
            except ray.exceptions.SessionError:
                code = 0 if right and a[7] == 8 else 2
        finally:
            os._exit(code)
    os.read(begun[0], 1)
    del a
    refs = [ray.put(np.full(500_000, i)) for i in range(10)]
    b = ray.shared.full(1_000_000, 3)
    os.write(go[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (*begun, *go):
        os.close(fd)
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))
    assert (b == 3).all()


def test_views_of_other_classes_are_refused(ray: Any) -> None:
    a = ray.shared.zeros((2, 2))
    matrix = a.view(np.matrix)
    for other in (matrix, np.ma.array(a, copy=False), [np.ma.array(a, copy=False)]):
        with pytest.raises(ray.exceptions.SerializationError, match=r"pass numpy\.asarray"):
            ray.remote(fill).remote(other, 1)
    del matrix, other
    gc.collect()
    a.seal()
